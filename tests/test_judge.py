"""What an episode is worth: the verdict, the pass rate and the rewards, and the rates that are reported."""
import json
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from ap.config import Config
from ap.judge.judge import Judge
from ap.judge.prober import Prober
from ap.judge.roles import Judgement
from ap.tools.summary import summary
from ap.trajectory import Problem, Trajectory, Turn

CONFIG = Config(r_base=2.0, hardness=3.0)
# A tokenizer whose chat format has been read already (ap/compat/chat_format.py).
TOKENIZER = SimpleNamespace(
    chat_template="", ap_chat_format=("", SimpleNamespace(message=lambda ids: f"{len(ids)} tokens")))


class FakeCommittee:
    """Accepts problems with the answer 1, if they are new; remembers what it was shown."""

    def __init__(self):
        self.asked = []

    def judge(self, problem, trace, known):
        self.asked.append((problem.question, trace))
        if problem.question in known:
            return Judgement(False, problem.answer, "known problem")
        return Judgement(problem.answer == "1", problem.answer, "valid" if problem.answer == "1" else "fraction")


@dataclass
class FakeProber:
    rates: dict[str, float]
    calls: list = field(default_factory=list)

    def pass_rate(self, problem, key):
        self.calls.append((problem.question, key))
        return self.rates[problem.question]


def judge_all(trajectories, committee, prober, known=frozenset(), config=CONFIG):
    judge = Judge(committee, prober, TOKENIZER, config)
    for number, trajectory in enumerate(trajectories):
        trajectory.key = f"key/{number}"
        judge.judge(trajectory, known)


def episode(outcome, question="", answer="", group=0, turns=(), length=10):
    problem = Problem(question, answer, ("shift", "share")) if question else None
    return Trajectory(
        [0] * length, [0] * length, [0.0] * length, [-1] * length, list(turns), ("shift",), group, outcome, problem)


def turn(action, stage, **facts):
    return Turn(action, stage, 0, 1, facts)


@pytest.fixture
def judged():
    """Eight episodes in two groups: three valid ones, two wrong ones, and three that never submitted."""
    checked, unchecked = (turn("submit", 3, checked=done) for done in (True, False))
    trajectories = [
        episode(
            "submitted", "easy", "1", 0, [turn("think", 0, draft="sound"), turn("exec", 1, status="ok"), checked], 12),
        episode("submitted", "no", "2", 0, [turn("think", 0, draft="faulty"), unchecked], 8),
        episode("token_limit", turns=[turn("think", 0, draft="sound"), turn("unusable", 1, error="cut")], length=20),
        episode(
            "submitted", "hard", "1", 0, [turn("think", 2, judged=True), turn("exec", 1, status="timeout"), checked]),
        episode("unusable", group=1, turns=[turn("unusable", 0, error="empty message")]),
        episode("submitted", "never", "1", 1, [turn("edit", 2, legal=True, in_conflict=True), unchecked]),
        episode("turn_limit", group=1, turns=[turn("think", 0, judged=None)] * 3),
        episode("submitted", "old", "1", 1, [unchecked]),
    ]
    committee, prober = FakeCommittee(), FakeProber({"easy": 1.0, "hard": 0.25, "never": 0.0})
    judge_all(trajectories, committee, prober, {"old"})
    return trajectories, committee, prober


def test_terminal_rewards(judged):
    """Eq. (terminal reward), R_base = 2, lambda = 3: easy 2, hard 2 + 3 * 0.75, never solved 2, all others 0."""
    trajectories, _, _ = judged
    assert [t.reward for t in trajectories] == [2.0, 0.0, 0.0, 4.25, 0.0, 2.0, 0.0, 0.0]
    assert [t.valid for t in trajectories] == [True, False, False, True, False, True, False, False]


def test_the_committee_sees_what_was_submitted_and_the_whole_episode_behind_it(judged):
    assert judged[1].asked == [
        ("easy", "12 tokens"), ("no", "8 tokens"), ("hard", "10 tokens"), ("never", "10 tokens"), ("old", "10 tokens")]


