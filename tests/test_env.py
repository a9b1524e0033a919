"""The environment: what each action does to the draft, the skills and the stage, and how an episode ends."""
import dataclasses

import pytest

from ap.config import Config
from ap.files import UserError
from ap.judge.rewards import process_reward
from ap.mini.domain import Mini
from ap.presets import PRESETS
from ap.sandbox.sandbox import SandboxResult
from ap.trajectory import Problem
from ap.world.chat import read_message, tool_call
from ap.world.env import CHECK, DRAFT, FINALIZE, REFINE, Episode

K = ("shift", "share")
SOUND = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."  # (24 + 7 + 2) / 3 = 11
FRACTION = "a is 24. b is 7 more than a. c is b divided by 2. Find c."  # 31 / 2: share is at fault
NO_SHARE = "a is 24. b is 7 more than a. Find b."  # 31, without share
CHECK_IT = tool_call("exec", code=Mini.check_program)


def draft(text):
    return f"<problem>{text}</problem>"


def play(env, *messages, skills=K):
    """Take the messages in turn. Returns the episode, and (action, stage, facts, reply) of each."""
    episode = Episode(env, skills)
    return episode, [episode.step(message) for message in messages]


def rewards(steps):
    return [process_reward(action, facts) for action, _, facts, _ in steps]


def test_draft_check_submit(make_env):
    """The shortest way: the stage of an action is the one in which it is taken, not the one that it leads to."""
    env = make_env()
    episode, steps = play(env, draft(SOUND), CHECK_IT, tool_call("submit", answer="11"))
    assert [step[:2] for step in steps] == [("think", DRAFT), ("exec", CHECK), ("submit", FINALIZE)]
    assert rewards(steps) == [1, 1, 1]
    assert episode.outcome == "submitted"
    assert episode.problem == Problem(SOUND, "11", K, "mini")
    assert steps[0][3] == "\n<|im_start|>user\nstage: check<|im_end|>\n<|im_start|>assistant\n"
    assert steps[1][3] == (
        "\n<|im_start|>user\n<tool_response>\nok: 11\nstage: finalize\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n")
    assert steps[2][3] is None
    files = {"draft.txt": SOUND, "skills.txt": "shift\nshare"}
    assert env.sandbox.calls == [(Mini.check_program, env.config.exec_timeout, files)]


def test_back_and_forth(make_env):
    """A failed check, a named fault and an edit lead to refine; a new draft leads to check, also from finalize."""
    env = make_env()
    episode, steps = play(
        env, draft(FRACTION), CHECK_IT, "Fault: share.", draft(SOUND), CHECK_IT,  # finalize ...
        draft(FRACTION), "Fault: share.", tool_call("edit", prune="shift"), draft(SOUND), "Sound.", CHECK_IT)
    stages = [stage for _, stage, _, _ in steps] + [episode.stage]
    assert stages == [DRAFT, CHECK, REFINE, REFINE, CHECK, FINALIZE, CHECK, REFINE, REFINE, CHECK, CHECK, FINALIZE]
    assert "share" in steps[1][3] and steps[1][2]["output"] == "fraction: share"


def test_what_leaves_the_stage_as_it_is(make_env):
    episode, _ = play(make_env(), draft(SOUND), CHECK_IT, "Sound.", "Hm.", tool_call("edit", prune="nothing"))
    assert episode.stage == FINALIZE and episode.passed is not None


# ---------------------------------------------------------------- think


@pytest.mark.parametrize("before, text, judged", [
    (FRACTION, "Fault: share.", True), (FRACTION, "Fault: shift.", False), (FRACTION, "Sound.", False),
    (SOUND, "Sound.", True), (SOUND, "Fault: share.", False), (NO_SHARE, "Fault: share.", True),  # the missing skill
    (FRACTION, "Perhaps share.", None), (FRACTION, "It is Sound.", None), (None, "Sound.", None),
    (None, "Fault: share.", None),
])
def test_a_reflection_is_judged_by_the_exact_check(make_env, before, text, judged):
    _, steps = play(make_env(), *([draft(before)] if before else []), text)
    assert steps[-1][2]["judged"] is judged
    assert rewards(steps)[-1] == {True: 1, False: -1, None: 0}[judged]


