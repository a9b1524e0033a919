"""Process rewards where no program knows the truth: a critic and V(q) fill in what was unknown (judge/hindsight.py)."""
import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TINY, FakeSandbox, script

import run_mgpo
from ap import catalog
from ap.domains.math import Math
from ap.files import UserError
from ap.judge.hindsight import fill_facts
from ap.judge.judge import Judge
from ap.judge.rewards import process_reward
from ap.judge.roles import Judgement, Opinion
from ap.mini.critic import BlindMini, SimulatedCritic
from ap.mini.domain import Mini
from ap.players.chat_critic import SAID_AFTER, ChatCritic, read_opinion
from ap.players.chat_verifier import AGAIN
from ap.run import Run
from ap.sandbox.sandbox import SandboxResult
from ap.tools.summary import summary
from ap.trajectory import Trajectory, Turn
from ap.world.chat import tool_call
from ap.world.env import Env, Episode
from ap.world.skills import Skill

SKILLS = {name: Skill(name, "c", "an intent", "d", "t", "the body") for name in ("one", "two", "three", "four")}
FIRST = "Find the least positive $n$ that leaves the remainder 2 modulo 3."
SECOND = "Find twice the root of $x = 4 - x$."
TOKENIZER = SimpleNamespace(chat_template="", ap_chat_format=("", SimpleNamespace(message=lambda ids: "")))
ANSWER, FAULT = "print('answer: 2')", "print('fault: no n')"
SOUND_, FAULTY, BLAMED, SILENT = Opinion(True), Opinion(False), Opinion(False, "one", "one is idle"), Opinion(None)


def draft(text):
    return f"<problem>{text}</problem>"


def run_code(code):
    return tool_call("exec", code=code)


class Printing:
    """A sandbox that prints what the program's only string says."""

    def run(self, code, stdin="", timeout=None, files=None):
        return SandboxResult(code.split("'")[1] if "'" in code else "", "", "ok", 0, 0.0)


@dataclass
class Says:
    """A critic, a committee and a prober that say what they are told."""

    opinions: dict[str, Opinion] = field(default_factory=dict)  # draft -> opinion
    reason: str = "could not judge"
    asked: list = field(default_factory=list)

    def criticise(self, draft, skills):
        self.asked.append((draft, skills))
        return self.opinions.get(draft, SILENT)

    def judge(self, problem, trace, known):
        return Judgement(self.reason == "valid", problem.answer, self.reason)

    def pass_rate(self, problem, key):
        return 0.5


def played(*messages, domain=None, skills=("one", "two", "three"), sandbox=None):
    """The trajectory of an episode of the domain math whose messages are these."""
    env = Env(domain or Math(), SKILLS, sandbox or Printing(), replace(TINY, domain="math"))
    one, turns = Episode(env, skills), []
    for number, message in enumerate(messages):
        action, stage, facts, _ = one.step(message)
        turns.append(Turn(action, stage, number, number + 1, facts))
    count = len(turns)
    return Trajectory([0] * count, [1] * count, [0.0] * count, list(range(count)), turns, skills, problem=one.problem,
                      outcome=one.outcome or "turn_limit", drafts=one.drafts)


def judged(trajectory, says=None, critic=True):
    """Judge it. Returns r_proc and source of every action."""
    says = says or Says()
    Judge(says, says, TOKENIZER, TINY, says if critic else None).judge(trajectory, frozenset())
    return [(turn.process_reward, turn.facts.get("source")) for turn in trajectory.turns]


SUBMIT, PRUNE = tool_call("submit", answer="2"), tool_call("edit", prune="one")

# ---------------------------------------------------------------- the table of process_reward, row by row


