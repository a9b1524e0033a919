"""The author of expert episodes: what it is asked for, what its replies become, the worked episodes it is shown."""
import random
from dataclasses import replace

import pytest
from test_model_teacher import SOUND, Player

from ap.config import Config
from ap.domains.code import Code
from ap.domains.math import Math
from ap.domains.science import Science
from ap.files import UserError, read_jsonl
from ap.learn.ranks import Ranks
from ap.players.model_author import ModelAuthor, about_and_checking, message_of, request_of, why_rejected
from ap.players.notes import Notes
from ap.players.worked import WORKED
from ap.prepare import reference
from ap.prepare.reference import Experts
from ap.run import Run
from ap.trajectory import Trajectory, Turn
from ap.world.chat import tool_call
from ap.world.env import Env, Episode
from ap.world.rollout import Start, play_script
from ap.world.skills import Skill

DRAFT = "<problem>How many whole numbers from 1 to 50 are squares?</problem>"
PROGRAM = "print('answer:', 7)"
BLOCK = f"```python\n{PROGRAM}\n```"
CALL = tool_call("exec", code=PROGRAM)
LIBRARY = {name: Skill(name, "x", "y", "z", "t") for name in ("squares", "counting", "intervals")}


@pytest.fixture
def episode(run):
    """episode(*messages, **settings): an episode of the domain math behind these messages, with the real sandbox."""
    def make(*messages, domain=Math(), skills=("squares", "counting", "intervals"), **settings):
        config = Config(domain=domain.__class__.__name__.lower(), device="cpu", exec_timeout=5.0, **settings)
        one = Episode(Env(domain, LIBRARY, run.sandbox, config), skills)
        for message in messages:
            one.step(message)
        return one
    return make


def asked(one):
    return request_of(one, WORKED.get(one.env.config.domain))


# ---------------------------------------------------------------- what is asked for


FAILED = tool_call("exec", code="print('fault: no answer')")
CRASHED = tool_call("exec", code="print(1 / 0)")


@pytest.mark.parametrize("messages, text, wanted", [
    ((), "Write the problem now. It needs all active skills: squares, counting, intervals.", "draft"),
    (("What shall I write?",), "Write the problem now.", "draft"),
    ((DRAFT,), "prints it last, by print('answer:', ...):\nHow many whole numbers", "program draft reflection"),
    ((DRAFT, CALL), "reply with the one word Submit", "draft submit"),
    ((DRAFT, CRASHED), "Write the whole program again", "program draft reflection"),
    ((DRAFT, CRASHED, CRASHED), "The draft cannot stay as it is", "draft edit reflection"),
    ((DRAFT, CRASHED, CRASHED, DRAFT, CRASHED), "Write the whole program again", "program draft reflection"),
    ((DRAFT, FAILED), "The draft cannot stay as it is", "draft edit reflection"),
    ((DRAFT, "Fault: counting."), "`Drop: intervals`", "draft edit reflection"),
    ((DRAFT, tool_call("edit", prune="counting")), "The draft cannot stay as it is", "draft edit reflection"),
])
def test_what_is_asked_for_follows_from_the_episode(episode, messages, text, wanted):
    request = asked(episode(*messages))
    assert text in request.text and request.wanted == set(wanted.split())


def test_only_what_the_settings_allow_is_asked_for(episode):
    assert "Drop:" not in asked(episode(DRAFT, FAILED, skills=("squares", "counting"))).text  # two must stay
    assert "Drop:" not in asked(episode(DRAFT, FAILED, actions="think,exec,submit")).text
    without = asked(episode(DRAFT, actions="think,submit"))
    assert "one line `answer: VALUE`" in without.text and without.wanted == {"draft", "answer"}
    assert asked(episode(one_shot=True)).wanted == {"draft", "answer"}
    code = asked(episode(f"<problem>{WORKED['code'].draft}</problem>", domain=Code()))
    assert f"```python\n{Code.check_program}\n```" in code.text


# ---------------------------------------------------------------- what replies become


def become(one, reply):
    return message_of(reply, asked(one))