def test_what_was_cut_is_never_counted_as_wrong(judged):
    """The reason of an episode without a submission is how it ended; verdicts are counted for submissions only."""
    trajectories, _, _ = judged
    assert [t.reason for t in trajectories] == [
        "valid", "fraction", "token_limit", "valid", "unusable", "valid", "turn_limit", "known problem"]
    metrics = summary(trajectories)
    assert {name: value for name, value in metrics.items() if name.startswith("verdict/")} == {
        "verdict/valid": 3 / 8, "verdict/fraction": 1 / 8, "verdict/known problem": 1 / 8}
    assert {name: value for name, value in metrics.items() if name.startswith("outcome/")} == {
        "outcome/submitted": 5 / 8, "outcome/token_limit": 1 / 8, "outcome/unusable": 1 / 8,
        "outcome/turn_limit": 1 / 8, "outcome/tool_timeout": 0.0}


def test_mended_messages_are_counted():
    """Unusable messages after which an episode went on, by what was wrong; the one that ended it is counted there."""
    bad, good = turn("unusable", 0, error="bad arguments"), turn("think", 0, judged=None)
    metrics = summary([episode("turn_limit", turns=[bad, good]), episode("unusable", turns=[bad, good, bad]),
                       episode("unusable", turns=[good, bad]), episode("turn_limit", turns=[good])])
    assert {name: value for name, value in metrics.items() if "mended" in name} == {"mended/bad arguments": 2 / 4}
    assert not any("mended" in name for name in summary([episode("unusable", turns=[bad])]))


def test_what_could_not_be_judged_is_neither_valid_nor_invalid():
    """It earns nothing and is counted under its own name; the abstentions are counted by their reasons."""
    class Undecided:
        def judge(self, problem, trace, known):
            return Judgement(False, None, "could not judge", ("no reply", "judge failed", "no reply"))

    trajectories = [episode("submitted", "q", "1"), episode("token_limit")]
    judge_all(trajectories, Undecided(), FakeProber({}))
    metrics = summary(trajectories)
    assert (trajectories[0].reason, trajectories[0].reward, trajectories[1].abstained) == ("could not judge", 0.0, ())
    assert {name: value for name, value in metrics.items() if name.startswith(("verdict/", "abstained/"))} == {
        "verdict/could not judge": 1 / 2, "abstained/no reply": 2 / 2, "abstained/judge failed": 1 / 2}
    assert Trajectory.from_dict(trajectories[0].to_dict()) == trajectories[0]


def test_agreement_of_the_committee_by_hand():
    """Seven judged problems, six of them by two votes or more, five with a verdict; and an episode without votes."""
    class Says:
        judgements = iter([
            ("valid", (1, 1, 1), (True, True, True)), ("valid", (1, 1, 0), (True, True, False)),
            ("wrong", (0, None, 0), (True, None, True)), ("could not judge", (1, None, None), (None, None, None)),
            ("valid", (1, 1, 0, 1), (True, False, False)), ("could not judge", (1, 1, 1, None), (None, None, None)),
            ("disagreement", (1, 1, None, 0), (False, False, None))])

        def judge(self, problem, trace, known):
            reason, votes, agreed = next(self.judgements)
            return Judgement(reason == "valid", "1", reason, (), votes, agreed)

    trajectories = [episode("submitted", f"q{n}", "1") for n in range(7)] + [episode("token_limit")]
    judge_all(trajectories, Says(), FakeProber({f"q{n}": 0.5 for n in range(7)}))
    metrics = summary(trajectories)
    assert {name: value for name, value in metrics.items() if name.startswith("committee/")} == pytest.approx({
        "committee/unanimous": 4 / 6,  # not the second and the fifth; the fourth had one vote
        "committee/audited": 3 / 6, "committee/settled": 1 / 6, "committee/turned": 1 / 6,
        "committee/agrees/1": 4 / 5, "committee/agrees/2": 2 / 4, "committee/agrees/3": 2 / 4})
    assert trajectories[-1].votes == trajectories[-1].agreed == ()
    for trajectory in trajectories:
        assert Trajectory.from_dict(json.loads(json.dumps(trajectory.to_dict()))) == trajectory