@pytest.mark.parametrize("opinion, message, expected", [
    # A draft, and a reflection about it.
    (SOUND_, draft(SECOND), 1), (FAULTY, draft(SECOND), 0), (SILENT, draft(SECOND), 0),
    (SOUND_, "Sound.", 1), (SOUND_, "Fault: one.", -1),
    (BLAMED, "Sound.", -1), (BLAMED, "Fault: one.", 1), (BLAMED, "Fault: one: it is idle.", 1),
    (BLAMED, "Fault: two.", -1), (BLAMED, "Fault: two, or one.", -1),  # a list of all skills is no finding
    (BLAMED, "Fault: ", 0), (BLAMED, "Fault: .", -1), (BLAMED, "Fault: " + " " * 200 + "one.", -1),
    (FAULTY, "Fault: two.", 1), (FAULTY, "Sound.", -1),
    (SILENT, "Sound.", 0), (SILENT, "Fault: one.", 0), (SOUND_, "Perhaps.", 0),
    # An edit: a pruned or replaced culprit, an innocent; one that is refused is known to be wrong.
    (BLAMED, PRUNE, 1), (BLAMED, tool_call("edit", replace="one", by="four"), 1),
    (BLAMED, tool_call("edit", prune="two"), -1), (SOUND_, PRUNE, -1), (FAULTY, PRUNE, 0), (SILENT, PRUNE, 0),
    (BLAMED, tool_call("edit", prune="five"), -1),
    # A submission without a passing check.
    (SOUND_, SUBMIT, -1), (FAULTY, SUBMIT, -1), (SILENT, SUBMIT, 0),
])
def test_the_critic_judges_every_action(opinion, message, expected):
    """The committee cannot judge, so the critic's opinion of the draft at hand is all that is known."""
    trajectory = played(draft(FIRST), message)
    rewards = judged(trajectory, Says({FIRST: opinion, SECOND: opinion}))
    known = opinion.sound is not None
    assert rewards[0] == (1 if opinion.sound else 0, "critic" if known else None)
    assert rewards[1][0] == expected
    if expected:
        assert rewards[1][1] == (None if "five" in message else "critic")


@pytest.mark.parametrize("reason, code, message, expected", [
    ("valid", ANSWER, SUBMIT, [1, 1]), ("valid", None, SUBMIT, [1, -1]),  # with a passing check, and without one
    ("valid", ANSWER, tool_call("submit", answer="3"), [1, -1]), ("known problem", ANSWER, SUBMIT, [1, 1]),
    ("wrong answer", ANSWER, SUBMIT, [1, -1]),  # the problem is sound, but what the check passed is wrong
    ("ambiguous", ANSWER, SUBMIT, [0, -1]), ("disagreement", None, SUBMIT, [0, -1]),
    ("could not judge", ANSWER, SUBMIT, [0, 0]), ("could not judge", None, SUBMIT, [0, 0]),
])
def test_hindsight_judges_the_last_draft_without_a_critic(reason, code, message, expected):
    trajectory = played(draft(FIRST), *([run_code(code)] if code else []), message)
    rewards = judged(trajectory, Says(reason=reason), critic=False)
    assert [rewards[0][0], rewards[-1][0]] == expected
    source = None if reason == "could not judge" else "hindsight"
    assert rewards[0][1] == rewards[-1][1] == source and "critic" not in trajectory.drafts[0]


@pytest.mark.parametrize("reason, sound, fault", [("valid", 1, -1), ("several answers", -1, 1),
                                                  ("could not judge", 0, 0)])
def test_hindsight_judges_reflections_about_exactly_the_last_draft(reason, sound, fault):
    """The first "Sound." is about another draft, and the second one about the last draft with other skills."""
    trajectory = played(draft(FIRST), "Sound.", draft(SECOND), "Sound.", PRUNE, "Sound.", "Fault: two.", SUBMIT)
    rewards = [reward for reward, _ in judged(trajectory, Says(reason=reason), critic=False)]
    assert rewards[:5] == [0] * 5 and rewards[5:7] == [sound, fault]
    assert len(trajectory.drafts) == 3


def test_without_a_submission_hindsight_knows_nothing():
    assert judged(played(draft(FIRST), "Sound."), critic=False) == [(0, None), (0, None)]


