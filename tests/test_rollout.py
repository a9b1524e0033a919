"""Rollouts: the training sequence is the transcript, and every token in it has the right mask, turn and stage."""
import copy
import itertools
import math
import os
import signal
import threading
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import policy_of
from test_chat import other_tokenizer

import ap.world.rollout
from ap.compat.chat_format import format_of, tools_as_text
from ap.engine.model import build_model, token_logprobs
from ap.engine.rows import Conversation
from ap.files import UserError
from ap.judge.judge import Judge
from ap.learn.batch import collate
from ap.learn.losses import sft_loss, spread_over_tokens
from ap.mini import solutions
from ap.mini.agents import chainlet
from ap.mini.domain import Mini
from ap.trajectory import Trajectory
from ap.world.chat import STOP, TOOLS, decode_message, encode, prompt_ids, reply_text, stop_ids, tool_call
from ap.world.env import Env
from ap.world.rollout import Start, play_script, roll_out, transcript

K = ("shift", "share")


def rolled_out(env, model, tokenizer, starts, config):
    """The episodes of a rollout in the order of their starts, and the engine's counts."""
    rollout = roll_out(env, policy_of(model, tokenizer), [Start(*start) for start in starts], config)
    for _ in rollout:
        pass
    return rollout.trajectories, rollout.stats


def judge_of(run, tokenizer):
    return Judge(run.committee, run.fixed_prober, tokenizer, run.env.config)


def rolled_out_and_judged(run, model, tokenizer, starts):
    rollout = roll_out(run.env, policy_of(model, tokenizer), [Start(*start) for start in starts], run.env.config)
    return judge_of(run, tokenizer)(rollout, set())


FRACTION = "a is 24. b is 7 more than a. c is b divided by 2. Find c."
SOUND = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."
MESSAGES = (  # (message, the stage that it answers, the environment's reply)
    (f"<problem>{FRACTION}</problem>", 0, ("stage: check", False)),
    (tool_call("exec", code=Mini.check_program), 1, ("fraction: share\nstage: refine", True)),
    ("Fault: share.", 2, ("stage: refine", False)),
    (f"<problem>{SOUND}</problem>", 2, ("stage: check", False)),
    (tool_call("exec", code=Mini.check_program), 1, ("ok: 11\nstage: finalize", True)),
    (tool_call("submit", answer="11"), 3, None),
)


def stop_id(tokenizer):
    [stop] = stop_ids(tokenizer)
    return stop


def script(*messages):
    left = list(messages)
    return lambda episode: left.pop(0)


@pytest.fixture
def played(make_env, tokenizer):
    env = make_env()
    return env, play_script(env, tokenizer, Start(K), script(*(text for text, _, _ in MESSAGES)))


def by_hand(env, tokenizer):
    """The same episode, put together here as text and as pieces of tokens (ids, mask, turn)."""
    start = prompt_ids(tokenizer, env.messages(K), env.tools)
    pieces = [(start, 0, -1)]
    text = tokenizer.decode(start)
    for number, (message, _, reply) in enumerate(MESSAGES):
        pieces.append((encode(tokenizer, message + STOP), 1, number))
        text += message + STOP
        if reply is not None:
            pieces.append((encode(tokenizer, reply_text(*reply)), 0, -1))
            text += reply_text(*reply)
    return text, pieces


