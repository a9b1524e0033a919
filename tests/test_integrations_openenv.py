"""integrations/openenv over its WebSocket server: the episodes and rewards are ours. Skipped without openenv 0.10.0."""
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import pytest

openenv = pytest.importorskip("openenv")
if version("openenv") != "0.10.0":
    pytest.skip(f"needs openenv==0.10.0, found {version('openenv')}", allow_module_level=True)

import uvicorn  # noqa: E402
from conftest import free_port  # noqa: E402
from openenv.core import GenericEnvClient  # noqa: E402
from test_rollout import MESSAGES, K  # noqa: E402

from ap.judge.judge import Judge  # noqa: E402
from ap.tools.elsewhere import host_of  # noqa: E402
from ap.world.chat import prompt_ids, tool_call  # noqa: E402
from ap.world.rollout import Start, play_script  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "integrations" / "openenv"))
import ap_openenv  # noqa: E402

FAULTY = [text for text, *_ in MESSAGES[:2]] + [tool_call("submit", answer="3")]


@pytest.fixture(scope="module")
def url(tiny):
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(ap_openenv.app_of(str(tiny.folder)), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    host_of(str(tiny.folder)).run.__exit__()
    host_of.cache_clear()


@pytest.fixture
def session(url):
    with GenericEnvClient(base_url=url).sync() as session:
        yield session


def ours_of(run, tokenizer, tiny, messages, key):
    """The same messages in our own rollout, judged as run_mgpo.py judges."""
    left = iter(messages)
    ours = play_script(run.env, tokenizer, Start(K, key=key), lambda episode: next(left), tiny.max_tokens)
    Judge(run.committee, run.fixed_prober, tokenizer, tiny).judge(ours, run.known)
    return ours


@pytest.mark.parametrize("messages", [[text for text, *_ in MESSAGES], FAULTY], ids=["whole", "faulty"])
def test_an_episode_over_the_socket(session, run, tokenizer, tiny, messages):
    """Reset, a step for each message, state: replies, stages, r_proc of each step and r_T at the end are ours."""
    ours = ours_of(run, tokenizer, tiny, messages, "openenv/7")
    first = session.reset(seed=7, episode_id="one", skills=list(K))
    assert first.observation["messages"] == run.env.messages(K) and not first.done and first.reward is None
    assert [tool["function"]["name"] for tool in first.metadata["tools"]] == run.env.tools
    assert first.metadata["room"] == tiny.max_tokens - len(prompt_ids(tokenizer, run.env.messages(K), run.env.tools))
    for number, (text, turn) in enumerate(zip(messages, ours.turns, strict=True)):
        assert session.state()["step_count"] == number and session.state()["status"] == "running"
        seen = session.step({"text": text})
        assert (seen.metadata["action"], seen.metadata["stage"]) == (
            turn.action, ("draft", "check", "refine", "finalize")[turn.stage])
        if number < len(messages) - 1:
            content, to_tool = MESSAGES[number][2]
            assert seen.observation["messages"] == [{"role": "tool" if to_tool else "user", "content": content}]
            assert (seen.reward, seen.done) == (turn.process_reward, False)
            assert seen.metadata["room"] == tiny.max_tokens - ours.turns[number + 1].start
    assert (seen.reward, seen.done, seen.observation["messages"]) == (ours.reward, True, [])
    assert seen.metadata["process_rewards"] == [turn.process_reward for turn in ours.turns]
    assert seen.metadata["stages"] == [turn.stage for turn in ours.turns]
    assert (seen.metadata["status"], seen.metadata["valid"], seen.metadata["pass_rate"], seen.metadata["reason"]) == (
        ours.outcome, ours.valid, ours.pass_rate, ours.reason)
    assert session.state() == {"episode_id": "one", "step_count": len(messages), "status": "submitted",
                               "skills": list(K), "stage": seen.metadata["stage"]}
    assert ours.valid == (messages is not FAULTY) and len({turn.process_reward for turn in ours.turns}) > 1


def test_two_sessions_and_a_second_episode(session, url, run):
    """Sessions do not see each other, the same seed draws the same skills, and an episode may follow another."""
    drawn = [tuple(session.reset(seed=seed).observation["messages"][1]["content"].splitlines()) for seed in range(6)]
    assert len(set(drawn)) > 2
    session.reset(skills=list(K))
    with GenericEnvClient(base_url=url).sync() as other:
        assert tuple(other.reset(seed=2).observation["messages"][1]["content"].splitlines()) == drawn[2]
        assert session.step({"text": MESSAGES[0][0]}).observation["messages"][0]["content"] == "stage: check"
        assert other.state()["step_count"] == 0 and session.state()["step_count"] == 1
    assert session.step({"text": MESSAGES[1][0]}).reward == 1.0


@pytest.mark.parametrize("action, outcome", [
    ({"text": "<problem>a is 2", "cut": True}, "token_limit"), ({"text": "x" * 4000}, "token_limit"),
    ({"text": ""}, "unusable")])
def test_named_outcomes_that_earn_nothing(session, action, outcome):
    session.reset(skills=list(K))
    seen = session.step(action)
    assert (seen.done, seen.reward, seen.metadata["status"], seen.metadata["process_rewards"]) == (
        True, 0.0, outcome, [-1.0])


def test_bad_input_is_told_in_a_sentence(session):
    with pytest.raises(RuntimeError, match="no episode is going on; reset first"):
        session.step({"text": "Sound."})
    with pytest.raises(RuntimeError, match="the run has no skill 'juggle'; reset with skills of its skills folder"):
        session.reset(skills=["juggle"])
    session.reset(skills=list(K))
    assert session.step({"text": ""}).done
    with pytest.raises(RuntimeError, match="no episode is going on; reset first"):
        session.step({"text": "Sound."})