def test_the_committee_knows_better_than_the_critic():
    """V(q) decides about the submitted draft; the critic about the other, and which skill is at fault."""
    trajectory = played(draft(FIRST), draft(SECOND), "Sound.", SUBMIT)
    assert judged(trajectory, Says({FIRST: SOUND_, SECOND: BLAMED}, "valid")) == [
        (1, "critic"), (1, "hindsight"), (1, "hindsight"), (-1, "hindsight")]
    trajectory = played(draft(FIRST), "Fault: two.", "Fault: one.", SUBMIT)
    assert judged(trajectory, Says({FIRST: BLAMED}, "ambiguous")) == [
        (0, "hindsight"), (-1, "critic"), (1, "critic"), (-1, "hindsight")]
    assert [turn.facts["why"] for turn in trajectory.turns] == ["ambiguous", "one is idle", "one is idle", "ambiguous"]
    trajectory = played(draft(FIRST), "Fault: two.", SUBMIT)  # the critic saw no fault: any will do
    assert judged(trajectory, Says({FIRST: SOUND_}, "ambiguous"))[1] == (1, "hindsight")


def test_the_critic_is_asked_once_for_each_draft_with_its_skills():
    says = Says({FIRST: SOUND_})
    judged(played(draft(FIRST), "Sound.", run_code(ANSWER), draft(SECOND), draft(FIRST), PRUNE, "Sound.", SUBMIT), says)
    everything, rest = ("one", "two", "three"), ("two", "three")
    assert says.asked == [(FIRST, everything), (SECOND, everything), (FIRST, rest)]


def test_nothing_is_paid_twice():
    """As where a program knows: the same draft, and the same judgement of it, once; an edit does not change that."""
    trajectory = played(draft(FIRST), draft(FIRST), "Sound.", "Sound. Indeed.", "Fault: one.", "Fault: one.", PRUNE,
                        draft(FIRST), draft(SECOND), draft(SECOND))
    assert [reward for reward, _ in judged(trajectory, Says({FIRST: SOUND_, SECOND: SOUND_}))] == [
        1, 0, 1, 0, -1, -1, -1, 0, 1, 0]


def test_a_draft_beside_a_call_is_taken_into_account():
    """It is paid for when it is written in a message of its own; the call is judged as it is."""
    trajectory = played(draft(FIRST) + run_code(ANSWER), draft(FIRST), run_code(ANSWER), draft(SECOND) + SUBMIT)
    assert judged(trajectory, Says({FIRST: SOUND_, SECOND: FAULTY})) == [
        (1, "critic"), (1, "critic"), (0, None), (-1, "critic")]
    assert trajectory.turns[0].facts["draft"] == "sound" and trajectory.turns[0].facts["repeated"] is False


@pytest.mark.parametrize("code, reward", [
    (ANSWER, 1), (FAULT, 1), ("print('Fault: it has two')", 1), ("pass", 0), ("print('')", 0), ("print('hello')", 0),
    ("print('fault:')", 0), ("print('answer: ')", 0), (f"print('{FIRST}')", 0), ("print('2')", 0),
])
def test_a_program_must_bear_on_the_draft(code, reward):
    trajectory = played(draft(FIRST), run_code(code), run_code(code))
    assert [turn[0] for turn in judged(trajectory)] == [0, reward, 0]


def test_a_program_without_a_draft_or_with_its_echo_bears_on_nothing():
    assert judged(played(run_code(ANSWER))) == [(0, None)]
    lying = FIRST + "\nanswer: 2"
    assert judged(played(draft(lying), run_code(ANSWER)))[1] == (0, None)
    failing = FakeSandbox(SandboxResult("answer: 2", "NameError", "error", 1, 0.0))
    assert judged(played(draft(FIRST), run_code(ANSWER), sandbox=failing))[1] == (-1, None)


