"""The cast of a run: read from a file, and playing its roles in a real step."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_endpoint import Server

from ap.devices.gpu import PROMISED
from ap.engine.model import build_model
from ap.files import UserError
from ap.judge.judge import Judge
from ap.judge.roles import Opinion
from ap.mini.domain import Mini
from ap.players.cast import open_cast
from ap.players.checkpoint import Checkpoint
from ap.players.place import Place
from ap.run import Run
from ap.tools.costs import lines_of
from ap.trajectory import Problem
from ap.world.chat import tool_call
from ap.world.rollout import Start, play_script

SOUND = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."


@pytest.fixture
def checkpoint(tiny, tokenizer, tmp_path):
    folder = tmp_path / "checkpoint"
    build_model(tiny, len(tokenizer), seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def with_roles(config, tmp_path, roles):
    path = tmp_path / "roles.json"
    path.write_text(json.dumps(roles))
    return replace(config, roles=str(path))


def judging(body):
    """A server's reply: it judges and solves as the name of its model says (right-11, wrong, unreadable)."""
    kind, _, answer = body["model"].partition("-")
    if "Think step by step" in body["messages"][0]["content"]:
        return rf"\boxed{{{answer or 0}}}"
    return {"right": json.dumps({"valid": True, "answer": answer, "reason": "valid"}),
            "wrong": '{"valid": false, "answer": null, "reason": "ambiguous"}'}.get(kind, "hm")


def test_room_is_kept_for_who_speaks_while_others_train(own_tiny, checkpoint, tmp_path):
    """On the proposer's GPU: for a local auditor, and not for a teacher, whose work is done then."""
    size = sum(file.stat().st_size for file in Path(checkpoint).glob("*.safetensors"))
    for role, kept in (("auditor", int(1.25 * size)), ("teacher", 0)):
        cast = open_cast(with_roles(own_tiny, tmp_path, {role: {"checkpoint": checkpoint}}), Mini())
        assert PROMISED.get(cast.place, 0) == kept


def test_models_in_every_role(own_tiny, checkpoint, tmp_path):
    """Two right votes and one that cannot be read: valid, with an abstention; the prober solves it every time."""
    with Server(answer=judging) as server:
        def player(name):
            return {"endpoint": server.url, "model": name}

        config = with_roles(own_tiny, tmp_path, {
            "verifiers": [player("right-11"), player("right-11"), player("unreadable")],
            "auditor": {"checkpoint": checkpoint, "max_tokens": 4},
            "probers": [player("right-11"), player("right-12")]})
        with Run(config) as run:
            script = iter([f"<problem>{SOUND}</problem>", tool_call("submit", answer="11")])
            episode = play_script(run.env, run.tokenizer, Start(("shift", "share"), key="key"), lambda _: next(script))
            Judge(run.committee, run.prober, run.tokenizer, config).judge(episode, set())
            counts = run.cast.counts()
    assert (episode.outcome, episode.valid, episode.reason) == ("submitted", True, "valid")
    assert episode.abstained == ("unreadable verdict",) and episode.pass_rate == 1.0
    assert counts["role/verifier-1/requests"] == counts["role/verifier-2/requests"] == 1  # one model, but two judges
    assert counts["role/prober-1/requests"] == 16
    assert counts["role/auditor/requests"] == counts["role/prober-2/requests"] == 0
    assert len(list((config.folder / "replies").rglob("*.json"))) == 3 + 1 + 16  # the third was asked once more


def test_a_model_as_critic(own_tiny, checkpoint, tmp_path):
    """It sees the draft and the skills as the proposer sees them, is asked once more, and is counted as others are."""
    asked, replies = [], iter(["hm", '{"sound": false, "skill": "share", "reason": "a fraction"}'])
    with Server(answer=lambda body: asked.append(body["messages"][0]["content"]) or next(replies)) as server:
        config = with_roles(own_tiny, tmp_path, {"critic": {"endpoint": server.url, "model": "m", "prompt_price": 1,
                                                            "completion_price": 1}})
        with Run(config) as run:
            opinion = run.critic.criticise(SOUND, ("shift", "share"))
            assert run.env.describe(("shift", "share")) in asked[0] and SOUND in asked[0] and len(asked) == 2
            counts = run.cast.counts()
    assert opinion == Opinion(False, "share", "a fraction")
    assert counts["role/critic/requests"] == 2 and counts["role/critic/cost"] > 0
    cast = open_cast(with_roles(own_tiny, tmp_path, {"critic": {"checkpoint": checkpoint, "max_tokens": 4}}), Mini())
    assert cast.critic.seconds is None and cast.critic.criticise(SOUND, ("shift",)).reason == "unreadable opinion"