@pytest.mark.parametrize("text, facts, reward", [
    (SOUND, {"draft": "sound", "fault": "ok", "repeated": False}, 1),
    (FRACTION, {"draft": "faulty", "fault": "fraction", "repeated": False}, 0),
    (NO_SHARE, {"draft": "faulty", "fault": "missing skill", "repeated": False}, 0),
    ("Once upon a time.", {"draft": "unreadable", "fault": "unreadable", "repeated": False}, -1),
    ("", {"draft": "unreadable", "fault": "unreadable", "repeated": False}, -1),
])
def test_a_draft_is_judged_by_the_exact_check(make_env, text, facts, reward):
    _, steps = play(make_env(), draft(text))
    assert steps[0][2] == facts
    assert rewards(steps) == [reward]


def test_nothing_is_paid_twice(make_env):
    """Writing the same sound draft, or the same correct judgement, over and over once earned +1 each time."""
    _, steps = play(make_env(), draft(SOUND), draft(SOUND), "Sound.", "Sound. Indeed.", CHECK_IT, CHECK_IT,
                    "Fault: share.", "Fault: share.", draft(SOUND.replace("24", "27")), draft(SOUND))
    assert rewards(steps) == [1, 0, 1, 0, 1, 0, -1, -1, 1, 0]


def test_a_draft_that_an_edit_makes_sound_is_paid(make_env):
    _, steps = play(make_env(skills_min=1), draft(NO_SHARE), tool_call("edit", prune="share"), draft(NO_SHARE),
                    draft(NO_SHARE))
    assert rewards(steps) == [0, 1, 1, 0]


# ---------------------------------------------------------------- exec


@pytest.mark.parametrize("result, output, stage, reward", [
    (SandboxResult("ok: 11\n", "", "ok", 0, 0.1), "ok: 11", FINALIZE, 1),
    (SandboxResult("one\nfraction: share\n", "", "ok", 0, 0.1), "fraction: share", REFINE, 1),
    (SandboxResult("", "", "ok", 0, 0.1), "(no output)", REFINE, 1),
    (SandboxResult("ok: 11\n", "Traceback\nNameError: x", "error", 1, 0.1), "NameError: x", REFINE, -1),
    (SandboxResult("ok: 11\n", "", "timeout", -9, 2.0), "timeout", REFINE, -1),
    (SandboxResult("", "", "memory", -9, 2.0), "memory", REFINE, -1),
    (SandboxResult("x" * 5000, "", "output_limit", -9, 2.0), "output_limit", REFINE, -1),
    (SandboxResult("y" * 5000, "", "ok", 0, 0.1), "y" * 200, REFINE, 1),
])
def test_exec(make_env, result, output, stage, reward):
    """The reply is the last line of standard output if the program ran well, else that of the error, or the status."""
    episode, steps = play(make_env(result), draft(SOUND), tool_call("exec", code="run()"))
    _, _, facts, reply = steps[1]
    assert (facts["status"], facts["output"], facts["repeated"]) == (result.status, output, False)
    assert f"<tool_response>\n{output}\nstage: " in reply
    assert episode.stage == stage
    assert rewards(steps)[1] == reward


def test_exec_without_a_draft_passes_nothing(make_env):
    env = make_env(SandboxResult("ok: 11\n", "", "ok", 0, 0.1))
    episode, _ = play(env, tool_call("exec", code="print('ok: 11')"))
    assert episode.passed is None and episode.stage == REFINE
    assert env.sandbox.calls[0][2] == {"draft.txt": "", "skills.txt": "shift\nshare"}


@pytest.mark.parametrize("text, printed", [
    (SOUND, "ok: 5"), (SOUND, "ok: 11 "), (FRACTION, "ok: 15"), (NO_SHARE, "ok: 31"), (SOUND, "ok: "), ("", "ok: 5"),
])
def test_a_program_cannot_forge_a_check(make_env, text, printed):
    """`print("ok: 5")` once passed any draft and made its submission count as checked. Now the claim has to be true."""
    env = make_env(SandboxResult(f"{printed}\n", "", "ok", 0, 0.1))
    code = f"print({printed!r})"
    episode, steps = play(env, draft(text), tool_call("exec", code=code), tool_call("submit"))
    true = printed == "ok: 11 "
    assert steps[1][2]["passed"] is true and rewards(steps)[1] == 1  # like any program that ran
    assert steps[2][1] == (FINALIZE if true else REFINE)
    assert steps[2][2]["checked"] is true and episode.problem.answer == ("11" if true else "")