def test_judging_again_changes_nothing_and_the_record_can_be_written():
    trajectory = played(draft(FIRST), "Sound.", draft(SECOND), "Fault: one.", PRUNE, draft(SECOND), run_code(ANSWER),
                        SUBMIT)
    says = Says({FIRST: SOUND_, SECOND: BLAMED}, "valid")
    before = judged(trajectory, says), json.dumps(trajectory.to_dict())
    assert (judged(trajectory, says), json.dumps(trajectory.to_dict())) == before
    assert Trajectory.from_dict(json.loads(before[1])) == trajectory
    assert trajectory.drafts[1] == {"text": SECOND, "skills": ["one", "two", "three"], "critic": {
        "sound": False, "culprit": "one", "reason": "one is idle"}}


# ---------------------------------------------------------------- where a program knows, nothing changes


def test_where_programs_know_the_critic_is_not_asked(make_env, run):
    """The miniature's episodes have the facts that they had: no draft is kept, none is filled in."""
    sound = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."
    episode, says = Episode(make_env(), ("shift", "share")), Says(reason="valid")
    turns = [Turn(*episode.step(text)[:2], 0, 1, {}) for text in ("Sound.", draft(sound), "Sound.", "Fault: share.")]
    facts = [episode.step(text)[2] for text in (run_code("print('x')"), tool_call("edit", prune="least"), SUBMIT)]
    assert facts == [
        {"status": "ok", "repeated": False, "output": "ok: 11", "passed": True},
        {"legal": False, "in_conflict": False}, {"checked": False}]
    trajectory = Trajectory([], [], [], [], turns, ("shift",), problem=episode.problem, drafts=episode.drafts)
    before = json.dumps(trajectory.to_dict())
    fill_facts(trajectory, says)
    assert json.dumps(trajectory.to_dict()) == before and says.asked == [] and "drafts" not in before
    assert not any(name.startswith(("critic/", "signal/", "source/")) for name in summary([trajectory]))


# ---------------------------------------------------------------- metrics


def test_metrics_by_hand():
    """Two episodes with 3 + 4 actions. The critic finds SECOND sound, and abstains from FIRST."""
    says = Says({SECOND: SOUND_, FIRST: Opinion(None, None, "no reply")}, "valid")
    one, two = played(draft(SECOND), "Sound.", SUBMIT), played(draft(FIRST), draft(SECOND), "Hm.", draft(FIRST))
    judged(one, says)
    judged(two, says)
    metrics = summary([one, two])
    assert {name: value for name, value in metrics.items() if name.startswith(("critic/", "signal/", "source/"))} == (
        pytest.approx({
            "critic/sound": 2 / 2, "critic/abstained/no reply": 1 / 3, "critic/agrees": 1 / 1,
            "source/critic": 1 / 7, "source/hindsight": 3 / 7, "signal/all": 4 / 7,
            "signal/draft": 1 / 2, "signal/check": 3 / 5}))
    assert metrics["process_reward/check"] == pytest.approx((1 - 1 + 1 + 0 + 0) / 5)
    judged(one, replace(says, reason="unsolvable"))
    assert summary([one])["critic/agrees"] == 0
    judged(one, replace(says, reason="could not judge"))
    assert "critic/agrees" not in summary([one])


# ---------------------------------------------------------------- a critic that is a language model


def opinion(**fields):
    return json.dumps(fields)


@pytest.mark.parametrize("reply, expected", [
    (opinion(sound=True, skill=None, reason="fine"), Opinion(True, None, "fine")),
    (opinion(sound=False, skill="one", reason="idle\nindeed"), Opinion(False, "one", "idle")),
    ("<think>{\"sound\": true}</think> " + opinion(Sound="False", Skill="Two Parts."), Opinion(False, "two-parts", "")),
    (opinion(sound=True, skill="one"), Opinion(True, None, "")),  # a sound draft has no culprit
    (opinion(sound=False, skill="nine"), Opinion(False, None, "")),
    (opinion(sound=False, skill=["one"], reason=["a"]), Opinion(False, None, "['a']")),
    (opinion(sound=False, reason="x" * 900), Opinion(False, None, "x" * 200)),
    *((reply, Opinion(None, None, "unreadable opinion")) for reply in ("Sound.", opinion(sound=1), "", "{" * 9000)),
])
def test_reading_an_opinion(reply, expected):
    assert read_opinion(reply, ("one", "two-parts")) == expected


