"""Episodes that another engine samples: the same ids, masks, turns and rewards as ours, for the same messages."""
import asyncio
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from conftest import script
from test_rollout import MESSAGES, K

import ap.tools.elsewhere
from ap.files import UserError, read_jsonl
from ap.judge.judge import Judge
from ap.tools.elsewhere import Host, host_of, main, needs
from ap.world.chat import stop_ids, written_ids
from ap.world.rollout import Start, play_script

ROOT = Path(__file__).parent.parent
INTEGRATIONS = sorted((ROOT / "integrations").glob("*/*.py"))
house = script(ROOT / "bench" / "house.py")


@pytest.fixture(scope="module")
def host(tiny):
    with (host := Host(str(tiny.folder))).run:
        yield host


def texts_of(messages):
    """A stand-in for an engine that gives text: the messages, one after the other."""
    left = iter(messages)

    async def write(recorder):
        text = next(left)
        recorder.conversation.append(written_ids(recorder.tokenizer, text), mask=1)
        recorder.conversation.stopped = "stop"
        return text
    return write


def test_the_same_episode_as_a_scripted_one(host, tiny):
    """Also when the text is decoded from the ids."""
    start = Start(K, key="0/1")
    messages = [text for text, *_ in MESSAGES]
    left = iter(messages)
    ours = play_script(host.run.env, host.run.tokenizer, start, lambda episode: next(left))
    Judge(host.run.committee, host.run.fixed_prober, host.run.tokenizer, tiny).judge(ours, host.run.known)
    theirs = asyncio.run(host.play(start, texts_of(messages), tiny.max_tokens))
    assert theirs == ours and len(ours.turns) == len(messages) and ours.reward > 0

    async def without_text(recorder, write=texts_of(messages)):
        await write(recorder)
    assert asyncio.run(host.play(start, without_text, tiny.max_tokens)) == ours


def test_a_message_that_was_cut_ends_the_episode(host, tiny):
    async def write(recorder):
        recorder.conversation.append([5, 6, 7], mask=1)
        recorder.conversation.stopped = "length"
    found = asyncio.run(host.play(Start(host.starts(1)[0]), write, tiny.max_tokens))
    assert found.outcome == "token_limit" and found.reward == 0
    assert [(turn.action, turn.end - turn.start) for turn in found.turns] == [("unusable", 3)]


def test_the_limit_of_tokens(host, tiny):
    """The reply that leaves no room for another token is not appended, as in our engine."""
    start = Start(K)
    messages = [text for text, *_ in MESSAGES]
    whole = asyncio.run(host.play(start, texts_of(messages), tiny.max_tokens))
    limit = whole.turns[2].start  # where the third message would begin
    cut = asyncio.run(host.play(start, texts_of(messages), limit))
    assert cut.outcome == "token_limit" and len(cut.turns) == 2 and cut.ids == whole.ids[:whole.turns[1].end]
    assert cut.ids[-1] in stop_ids(host.run.tokenizer)
    with pytest.raises(UserError, match="the prompt has [0-9]+ tokens and an episode may have 9; allow more tokens."):
        asyncio.run(host.play(start, texts_of(messages), 9))


def test_the_skill_sets(host):
    drawn = host.starts(20)
    assert host.starts(20) == drawn and len(set(drawn)) > 5
    held_out = host.starts(5, held_out=True)
    assert len(held_out) == 5 and not {frozenset(s) for s in drawn} & {frozenset(s) for s in held_out}


def test_a_folder_that_has_moved_and_one_that_is_no_run(tiny, tmp_path, monkeypatch):
    shutil.copytree(tiny.folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    host = host_of("moved")
    with host.run:
        assert host is host_of("moved") and host.config.folder == tmp_path / "moved" and host.run.library
    with pytest.raises(UserError, match="config.json"):
        host_of(str(tmp_path / "none"))


def test_the_skill_sets_as_a_file(tiny, tmp_path, capsys):
    main([str(tiny.folder), "--rows", "3", "--out", str(tmp_path / "starts.jsonl")])
    rows = read_jsonl(tmp_path / "starts.jsonl")
    assert [row["extra_info"]["index"] for row in rows] == [0, 1, 2] and "3 skill sets" in capsys.readouterr().out
    assert rows[0]["extra_info"]["run"] == str(tiny.folder) and "stage: draft" in rows[0]["prompt"][1]["content"]


def test_a_package_that_is_missing_or_another_version():
    with pytest.raises(UserError, match="no-such-engine is not installed; pip install no-such-engine==1.0, in an env"):
        needs("no-such-engine", "1.0")
    with pytest.raises(UserError, match="and what was tried is 0.1; pip install pytest==0.1."):
        needs("pytest", "0.1")


@pytest.mark.parametrize("path", INTEGRATIONS, ids=lambda path: path.parent.name)
def test_an_integration_whose_engine_is_missing_or_another_version_says_so(path, monkeypatch):
    """Before it imports anything of the engine, whether or not that is installed here."""
    def none(package):
        raise PackageNotFoundError(package)

    engine = path.parent.name
    for found, told in ((none, "is not installed"), (lambda package: "0.0.1", "0.0.1 is installed, and what was tried")):
        monkeypatch.setattr(ap.tools.elsewhere, "version", found)
        with pytest.raises(UserError, match=f"^{engine} {told}.*pip install {engine}==[0-9.]+"):
            script(path)
    assert len(INTEGRATIONS) == 4 and house.code_lines(path) <= 150