def test_a_forged_check_undoes_nothing(make_env):
    """A check that passed stays valid until the draft or the skills change."""
    real, forged = SandboxResult("ok: 11\n", "", "ok", 0, 0.1), SandboxResult("ok: 5\n", "", "ok", 0, 0.1)
    episode, steps = play(make_env(real, forged), draft(SOUND), CHECK_IT, tool_call("exec", code="print('ok: 5')"),
                          tool_call("submit"))
    assert [facts["passed"] for action, _, facts, _ in steps if action == "exec"] == [True, False]
    assert steps[3][1] == REFINE and steps[3][2]["checked"] and episode.problem.answer == "11"


def test_draft_and_exec_in_one_message(make_env):
    episode, steps = play(make_env(), draft(SOUND) + CHECK_IT)
    assert steps[0][0] == "exec" and steps[0][2]["draft"] == "sound" and steps[0][2]["status"] == "ok"
    assert (episode.draft, episode.stage) == (SOUND, FINALIZE)


def test_the_same_program_on_another_draft_is_no_repetition(make_env):
    _, steps = play(make_env(), draft(FRACTION), CHECK_IT, draft(SOUND), CHECK_IT, CHECK_IT)
    assert [facts["repeated"] for action, _, facts, _ in steps if action == "exec"] == [False, False, True]


def test_only_the_setting_allows_the_unsafe_sandbox(tiny, monkeypatch):
    import ap.run
    asked = []

    class Refuses:
        def __init__(self, *_, allow_unsafe, **__):
            asked.append(allow_unsafe)
            raise UserError

    monkeypatch.setattr(ap.run, "Sandbox", Refuses)
    for setting in (False, True):
        with pytest.raises(UserError):
            ap.run.Run(dataclasses.replace(tiny, allow_unsafe_exec=setting))
    assert asked == [False, True]


def test_in_the_real_sandbox(run):
    episode = Episode(run.env, K)
    episode.step(draft(SOUND))
    _, _, facts, reply = episode.step(CHECK_IT)
    assert (facts["status"], facts["output"]) == ("ok", "ok: 11") and "ok: 11" in reply
    episode.step(draft(NO_SHARE))
    assert episode.step(CHECK_IT)[2]["output"] == "missing skill: share"
    _, _, facts, _ = episode.step(tool_call("exec", code="1 / 0"))
    assert (facts["status"], facts["output"]) == ("error", "ZeroDivisionError: division by zero")


# ---------------------------------------------------------------- edit


@pytest.mark.parametrize("arguments, skills", [
    ({"prune": "share"}, ("shift", "pick")),
    ({"prune": "shift"}, ("share", "pick")),
    ({"replace": "share", "by": "digits"}, ("shift", "digits", "pick")),  # the new skill takes the old one's place
])
def test_legal_edits(make_env, arguments, skills):
    env = make_env()
    episode, steps = play(env, tool_call("edit", **arguments), skills=("shift", "share", "pick"))
    assert steps[0][2]["legal"]
    assert episode.skills == skills and episode.stage == REFINE
    assert f"<tool_response>\n{env.describe(skills)}\nstage: refine" in steps[0][3]  # K_t+1 is in the next observation


@pytest.mark.parametrize("arguments", [
    {"prune": "share"},  # at least two must stay
    {"prune": "digits"}, {"replace": "digits", "by": "pick"},  # not active
    {"replace": "share", "by": "shift"}, {"replace": "share", "by": "share"},  # active already
    {"replace": "share", "by": "juggle"}, {"replace": "share", "by": ""},  # not in the library
    {"replace": "share"}, {"by": "digits"}, {}, {"prune": "share", "by": "digits"},
    {"prune": "share", "replace": "share", "by": "digits"}, {"prune": "", "replace": "share", "by": "digits"},
])
def test_refused_edits(make_env, arguments):
    episode, steps = play(make_env(), draft(SOUND), tool_call("edit", **arguments))
    assert steps[1][2] == {"legal": False, "in_conflict": False}
    assert episode.skills == K and episode.stage == CHECK
    assert "edit refused" in steps[1][3]
    assert rewards(steps)[1] == -1


def test_an_edit_pays_only_where_it_answers_a_conflict(make_env):
    three = ("shift", "share", "pick")
    bad = "a is 25. b is 8 more than a. c is b divided by 2. d is the larger of b and c. Find d."
    for skill, reward in (("share", 1), ("shift", -1)):
        _, steps = play(make_env(), draft(bad), tool_call("edit", prune=skill), skills=three)
        assert rewards(steps)[1] == reward, skill  # the check blames share
    for skill, reward in (("least", 1), ("shift", -1)):  # nothing here leaves `least` a choice; no draft is needed
        _, steps = play(make_env(), tool_call("edit", prune=skill), skills=("shift", "share", "least"))
        assert rewards(steps) == [reward], skill