def test_replies_become_messages(episode):
    start, drafted, passed, failed = episode(), episode(DRAFT), episode(DRAFT, CALL), episode(DRAFT, FAILED)
    for one, reply, message in (
        (start, DRAFT, DRAFT),
        (start, f"<think>{BLOCK}</think>Here it is:\n{DRAFT}\nThe answer is 7.", f"Here it is:\n{DRAFT}"),
        (start, f"[agent]\n{DRAFT}\n\n[environment]\nstage: check", DRAFT),
        (drafted, BLOCK, CALL),
        (drafted, f"We try all.\n{BLOCK}\nIt prints 7.", f"We try all.\n{CALL}"),
        (drafted, f"{DRAFT}\n{BLOCK}", f"{DRAFT}\n{CALL}"),
        (drafted, CALL, CALL), (drafted, tool_call("edit", prune="counting"), tool_call("edit", prune="counting")),
        (drafted, "Sound.", "Sound."), (drafted, "Fault: squares.", "Fault: squares."),
        (passed, "Submit", tool_call("submit")), (passed, "**Submit.**", tool_call("submit")),
        (passed, tool_call("submit", answer="7"), tool_call("submit", answer="7")), (passed, DRAFT, DRAFT),
        (failed, "It is one too many.\nDrop: squares.", tool_call("edit", prune="squares")),
        (episode(DRAFT, actions="think,submit"), "**answer: 7**", tool_call("submit", answer="7")),
        (episode(one_shot=True), f"{DRAFT}\nanswer: 7", f"{DRAFT}\n{tool_call('submit', answer='7')}"),
    ):
        assert become(one, reply) == (message, ""), reply


@pytest.mark.parametrize("messages, reply, fault", [
    ((), BLOCK, "no problem between <problem>"), ((), "", "empty message"), ((), "<think>for ever", "empty message"),
    ((), "Submit", "no problem between <problem>"), ((), "<problem>How many", "no problem between <problem>"),
    ((DRAFT,), "The answer is 7.", "no program in a ```python block"), ((DRAFT,), "<tool_call>{", "unclosed tool call"),
    ((DRAFT,), "Submit", "no program in a ```python block"), ((DRAFT, CALL), "It is 7.", "neither Submit nor a new"),
    ((DRAFT, CALL), "I do not submit.", "neither Submit nor a new"),
])
def test_what_was_not_asked_for_is_no_message(episode, messages, reply, fault):
    assert fault in become(episode(*messages), reply)[1]


def test_an_episode_by_simple_replies(run):
    """A problem, a block and a word are enough for a whole episode, whose messages are those that the policy writes."""
    replies = [f"<problem>{SOUND}</problem>", f"```python\n{run.domain.check_program}\n```", "Submit"]
    player = Player(lambda prompt: replies[len(player.prompts) - 1])
    said = []
    write = ModelAuthor(run.env, player).writer(random.Random(0))
    episode = play_script(run.env, run.tokenizer, Start(("shift", "share")),
                          lambda one: said.append(write(one)) or said[-1])
    assert said == [replies[0], tool_call("exec", code=run.domain.check_program), tool_call("submit")]
    assert episode.outcome == "submitted" and episode.problem.answer == "11"
    assert player.prompts[1].count("[environment]") == 1  # what only asks for the next message is left out


def test_the_problem_of_the_example_is_not_taken(episode):
    one = episode()
    copied = f"<problem>{WORKED['math'].draft.replace('$', '')}</problem>"
    other = ("<problem>Compute the sum of all multiples of 7 between 1 and 100 and find the remainder when this sum is "
             "divided by 12.</problem>")  # what a model of 0.5 B made of it
    program = f"```python\n{WORKED['math'].program}\n```"
    form = "<problem>\n(Write the text of your problem here)\n</problem>"  # a model of 0.5 B said so
    replies = [copied, DRAFT, other, form, program, BLOCK]
    player = Player(lambda prompt: replies[len(player.prompts) - 1])
    write = ModelAuthor(one.env, player).writer(random.Random(0))
    assert (write(one), write(one)) == (DRAFT, "")
    one.step(DRAFT)
    assert write(one) == CALL
    assert all("that is the problem of the example" in player.prompts[n] for n in (1, 3))  # the form is none either
    assert "that is the program of the example" in player.prompts[5]