def test_ids_masks_and_turns_by_hand(played, tokenizer):
    env, trajectory = played
    text, pieces = by_hand(env, tokenizer)
    assert tokenizer.decode(trajectory.ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
    assert trajectory.ids == [i for ids, _, _ in pieces for i in ids]
    assert trajectory.loss_mask == [mask for ids, mask, _ in pieces for _ in ids]
    assert trajectory.turn_ids == [turn for ids, _, turn in pieces for _ in ids]
    stage_of_token = [trajectory.turns[turn].stage if turn >= 0 else -1 for turn in trajectory.turn_ids]
    assert stage_of_token == [MESSAGES[turn][1] if turn >= 0 else -1 for ids, _, turn in pieces for _ in ids]
    assert [turn.action for turn in trajectory.turns] == ["think", "exec", "think", "think", "exec", "submit"]
    assert (trajectory.outcome, trajectory.skills, trajectory.problem.answer) == ("submitted", K, "11")


@pytest.mark.parametrize("name", ["llama3", "gemma", "renamed"])
def test_an_episode_in_the_chat_format_of_others(make_env, name):
    """The stop token is another one, tools may be unknown to the template: the ids are what it would render, each
    message is trained to its stop token, and the report shows the same words."""
    tokenizer = other_tokenizer(name)
    chat, env = format_of(tokenizer), make_env()
    env.reply_text = chat.reply
    whole = play_script(env, tokenizer, Start(K), script(*(text for text, _, _ in MESSAGES)), max_tokens=20_000)
    assert whole.outcome == "submitted"
    messages, tools = env.messages(K), [TOOLS[tool] for tool in env.tools] if chat.lists_tools else None
    if not chat.lists_tools:
        messages[0]["content"] += tools_as_text([TOOLS[tool] for tool in env.tools])
    if not chat.takes_system:
        messages = [{"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}]
    for (text, _, reply), turn in zip(MESSAGES, whole.turns):
        assert whole.ids[turn.end - 1] in stop_ids(tokenizer) and whole.loss_mask[turn.end - 1] == 1
        assert decode_message(tokenizer, whole.ids[turn.start:turn.end]) == text
        messages.append({"role": "assistant", "content": text})
        if reply is not None:
            content, to_tool = reply
            own = to_tool and chat.lists_tools
            content = content if own or not to_tool else f"<tool_response>\n{content}\n</tool_response>"
            messages.append({"role": "tool" if own else "user", "content": content})
    rendered = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    assert tokenizer.decode(whole.ids) == rendered.removesuffix("\n")
    shown = transcript(tokenizer, whole)["turns"]
    assert [turn["observation"] for turn in shown[:-1]] == [reply[0] for _, _, reply in MESSAGES[:-1]]


def test_every_stop_token_of_the_assistant_is_trained(played, tokenizer):
    _, trajectory = played
    stop = stop_id(tokenizer)
    for turn in trajectory.turns:
        assert trajectory.ids[turn.end - 1] == stop and trajectory.loss_mask[turn.end - 1] == 1
    trained = sum(mask for i, mask in zip(trajectory.ids, trajectory.loss_mask) if i == stop)
    assert trained == len(trajectory.turns)


def test_the_mask_is_born_with_the_token(make_env, tokenizer):
    """Whenever the author is asked, the tokens so far have their mask, and the last piece is a prompt for it."""
    seen = []
    env, left = make_env(), [text for text, _, _ in MESSAGES]

    def write(episode):
        seen.append(episode.turns)
        return left.pop(0)

    whole = play_script(env, tokenizer, Start(K), write)
    assert seen == [0, 1, 2, 3, 4, 5]
    for turn in whole.turns:
        assert whole.loss_mask[turn.start - 1] == 0
        assert tokenizer.decode(whole.ids[:turn.start]).endswith("<|im_start|>assistant\n")


def test_the_token_limit_between_messages(make_env, tokenizer):
    """Each limit that ends an episode early names the outcome, and leaves no unanswered reply in the sequence."""
    messages = [text for text, _, _ in MESSAGES]
    whole = play_script(make_env(), tokenizer, Start(K), script(*messages))
    turns = Counter()
    for limit in range(whole.turns[0].start + 2, len(whole.ids) + 1):
        trajectory = play_script(make_env(), tokenizer, Start(K), script(*messages), max_tokens=limit)
        assert trajectory.outcome == ("submitted" if limit == len(whole.ids) else "token_limit")
        assert trajectory.loss_mask[-1] == 1
        assert (trajectory.problem is None) == (limit < len(whole.ids))
        assert trajectory.ids == whole.ids[:len(trajectory.ids)]
        turns[len(trajectory.turns)] += 1
    assert set(turns) == set(range(1, 7))


def test_transcript(played, tokenizer):
    _, trajectory = played
    record = transcript(tokenizer, trajectory)
    assert [turn["text"] for turn in record["turns"]] == [message for message, _, _ in MESSAGES]
    assert [turn["observation"] for turn in record["turns"]] == [reply[0] if reply else "" for _, _, reply in MESSAGES]
    assert [turn["stage"] for turn in record["turns"]] == [stage for _, stage, _ in MESSAGES]
    assert record["problem"] == {"question": SOUND, "answer": "11"}
    assert not any("weight" in turn for turn in record["turns"])
    trajectory.turns[0].weights = {"zero_sum": -0.5, "gate": 0.8, "weight": -0.4}
    with_weights = transcript(tokenizer, trajectory)
    assert with_weights["turns"][0] == record["turns"][0] | trajectory.turns[0].weights
    assert with_weights["turns"][1:] == record["turns"][1:]
    trajectory.turns[0].weights = {}


def test_a_trajectory_survives_json(played):
    _, trajectory = played
    assert Trajectory.from_dict(trajectory.to_dict()) == trajectory


# ---------------------------------------------------------------- as tensors


def test_collate_by_hand():
    """Two rows of 4 and 2 tokens; pad is 9. Actions are numbered through the batch: 0, 1 in the first row, 2 in the second."""
    one = Trajectory([5, 6, 7, 8], [0, 1, 0, 1], [0.0, -1.0, 0.0, -2.0], [-1, 0, -1, 1], [], ())
    other = Trajectory([3, 9], [0, 1], [0.0, -3.0], [-1, 0], [], ())
    batch = collate([one, other], pad_id=9)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [3, 9, 9, 9]]
    assert batch.loss_mask.tolist() == [[0, 1, 0, 1], [0, 1, 0, 0]]  # a sampled pad counts, padding does not
    assert batch.old_logprobs.tolist() == [[0, -1, 0, -2], [0, -3, 0, 0]]
    assert batch.turn_ids.tolist() == [[-1, 0, -1, 1], [-1, 0, -1, -1]]
    assert batch.action_ids.tolist() == [[-1, 0, -1, 1], [-1, 2, -1, -1]]
    assert (batch.num_tokens, batch.lengths.tolist()) == (3, [4, 2])


def test_action_ids_of_a_row_without_actions():
    """A row that is all prompt uses up no action number."""
    rows = [Trajectory([1, 1], [0, 0], [0.0] * 2, [-1, -1], [], ()), Trajectory([1, 1], [0, 1], [0.0] * 2, [-1, 0], [], ())]
    assert collate(rows, 0).action_ids.tolist() == [[-1, -1], [-1, 0]]


def test_each_token_gets_the_advantage_of_its_own_action(played, tokenizer):
    _, trajectory = played
    batch = collate([trajectory, trajectory], tokenizer.pad_token_id)
    advantages = torch.arange(12.0) + 1
    spread = spread_over_tokens(advantages, batch.action_ids)
    for row in range(2):
        expected = [0.0 if turn < 0 else 6 * row + turn + 1.0 for turn in trajectory.turn_ids]
        assert spread[row].tolist() == expected


def test_a_uniform_model_pays_log_v_for_each_action_token(played, model, tokenizer):
    """Eq. (L_SFT) on a uniform model is (number of the assistant's tokens) * log V, so a wrong mask would show."""
    _, trajectory = played
    count = sum(len(encode(tokenizer, message + STOP)) for message, _, _ in MESSAGES)
    batch = collate([trajectory], tokenizer.pad_token_id)
    uniform = copy.deepcopy(model)
    uniform.lm_head.weight.data.zero_()
    log_v = math.log(len(tokenizer))

    def loss(mask):
        return sft_loss(token_logprobs(uniform, batch.ids, mask)[0], mask).item()

    assert loss(batch.loss_mask) == pytest.approx(count * log_v, rel=1e-5)
    stops = batch.ids == stop_id(tokenizer)
    assert loss(batch.loss_mask * ~stops) == pytest.approx((count - len(MESSAGES)) * log_v, rel=1e-5)  # it would show
    assert loss(torch.ones_like(batch.loss_mask)) == pytest.approx((len(trajectory.ids) - 1) * log_v, rel=1e-5)


# ---------------------------------------------------------------- sampled


def check_sampled(trajectory, tokenizer, env, max_tokens):
    """Checks what must hold for any sampled episode, whatever the model wrote."""
    ids, mask = trajectory.ids, trajectory.loss_mask
    assert len(ids) == len(mask) == len(trajectory.logprobs) == len(trajectory.turn_ids) <= max_tokens
    assert trajectory.outcome in ("submitted", "turn_limit", "token_limit", "unusable")
    assert [turn >= 0 for turn in trajectory.turn_ids] == [bool(m) for m in mask]
    assert all(value < 0 if m else value == 0 for value, m in zip(trajectory.logprobs, mask))
    prompt = prompt_ids(tokenizer, env.messages(trajectory.skills), env.tools)
    assert ids[:trajectory.turns[0].start] == prompt and not any(mask[:len(prompt)])
    for number, turn in enumerate(trajectory.turns):
        assert all(mask[turn.start:turn.end]) and trajectory.turn_ids[turn.start:turn.end] == [number] * (turn.end - turn.start)
        stopped = ids[turn.end - 1] == stop_id(tokenizer)
        assert stopped or (turn is trajectory.turns[-1] and trajectory.outcome == "token_limit" and len(ids) == max_tokens)
        assert stop_id(tokenizer) not in ids[turn.start:turn.end - 1]
    assert trajectory.turns[-1].end == len(ids)  # nothing follows the last action


def test_a_random_model_ends_every_episode_with_a_name(make_env, model, tokenizer, tiny):
    """An untrained policy writes garbage: each episode is a whole trajectory, and what stopped it has a name."""
    env = make_env(max_tokens=128)
    starts = [(K, n // 4, f"0/{n}") for n in range(12)]
    trajectories, stats = rolled_out(env, model, tokenizer, starts, env.config)
    for n, trajectory in enumerate(trajectories):
        check_sampled(trajectory, tokenizer, env, 128)
        assert (trajectory.group, trajectory.skills) == (n // 4, K)
    assert stats["decode_tokens"] == sum(sum(trajectory.loss_mask) for trajectory in trajectories)
    again, _ = rolled_out(env, model, tokenizer, starts[5:7], env.config)
    assert [t.ids for t in again] == [t.ids for t in trajectories[5:7]]  # an episode depends on its own seed only


@pytest.fixture(scope="module")
def pupil(tiny, tokenizer, run):
    """A model that has learnt the script by heart, so that sampling it uses the tools."""
    model = build_model(tiny, len(tokenizer), seed=1)
    trajectory = play_script(run.env, tokenizer, Start(K), script(*(text for text, _, _ in MESSAGES)))
    batch = collate([trajectory], tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(60):
        loss = sft_loss(token_logprobs(model, batch.ids, batch.loss_mask)[0], batch.loss_mask) / batch.num_tokens
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_sampled_logprobs_are_the_model_s(pupil, tokenizer, run, temperature):
    """The canary: on the first pass after a rollout with tools, ratio = exp(logprobs - old_logprobs) is 1."""
    config = replace(run.env.config, temperature=temperature)
    trajectories, _ = rolled_out(run.env, pupil, tokenizer, [(K, 0, f"{n}") for n in range(6)], config)
    if temperature == 1.0:  # at a higher temperature it rarely writes a program
        assert any(turn.action == "exec" and turn.facts["status"] == "ok" for t in trajectories for turn in t.turns)
        assert any(len(t.turns) >= 4 for t in trajectories)
    for trajectory in trajectories:
        check_sampled(trajectory, tokenizer, run.env, config.max_tokens)
    batch = collate(trajectories, tokenizer.pad_token_id)
    with torch.no_grad():
        logprobs, _ = token_logprobs(pupil, batch.ids, batch.loss_mask, temperature)
    assert (logprobs - batch.old_logprobs).abs().max() < 1e-5
    other = token_logprobs(pupil, batch.ids, batch.loss_mask, 2 * temperature)[0]
    assert (other - batch.old_logprobs).abs().max() > 1e-2  # at another temperature the test does fail


def test_what_was_sampled_is_never_tokenised_again(make_env, tokenizer, monkeypatch):
    """A message may be sampled in other tokens than the tokenizer would choose, here one character at a time. The
    tokens and their log-probs stay as sampled; the environment and the transcript read the text that they spell."""
    messages, sampled = [text for text, _, _ in MESSAGES], []

    class Speller:
        def __init__(self, *_, **__):
            pass

        stats = {}

        def stream(self, conversations, reply, **_):
            for conversation, message in itertools.product(conversations, messages):
                ids = [*(i for letter in message for i in encode(tokenizer, letter)), stop_id(tokenizer)]
                logprobs = [-1.0 - n / 1024 for n in range(len(ids))]
                sampled.append((ids, logprobs))
                conversation.append(ids, mask=1, logprobs=logprobs)
                conversation.stopped = "stop"
                conversation.append(reply(conversation) or [], mask=0)
            yield from conversations

    monkeypatch.setattr(ap.world.rollout, "Engine", Speller)
    env = make_env(max_tokens=4096)
    policy = SimpleNamespace(tokenizer=tokenizer, sampling=nullcontext, counts=Counter())
    rollout = roll_out(env, policy, [Start(K, 0, "spelling")], env.config)
    [trajectory] = rollout
    assert (trajectory.outcome, trajectory.problem.question) == ("submitted", SOUND)
    for turn, message, (ids, logprobs) in zip(trajectory.turns, messages, sampled, strict=True):
        assert ids != encode(tokenizer, message + STOP)
        assert trajectory.ids[turn.start:turn.end] == ids and trajectory.logprobs[turn.start:turn.end] == logprobs
    assert [turn["text"] for turn in transcript(tokenizer, trajectory)["turns"]] == messages


class Hangs:
    """A sandbox that never returns from one of its calls."""

    def __init__(self, sandbox, call):
        self.sandbox, self.left, self.for_ever = sandbox, itertools.count(-call), threading.Event()

    def run(self, *arguments, **options):
        if next(self.left) == 0:
            self.for_ever.wait()
        return self.sandbox.run(*arguments, **options)


def test_a_tool_that_hangs_ends_one_episode_and_leaves_the_others_as_they_are(pupil, tokenizer, run, monkeypatch):
    starts = [(K, 0, f"hang/{n}") for n in range(6)]
    expected, _ = rolled_out(run.env, pupil, tokenizer, starts, run.env.config)
    monkeypatch.setattr(ap.world.rollout, "HANGS", 0.5)
    monkeypatch.setattr(ap.world.rollout, "LOOKING", 0.0)
    env = Env(run.domain, run.library, Hangs(run.env.sandbox, 2), replace(run.env.config, exec_timeout=2.0))
    trajectories, _ = rolled_out(env, pupil, tokenizer, starts, env.config)
    env.sandbox.for_ever.set()
    [hung] = [n for n, trajectory in enumerate(trajectories) if trajectory.outcome == "tool_timeout"]
    for n, (trajectory, other) in enumerate(zip(trajectories, expected)):
        if n != hung:
            assert (trajectory.ids, trajectory.outcome) == (other.ids, other.outcome)
    cut = trajectories[hung]
    assert cut.problem is None and cut.turns[-1].facts == {"error": "timeout"} and cut.turns[-1].end == len(cut.ids)
    assert [turn >= 0 for turn in cut.turn_ids] == [bool(m) for m in cut.loss_mask]
    assert cut.ids == expected[hung].ids[:len(cut.ids)]


def test_a_sandbox_that_is_killed_on_the_way_changes_nothing(pupil, tokenizer, run):
    """Its server process dies before the third program: it is started again, and every token is as before."""
    box = run.env.sandbox

    class Killer:
        calls, sandbox = itertools.count(), box

        def run(self, *arguments, **options):
            if next(self.calls) == 2:
                os.kill(self.sandbox._server.pid, signal.SIGKILL)
            return self.sandbox.run(*arguments, **options)

    starts = [(K, 0, f"kill/{n}") for n in range(6)]
    expected, _ = rolled_out(run.env, pupil, tokenizer, starts, run.env.config)
    before = run.env.sandbox.restarts
    env = Env(run.domain, run.library, Killer(), run.env.config)
    trajectories, _ = rolled_out(env, pupil, tokenizer, starts, env.config)
    assert run.env.sandbox.restarts > before
    assert [t.ids for t in trajectories] == [t.ids for t in expected]


def test_episodes_are_judged_while_others_go_on(pupil, tokenizer, run, monkeypatch):
    """V(q) and rho(q) from the judge's threads equal those of judging afterwards; each episode is judged once, with its
    own seed, and the first one before the last has ended."""
    starts = [(K, n, f"verify/{n}") for n in range(8)]
    later, _ = rolled_out(run.env, pupil, tokenizer, starts, run.env.config)
    happened, real, play = [], Judge.judge, ap.world.rollout.Rollout.__iter__

    def judged(self, trajectory, known):
        happened.append((trajectory.key, threading.current_thread()))
        real(self, trajectory, known)

    def played(self):
        for trajectory in play(self):
            yield trajectory
            time.sleep(0.05)  # gives the judge's thread time to run
            happened.append(("ended", threading.current_thread()))

    monkeypatch.setattr(Judge, "judge", judged)
    monkeypatch.setattr(ap.world.rollout.Rollout, "__iter__", played)
    at_once = rolled_out_and_judged(run, pupil, tokenizer, starts)
    monkeypatch.undo()
    keys = [key for key, _ in happened]
    assert sorted(key for key in keys if key != "ended") == [key for _, _, key in starts]
    assert keys.index("ended") == 1  # the first episode was judged before the engine went on
    assert threading.main_thread() not in [thread for key, thread in happened if key != "ended"]
    assert all(t.reason for t in at_once) and not any(t.reason for t in later)
    for trajectory in later:
        judge_of(run, tokenizer).judge(trajectory, set())
    assert at_once == later and any(t.valid and t.pass_rate > 0 for t in at_once)


def test_what_a_judge_raises_ends_the_rollout(pupil, tokenizer, run, monkeypatch):
    """It ends at once, not after all episodes, each of which would ask a dead endpoint again."""
    def dead(self, trajectory, known):
        raise UserError("nobody answers")

    ended = []
    monkeypatch.setattr(Judge, "judge", dead)
    rollout = roll_out(run.env, policy_of(pupil, tokenizer), [Start(K, n, f"dead/{n}") for n in range(8)],
                       run.env.config)
    progress = SimpleNamespace(update=lambda _: (time.sleep(0.05), ended.append(1)))
    with pytest.raises(UserError, match="nobody answers"):
        judge_of(run, tokenizer)(rollout, set(), progress)
    assert len(ended) == 1


def test_programs_of_the_miniature_run_in_processes(pupil, tokenizer, run, monkeypatch):
    """A rollout whose episodes are judged does not calculate in the trainer's process at all."""
    starts = [(K, n, f"elsewhere/{n}") for n in range(6)]
    expected = rolled_out_and_judged(run, pupil, tokenizer, starts)
    assert any(t.valid for t in expected)
    for module in (chainlet, solutions):  # a call in this process raises, and so would the rollout
        monkeypatch.setattr(module, "steps_of", None)
    with pytest.raises(TypeError):
        run.domain.check("a is 24. b is 7 more than a. Find b.")
    assert rolled_out_and_judged(run, pupil, tokenizer, starts) == expected


def test_a_worker_that_is_killed_on_the_way_changes_nothing(pupil, tokenizer, run, monkeypatch):
    starts = [(K, n, f"killed/{n}") for n in range(6)]
    straight, real, judged = rolled_out_and_judged(run, pupil, tokenizer, starts), Judge.judge, itertools.count()

    def killing(self, trajectory, known):
        if next(judged) == 1:
            run.processes._started[-1]._process.kill()
        real(self, trajectory, known)

    before = len(run.processes._started)
    monkeypatch.setattr(Judge, "judge", killing)
    assert rolled_out_and_judged(run, pupil, tokenizer, starts) == straight
    assert len(run.processes._started) > before


def test_start_of_a_conversation():
    conversation = Conversation.start([4, 5], "seed")
    conversation.append([6], 1, [-0.5])
    conversation.append([7, 8], 0)
    assert (conversation.ids, conversation.loss_mask, conversation.logprobs) == (
        [4, 5, 6, 7, 8], [0, 0, 1, 0, 0], [0.0, 0.0, -0.5, 0.0, 0.0])
    assert conversation.turn_start == 5  # the next message follows