def test_the_prober_sees_valid_problems_only(judged):
    """Its seed is the episode's: it does not depend on which other episodes are valid, or on the rank."""
    assert judged[2].calls == [("easy", "key/0"), ("hard", "key/3"), ("never", "key/5")]


def test_process_rewards(judged):
    trajectories, _, _ = judged
    assert [[t.process_reward for t in trajectory.turns] for trajectory in trajectories] == [
        [1, 1, 1], [0, -1], [1, -1], [1, -1, 1], [-1], [1, -1], [0, 0, 0], [-1]]


def test_summary(judged):
    metrics = summary(judged[0])
    expected = {
        "reward": (2 + 4.25 + 2) / 8,
        "valid_rate": 3 / 8,
        "pass_rate": (1 + 0.25 + 0) / 3,  # over the valid ones
        "hard_yield": 1 / 8,  # a problem that is never solved does not count
        "skills_kept": 2.0,
        "turns": (3 + 2 + 2 + 3 + 1 + 2 + 3 + 1) / 8,
        "tokens": (12 + 8 + 20 + 5 * 10) / 8,
        "exec_calls": 2 / 8, "exec_rate": 2 / 8, "edit_rate": 1 / 8,
        "think_rate": 5 / 8,  # three think turns of one episode count once
        "checked_rate": 2 / 8,
        "process_reward/draft": (1 + 0 + 1 - 1 + 0 + 0 + 0) / 7,
        "process_reward/check": (1 - 1 - 1) / 3,
        "process_reward/refine": (1 + 1) / 2,
        "process_reward/finalize": (1 - 1 + 1 - 1 - 1) / 5,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert set(metrics) == set(expected) | {name for name in metrics if name.startswith(("outcome/", "verdict/"))}


def test_of_nothing():
    """No episode at all, and an episode whose prompt left no room, are rates of 0, not a division by zero."""
    assert not any(summary([]).values())
    empty = episode("token_limit")
    judge_all([empty], FakeCommittee(), FakeProber({}))
    metrics = summary([empty])
    assert (empty.reward, metrics["outcome/token_limit"]) == (0.0, 1.0)
    assert (metrics["checked_rate"], metrics["turns"]) == (0.0, 0.0)


def test_judging_again_changes_nothing(judged):
    trajectories, _, _ = judged
    before = [t.to_dict() for t in trajectories]
    prober = FakeProber({"easy": 1.0, "hard": 0.25, "never": 0.0})
    judge_all(trajectories, FakeCommittee(), prober, {"old"})
    assert [t.to_dict() for t in trajectories] == before


def test_with_the_real_committee_and_prober(run):
    sound = "a is 24. b is 7 more than a. c is 2 more than b. d is c divided by 3. Find d."
    right = episode("submitted", sound, "11")
    wrong = episode("submitted", sound, "12")
    renamed = episode("submitted", sound.replace("a is", "z is").replace("than a", "than z"), "11")
    prober = Prober(run.prober.pool, k=16)
    judge_all([right, wrong, renamed], run.committee, prober, {run.domain.canonical(sound)}, Config())
    assert [t.reason for t in (right, wrong, renamed)] == ["known problem", "wrong answer", "known problem"]
    judge_all([right, wrong, renamed], run.committee, prober, config=Config())
    assert [t.reason for t in (right, wrong, renamed)] == ["valid", "wrong answer", "valid"]
    assert 0 < right.pass_rate <= 1 and right.reward == 1 + (1 - right.pass_rate) and wrong.reward == 0