def test_what_was_written_before_is_asked_for_again(episode):
    """The same program after the same draft, and the same draft; after a new draft the program may be the same."""
    one, second = episode(DRAFT, CRASHED), DRAFT.replace("50", "60")
    replies = ["```python\nprint(1 / 0)\n```", BLOCK, DRAFT, second, BLOCK]
    player = Player(lambda prompt: replies[len(player.prompts) - 1])
    write = ModelAuthor(one.env, player).writer(random.Random(0))
    assert write(one) == CALL and "exactly this before" in player.prompts[1]
    one.step(CRASHED), one.step(CALL.replace("7", "8"))
    assert write(one) == second and "exactly this before" in player.prompts[3]
    one.step(second)
    assert write(one) == CALL and len(player.prompts) == 5


# ---------------------------------------------------------------- the worked episodes


@pytest.mark.parametrize("domain", [Math(), Science(), Code()])
def test_worked_episodes_work(run, episode, domain):
    worked = WORKED[domain.__class__.__name__.lower()]
    about, checking = about_and_checking(domain.instructions)
    assert about.startswith("A problem is") and checking.startswith("Check a draft") and "heck a draft" not in about
    assert " ".join((about, checking)).split() == domain.instructions.split()
    if worked.program:
        assert run.sandbox.run(worked.program, timeout=10).stdout.strip() == worked.printed
        assert domain.passed(worked.printed) and domain.look(worked.draft).status == "unknown"
    else:
        assert domain.look(worked.draft, sandbox=run.sandbox).answer == domain.answer_of(worked.printed)


# ---------------------------------------------------------------- what is written while a stage runs


def test_notes_begin_empty_and_grow(tmp_path):
    (tmp_path / "notes.jsonl").write_text("what a killed run left {")
    notes = Notes(tmp_path / "notes.jsonl")
    notes.add({"n": 1}, {"n": "\ud800"})
    assert [record["n"] for record in read_jsonl(notes.path)] == [1, "\ufffd"]
    notes.add({"n": 3})
    assert len(read_jsonl(notes.path)) == 3


def test_why_an_episode_is_rejected():
    def ended(*turns, reason="unusable"):
        one = Trajectory.of_pieces([([1], 0)])
        one.turns, one.reason = [Turn(action, 0, 0, 1, facts) for action, facts in turns], reason
        return why_rejected(one)

    assert ended(("think", {}), ("unusable", {"error": "cut"}), reason="token_limit") == "token_limit: cut"
    assert ended(("think", {}), reason="ambiguous") == "ambiguous"


@pytest.fixture
def experts(own_tiny):
    """Experts of a model that only says words; one episode at a time."""
    config = replace(own_tiny, workers=1, max_turns=3)
    with Run(config) as run:
        run.cast.teacher = Player(lambda prompt: "Let me think.")
        yield Experts(run, config, Ranks())


def test_rejected_episodes_are_written_as_they_come(experts, monkeypatch):
    judge = experts.judge.judge

    def dies(trajectory, known):
        if trajectory.group == 3:
            raise RuntimeError("the server died")
        judge(trajectory, known)

    path = experts.config.folder / "expert_rejected.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(experts.judge, "judge", dies)
        with pytest.raises(RuntimeError):
            experts.play_round()
    left = read_jsonl(path)
    assert [record["episode"] for record in left][:3] == [0, 1, 2] and left[0]["outcome"] == "turn_limit"
    experts.play_round()
    assert [record["episode"] for record in read_jsonl(path)][-16:] == list(range(16))


def test_a_teacher_without_a_valid_episode_is_given_up_after_a_fair_sample(experts, monkeypatch):
    """Long before the limit for one in 20; the sentence says why."""
    monkeypatch.setattr(reference, "FAIR", 32)
    monkeypatch.setattr(reference, "Experts", lambda *_: experts)
    experts.author.player.answer = lambda prompt: "<tool_call>{"
    sentence = r"only 0 of 32 are valid; see the reasons in .*, most often unusable: unclosed tool call \(32\); change"
    with pytest.raises(UserError, match=sentence):
        reference.make_expert_trajectories(experts.run, experts.config, Ranks())
    assert experts.played == 32