def test_a_broken_reply_is_asked_once_more():
    """The second question says what was missing. A critic that has said something is not asked again."""
    for replies, expected in (
        (["hm", opinion(sound=True)], Opinion(True)), (["hm", "hm"], Opinion(None, None, "unreadable opinion")),
        ([opinion(sound=False, reason="unreadable opinion")], Opinion(False, None, "unreadable opinion")),
    ):
        prompts, script = [], iter(replies)
        critic = ChatCritic(lambda prompt: prompts.append(prompt) or next(script), describe=lambda skills: "two words")
        assert critic.criticise("The {draft}.", ("one", "two")) == expected
        assert "The {draft}." in prompts[0] and "two words" in prompts[0] and "one, two" in prompts[0]
        assert prompts[1:] == [prompts[0] + AGAIN] * (len(replies) - 1)


@pytest.mark.parametrize("error, reason", [(TimeoutError, "no reply"), (KeyError, "judge failed")])
def test_a_critic_that_raises_abstains(error, reason):
    def ask(prompt):
        raise error("secret")

    assert ChatCritic(ask).criticise(FIRST, ("one",)) == Opinion(None, None, reason)


def test_a_dead_critic_is_for_people():
    def ask(prompt):
        raise UserError("the server cannot be reached")

    with pytest.raises(UserError, match="cannot be reached"):
        ChatCritic(ask).criticise(FIRST, ("one",))


def test_a_critic_that_always_abstains_changes_nothing_and_is_counted(capsys):
    """The rewards are those without a critic, the metrics name the reason, and one sentence says it once."""
    messages = draft(FIRST), "Sound.", draft(SECOND), "Fault: one.", PRUNE, run_code(ANSWER), SUBMIT
    critic, alone = ChatCritic(lambda prompt: "I see."), played(*messages)
    says = Says(reason="valid")
    expected = judged(alone, says, critic=False)
    for number in range(SAID_AFTER):
        episode = played(*messages)
        Judge(says, says, TOKENIZER, TINY, critic).judge(episode, frozenset())
        assert [(turn.process_reward, turn.facts.get("source")) for turn in episode.turns] == expected
    assert [turn.facts for turn in episode.turns] == [turn.facts for turn in alone.turns]
    metrics = summary([episode])
    assert metrics["critic/abstained/unreadable opinion"] == 1 and "critic/sound" not in metrics
    said = capsys.readouterr()
    assert (said.out + said.err).count("critic: it abstained from its first 20 drafts") == 1


def test_a_critic_with_opinions_is_not_complained_about(capsys):
    script = iter([opinion(sound=True)] + ["hm"] * 99)
    critic = ChatCritic(lambda prompt: next(script))
    for _ in range(2 * SAID_AFTER):
        critic.criticise(FIRST, ("one",))
    said = capsys.readouterr()
    assert "critic" not in said.out + said.err


# ---------------------------------------------------------------- a simulated critic


@pytest.fixture(scope="module")
def drawn():
    """Random drafts of the miniature with their skills."""
    mini, rng = Mini(), random.Random(0)
    sets = [tuple(rng.sample(mini.skills, 2)) for _ in range(300)]
    drafts = [(mini.draw_problem(skills, rng), skills) for skills in sets]
    return mini, [(text, skills, mini.check(text, skills)) for text, skills in drafts]