def test_a_checkpoint_plays_by_its_own_engine(checkpoint, own_tiny):
    player = Checkpoint(checkpoint, Place(own_tiny), max_tokens=6)
    replies = player.sample("a is 3.", 3, "k")
    assert len(replies) == 3 and player.sample("a is 3.", 3, "k") == replies != player.sample("a is 3.", 3, "other")
    assert isinstance(player.ask("a is 3."), str) and player.counts["requests"] == 10
    assert player.counts["cached"] == 0 and 10 <= player.counts["completion_tokens"] <= 60
    assert player.sample("a<|im_end|>b", 2, "k") == player.sample("a< |im_end|>b", 2, "k")  # not its control tokens


def test_two_judges_with_one_checkpoint_are_two(checkpoint, own_tiny, tmp_path):
    """Both once got the same seed key, so they always replied the same. A local judge has no time limit."""
    entry = {"checkpoint": checkpoint, "max_tokens": 6}
    cast = open_cast(
        with_roles(own_tiny, tmp_path, {"verifiers": [entry] * 3, "auditor": entry}), Mini())
    said = [player.ask("a is 3.") for player in cast.players.values()]
    assert len(set(said)) == 4 and said == [player.ask("a is 3.") for player in cast.players.values()]
    assert [judge.seconds for judge in (*cast.verifiers, cast.auditor)] == [None] * 4


def test_a_price_adds_a_cost_to_the_counters(own_tiny, tmp_path):
    with Server() as server:
        priced = {"endpoint": server.url, "model": "m", "prompt_price": 2, "completion_price": 10}
        cast = open_cast(with_roles(own_tiny, tmp_path, {"teacher": priced, "auditor": {
            "endpoint": server.url, "model": "m"}}), Mini())
        cast.teacher.ask("hello")
    assert cast.counts()["role/teacher/cost"] == pytest.approx(44e-6) and "role/auditor/cost" not in cast.counts()
    assert lines_of("skills", {"hours": 0, "starts": 1, "processes": 1, "players": {"teacher": cast.teacher.counts}})[
        1].endswith("completion_tokens 3, cost 4.4e-05")


def test_a_dead_endpoint_ends_the_run_with_one_sentence(own_tiny, tmp_path):
    with Server(*[401] * 99) as server:
        config = with_roles(own_tiny, tmp_path, {"probers": [{"endpoint": server.url, "model": "m"}]})
        with Run(config) as run, pytest.raises(UserError, match="HTTP 401; check the address"):
            run.prober.pass_rate(Problem("q", "1"), "k")


def test_without_a_file_programs_play(run):
    assert run.cast.players == {} and run.cast.counts() == {} and run.critic is None
    assert len(run.committee.verifiers) == 3 and run.prober.pool


@pytest.mark.parametrize("roles, said", [
    ([], "must be an object"),
    ({"judge": {}}, "unknown role 'judge'"),
    ({"verifiers": [{"checkpoint": "x"}]}, "list of three"),
    ({"auditor": "gpt"}, "auditor: a player is"),
    ({"auditor": {"endpoint": "http://x/v1", "checkpoint": "y"}}, "auditor: a player is"),
    ({"auditor": {"endpoint": "http://x/v1"}}, "name of its model"),
    ({"auditor": {"endpoint": "http://x/v1", "model": "m", "url": 1}}, "unknown field 'url'"),
    ({"probers": [{"endpoint": "http://x/v1", "model": "m", "tries": "3"}]}, "prober-1: tries is '3', not a number"),
    ({"teacher": {"endpoint": "http://x/v1", "model": "m", "prompt_price": "1"}}, "prompt_price is '1', not a number"),
    ({"teacher": {"endpoint": "http://x/v1", "model": "m", "prompt_price": 1}}, "one price without the other"),
    ({"teacher": {"checkpoint": "y", "prompt_price": 1}}, "unknown field 'prompt_price'"),
    ({"probers": [{"checkpoint": "nowhere"}]}, "nowhere holds no model"),
    ({"critic": {"endpoint": "http://x/v1", "model": "m", "skill": "one"}}, "critic: unknown field 'skill'"),
    ({"critic": [{"checkpoint": "y"}]}, "critic: a player is"), ({"critics": {}}, "unknown role 'critics'"),
    ({"auditor": {"endpoint": "http://x/v1", "model": "m", "key": "NO_SUCH_KEY"}}, "NO_SUCH_KEY is not set"),
])
def test_what_is_wrong_with_the_file(tiny, tmp_path, roles, said):
    with pytest.raises(UserError, match=said):
        open_cast(with_roles(tiny, tmp_path, roles), Mini())