def test_an_edit_undoes_the_check(make_env):
    """The draft that passed was a problem for the old skills."""
    episode, steps = play(make_env(), draft(SOUND), CHECK_IT, tool_call("edit", replace="share", by="digits"),
                          tool_call("submit", answer="11"))
    assert steps[-1][2] == {"checked": False}
    assert episode.problem.skills == ("shift", "digits")


# ---------------------------------------------------------------- submit, and other ends


@pytest.mark.parametrize("messages, checked", [
    ((draft(SOUND), CHECK_IT, tool_call("submit", answer=" 11 ")), True),
    ((draft(SOUND), tool_call("submit", answer="11")), False),  # nobody ran the check
    ((draft(SOUND), CHECK_IT, tool_call("submit", answer="12")), False),  # the check said 11
    ((draft(SOUND), CHECK_IT, tool_call("submit", answer="1")), False),  # a prefix of 11 is not 11
    ((draft(SOUND), CHECK_IT, tool_call("submit", answer="")), False),
    ((draft(SOUND), CHECK_IT, draft(FRACTION), tool_call("submit", answer="11")), False),  # of another draft
    ((draft(SOUND), CHECK_IT, draft(FRACTION) + tool_call("submit", answer="11")), False),  # changed at the last moment
    ((draft(SOUND), CHECK_IT, CHECK_IT, "Hm.", tool_call("submit", answer="11")), True),
])
def test_submit_is_checked_when_it_is_what_a_check_passed(make_env, messages, checked):
    episode, steps = play(make_env(), *messages)
    assert steps[-1][2]["checked"] is checked
    said = messages[-1].split('"answer": "')[1].split('"')[0].strip()
    assert episode.outcome == "submitted" and episode.problem.answer == said
    assert rewards(steps)[-1] == (1 if checked else -1)


def test_the_answer_may_be_left_to_the_check(make_env):
    """Without an answer, a submission takes the one that the last check of this draft printed; else none."""
    for before, answer, checked in (((draft(SOUND), CHECK_IT), "11", True), ((draft(SOUND),), "", False),
                                    ((draft(SOUND), CHECK_IT, draft(SOUND)), "", False)):
        episode, steps = play(make_env(), *before, tool_call("submit"))
        assert (episode.outcome, episode.problem.answer, steps[-1][2]["checked"]) == ("submitted", answer, checked)


def test_the_check_asks_for_the_active_skills(make_env):
    _, steps = play(make_env(), draft(NO_SHARE), CHECK_IT)
    assert steps[1][2]["output"] == "missing skill: share"


def test_nothing_to_submit(make_env):
    episode, steps = play(make_env(), tool_call("submit", answer="11"))
    assert (episode.outcome, episode.problem, steps[0][3]) == ("unusable", None, None)
    assert rewards(steps) == [-1]


@pytest.mark.parametrize("message, error", [
    ("", "empty message"), ("<tool_call>", "unclosed tool call"), ("<tool_call>{</tool_call>", "tool call is not JSON"),
    (CHECK_IT + CHECK_IT, "several tool calls"), (tool_call("juggle"), "unknown tool"),
    (tool_call("exec"), "bad arguments"),
])
def test_unusable(make_env, message, error):
    episode, steps = play(make_env(), draft(SOUND), message)
    assert steps[1] == ("unusable", CHECK, {"error": error}, None)
    assert (episode.outcome, episode.problem) == ("unusable", None)
    assert rewards(steps)[1] == -1


MENDED = ("", "<tool_call>", "<tool_call>{</tool_call>", CHECK_IT + CHECK_IT, tool_call("juggle"), tool_call("exec"),
          "<think>for ever")


@pytest.mark.parametrize("message", MENDED)
def test_an_unusable_message_is_mended_once(make_env, message):
    """With --mend_messages the environment says what was wrong and how it is written. The turn counts, and earns -1."""
    errors = {message: read_message(message).error for message in MENDED}
    episode, steps = play(make_env(mend_messages=True), draft(SOUND), message, CHECK_IT, message)
    action, stage, facts, reply = steps[1]
    assert (action, stage, facts) == ("unusable", CHECK, {"error": errors[message]})
    assert f"could not be used: {errors[message]}." in reply and "tools exec, edit, submit" in reply
    assert "<tool_call>\n{\"name\": \"submit\", \"arguments\": {\"answer\": \"7\"}}\n</tool_call>" in reply
    assert "\\n and \\\\" in reply and reply.endswith("stage: check<|im_end|>\n<|im_start|>assistant\n")
    assert steps[2][2]["passed"] and episode.turns == 4  # nothing else has changed
    assert steps[3] == ("unusable", FINALIZE, {"error": errors[message]}, None)
    assert rewards(steps) == [1, -1, 1, -1] and (episode.outcome, episode.problem) == ("unusable", None)
    assert episode.said[3] in reply and len(episode.said) == 7