@pytest.mark.parametrize("p", [1, 0.7, 0.5, 0])
def test_the_simulated_critic_is_right_with_frequency_p(drawn, p):
    """Within four standard errors; p = 1 says what the exact check says, p = 0 the opposite."""
    mini, drafts = drawn
    right = []
    for text, skills, truth in drafts:
        said = SimulatedCritic(p, mini).criticise(text, skills)
        right.append(said.sound == (truth.status == "ok"))
        assert said.culprit is None if said.sound else said.culprit in (*skills, None)
        if right[-1] and not said.sound:
            assert said.culprit == (truth.culprit if truth.culprit in skills else None)
    assert abs(sum(right) / len(right) - p) <= 4 * (p * (1 - p) / len(right)) ** 0.5
    assert 50 < sum(truth.status == "ok" for *_, truth in drafts) < 250  # both kinds are there
    assert right == [SimulatedCritic(p, mini).criticise(text, skills).sound == (truth.status == "ok")
                     for text, skills, truth in drafts[:20]] + right[20:]  # the same draft, the same opinion


def test_a_hidden_exact_check_leaves_the_tool_as_it_is(make_env):
    """The same messages in the miniature and in the blind one: equal outputs and stages; with p = 1 equal rewards."""
    fraction = "a is 24. b is 7 more than a. c is b divided by 2. Find c."
    sound = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."
    check = run_code(Mini.check_program)
    messages = (draft(fraction), check, "Fault: share.", draft(sound), "Sound.", check, tool_call("submit"))
    seen, blind = [], BlindMini()
    for domain in (Mini(), blind):
        env = make_env()
        env.domain, env.look = domain, domain.look
        episode, steps, turns = Episode(env, ("shift", "share")), [], []
        for message in messages:
            action, stage, facts, reply = episode.step(message)
            steps.append((action, stage, reply))
            turns.append(Turn(action, stage, 0, 1, facts))
        trajectory = Trajectory([], [], [], [], turns, (), problem=episode.problem, drafts=episode.drafts)
        unknown = [process_reward(turn.action, turn.facts) for turn in turns]
        trajectory.reason = "valid"
        fill_facts(trajectory, SimulatedCritic(1, blind))
        seen.append((steps, episode.problem, [process_reward(turn.action, turn.facts) for turn in turns]))
    assert seen[0] == seen[1] and seen[0][2] == [0, 1, 1, 1, 1, 1, 1]
    assert unknown == [0, 1, 0, 0, 0, 1, 0]
    assert blind.look(sound).status == "unknown" and blind.in_conflict(("least", "share"), "least") is None


# ---------------------------------------------------------------- bench/critic.py


@pytest.fixture
def bench():
    return script(Path(__file__).parent.parent / "bench" / "critic.py")


@pytest.mark.parametrize("word, p", [("0.7", 0.7), ("none", None)])
def test_a_run_with_a_critic(bench, tiny, monkeypatch, word, p):
    """Which domain, which critic, and which options reach run_mgpo.py."""
    monkeypatch.setitem(catalog.DOMAINS, "mini", Mini)
    monkeypatch.setattr(run_mgpo, "Run", Run)
    seen = []
    monkeypatch.setattr(run_mgpo, "main", seen.append)
    bench.main([word, "--seed", "3"])
    assert seen == [["--seed", "3"]]
    with run_mgpo.Run(tiny) as opened:
        assert type(opened.domain) is BlindMini
        assert p is None and opened.critic is None or opened.critic.p == p
        text = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."
        assert opened.env.look(text, ("shift", "share")).status == "unknown"
        if p is not None:
            here = SimulatedCritic(p, Mini()).criticise(text, ("shift", "share"))
            assert opened.critic.criticise(text, ("shift", "share")) == here


@pytest.mark.parametrize("argv", [[], ["exact"], ["1.5"], ["nan"], ["--seed", "3"]])
def test_what_is_no_critic(bench, monkeypatch, argv):
    monkeypatch.setattr(run_mgpo, "main", lambda argv: pytest.fail("it ran"))
    with pytest.raises(UserError, match="is no critic: give none, or the probability"):
        bench.main(argv)