def test_a_submission_without_a_draft_is_mended_too(make_env):
    env = make_env(mend_messages=True)
    episode, steps = play(env, tool_call("submit"), draft(SOUND), CHECK_IT, tool_call("submit"))
    assert "no draft to submit" in steps[0][3] and episode.problem.answer == "11"
    assert [step[0] for step in steps] == ["unusable", "think", "exec", "submit"] and rewards(steps) == [-1, 1, 1, 1]
    assert play(env, draft(SOUND) + tool_call("submit", answer="11"))[0].outcome == "submitted"


def test_when_nothing_is_mended(make_env):
    """By default, in the last turn, and where the first message must be the submission."""
    for settings in ({}, {"mend_messages": True, "max_turns": 1}, {"mend_messages": True, "one_shot": True}):
        episode, steps = play(make_env(**settings), "<tool_call>")
        assert steps == [("unusable", DRAFT, {"error": "unclosed tool call"}, None)] and episode.outcome == "unusable"
    assert not Config().mend_messages and all(PRESETS[name].get("mend_messages",
                                                                False) == (name != "mini") for name in PRESETS)


def test_turn_limit(make_env):
    episode, steps = play(make_env(max_turns=3), "One.", "Two.", "Three.")
    assert [reply is None for *_, reply in steps] == [False, False, True]
    assert episode.outcome == "turn_limit" and episode.problem is None
    episode, _ = play(make_env(max_turns=2), draft(SOUND), tool_call("submit", answer="11"))
    assert episode.outcome == "submitted"  # the last turn may still be a submission


# ---------------------------------------------------------------- ablations


@pytest.mark.parametrize("without, message, reward", [
    ("exec", CHECK_IT, -1), ("edit", tool_call("edit", prune="share"), -1), ("think", "Sound.", 0), ("think", "Hm.", 0),
])
@pytest.mark.parametrize("with_draft", [False, True])
def test_an_action_that_is_taken_away(make_env, without, message, reward, with_draft):
    """It has no effect, not even beside a draft in the same message. Writing a draft is always allowed."""
    actions = ",".join(name for name in ("think", "exec", "edit", "submit") if name != without)
    env = make_env(actions=actions)
    text = draft(SOUND) + message if with_draft else message
    episode, steps = play(env, text, skills=("shift", "share"))
    assert env.sandbox.calls == [] and episode.skills == K and episode.passed is None
    assert episode.draft == (SOUND if with_draft else None)
    if without == "think" and with_draft:
        assert rewards(steps) == [1] and "not available" not in steps[0][3]
    else:
        assert rewards(steps) == [reward] and f"{without} is not available" in steps[0][3]
    assert episode.stage == (CHECK if with_draft else DRAFT)
    assert env.tools == [name for name in ("exec", "edit", "submit") if name != without]


def test_one_shot(make_env):
    env = make_env(one_shot=True)
    assert env.actions == env.tools == ["submit"]
    assert "in the same message" in env.messages(K)[0]["content"]
    episode, steps = play(env, draft(SOUND) + tool_call("submit", answer="11"))
    assert episode.outcome == "submitted" and episode.problem == Problem(SOUND, "11", K, "mini")
    for message in (draft(SOUND), "Hm.", CHECK_IT, draft(SOUND) + CHECK_IT):
        episode, steps = play(env, message)
        assert (episode.outcome, steps[0][0], steps[0][2]) == ("unusable", "unusable", {"error": "one message only"})
    episode, _ = play(env, tool_call("submit", answer="11"))
    assert episode.outcome == "unusable"


# ---------------------------------------------------------------- the first observation


def test_the_first_observation(make_env):
    env = make_env()
    system, user = env.messages(K)
    assert (system["role"], user["role"]) == ("system", "user")
    assert Mini.instructions in system["content"]
    for name in K:
        assert env.library[name].level_1() in user["content"] and env.library[name].body in user["content"]
    assert "digits (" not in user["content"]
    assert user["content"].endswith("stage: draft")
