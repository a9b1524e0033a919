"""The committee: V(q) = 1 iff two of three vote valid, no reason blocks, and answers agree or the auditor settles."""
import itertools
import threading
import time

import pytest

from ap.judge.roles import Verdict
from ap.judge.verifier import BLOCKING, Committee, ProgramCheck, ProgramVerifier, same_answer
from ap.mini.checks import Solution
from ap.mini.domain import Mini
from ap.players.chat_verifier import MAX_UNANSWERED, ChatVerifier, read_verdict
from ap.trajectory import Problem

PROBLEM = Problem("a is 20. b is 5 more than a. Find b.", "25", ("shift",))
YES, OTHER, NO, ABSTAIN = Verdict(1, "25", "valid"), Verdict(1, "26", "valid"), Verdict(0, None, "wrong"), Verdict(None)


class Says:
    """A verifier with a fixed verdict, which counts how often it was asked."""

    def __init__(self, verdict):
        self.verdict, self.asked = verdict, 0

    def verify(self, problem, trace=""):
        self.asked += 1
        return self.verdict


def judge(*verdicts, auditor=ABSTAIN, check=None, known=frozenset(), problem=PROBLEM):
    committee = Committee([Says(v) for v in verdicts], Says(auditor), Says(check) if check else None)
    return committee.judge(problem, known=known)


# ---------------------------------------------------------------- votes


@pytest.mark.parametrize("votes, reason", [
    ("YYY", "valid"), ("YYN", "valid"), ("YYA", "valid"), ("YNN", "wrong"), ("NNN", "wrong"), ("NNA", "wrong"),
    ("YNA", "could not judge"), ("YAA", "could not judge"), ("NAA", "could not judge"), ("AAA", "could not judge"),
])
def test_truth_table_of_the_votes(votes, reason):
    """All ten multisets of three votes, in every order: two votes decide, an abstention is not a vote."""
    verdict = {"Y": YES, "N": NO, "A": ABSTAIN}
    for order in set(itertools.permutations(votes)):
        judgement = judge(*[verdict[vote] for vote in order])
        assert judgement.reason == reason, order
        assert judgement.valid == (reason == "valid")
        assert judgement.answer == ("25" if reason == "valid" else None)


def test_a_valid_vote_without_an_answer_is_no_vote():
    assert judge(YES, Verdict(1, None, "valid"), ABSTAIN).reason == "could not judge"


@pytest.mark.parametrize("reason", sorted(BLOCKING))
def test_one_reason_that_names_ambiguity_or_unsolvability_is_enough(reason):
    assert judge(YES, YES, Verdict(0, None, reason)).reason == reason
    assert judge(YES, YES, Verdict(1, "25", reason)).reason == reason
    assert judge(YES, YES, Verdict(None, None, reason)).valid  # the reason of an abstention does not count


def test_the_reason_of_a_lost_vote_is_the_commonest_against():
    fraction, negative = Verdict(0, None, "fraction"), Verdict(0, None, "negative")
    assert judge(negative, fraction, fraction).reason == "fraction"
    assert judge(YES, Verdict(0), Verdict(0, None, "valid")).reason == "invalid"  # never named "valid"


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("auditor, reason", [
    (YES, "valid"), (OTHER, "wrong answer"), (Verdict(1, "27"), "disagreement"), (NO, "disagreement"),
    (Verdict(1, None), "disagreement"), (ABSTAIN, "could not judge"),
    (Verdict(0, None, "several answers"), "several answers"),
])
def test_the_auditor_settles_a_difference(auditor, reason):
    """25 against 26; the claim is 25. An auditor with a third answer settles nothing."""
    assert judge(YES, OTHER, NO, auditor=auditor).reason == reason
    assert judge(YES, OTHER, YES, auditor=auditor).reason == reason


def test_the_auditor_is_asked_only_when_answers_differ():
    auditor = Says(YES)
    Committee([Says(YES)] * 3, auditor).judge(PROBLEM)
    Committee([Says(NO)] * 3, auditor).judge(PROBLEM)
    assert auditor.asked == 0
    Committee([Says(YES), Says(OTHER), Says(NO)], auditor).judge(PROBLEM)
    assert auditor.asked == 1


def test_answers_agree_by_value_and_not_by_text():
    assert judge(YES, Verdict(1, "25.0"), Verdict(1, "50/2")).valid
    assert same_answer(" 025 ", "25") and not same_answer("25", "52") and not same_answer("", "25")


def test_a_wrong_claim_is_invalid_even_when_all_vote_valid():
    assert judge(OTHER, OTHER, OTHER).reason == "wrong answer"


# ---------------------------------------------------------------- who agrees


@pytest.mark.parametrize("verdicts, audit, votes, agreed", [
    ((YES, YES, NO), ABSTAIN, (1, 1, 0), (True, True, False)),  # valid
    ((OTHER, OTHER, NO), ABSTAIN, (1, 1, 0), (True, True, False)),  # the claim is wrong, the problem is not
    ((NO, NO, YES), ABSTAIN, (0, 0, 1), (True, True, False)),
    ((YES, ABSTAIN, YES), ABSTAIN, (1, None, 1), (True, None, True)),
    ((YES, NO, ABSTAIN), ABSTAIN, (1, 0, None), (None, None, None)),  # no verdict
    ((YES, NO, Verdict(1)), ABSTAIN, (1, 0, None), (None, None, None)),  # without an answer it is no vote
    ((YES, YES, Verdict(0, None, "ambiguous")), ABSTAIN, (1, 1, 0), (False, False, True)),
    ((NO, Verdict(0, None, "wrong answer"), NO), ABSTAIN, (0, 0, 0), (True, True, True)),  # a judge's own words
    ((YES, OTHER, NO), YES, (1, 1, 0, 1), (True, False, False)),  # valid: the auditor sides with the first
    ((YES, OTHER, NO), OTHER, (1, 1, 0, 1), (False, True, False)),
    ((YES, OTHER, NO), NO, (1, 1, 0, 0), (False, False, True)),
    ((YES, OTHER, NO), Verdict(1, "27"), (1, 1, 0, 0), (False, False, True)),
    ((YES, OTHER, NO), ABSTAIN, (1, 1, 0, None), (None, None, None)),
])
def test_votes_and_who_said_what_came_of_it(verdicts, audit, votes, agreed):
    judgement = judge(*verdicts, auditor=audit)
    assert (judgement.votes, judgement.agreed) == (votes, agreed)
    asked = [*verdicts, audit][:len(votes)]  # then the program check, where it is asked
    assert judgement.reasons[:len(votes)] == tuple(verdict.reason for verdict in asked)
    assert len(judgement.reasons) <= len(votes) + 1


def test_agreement_counts_the_program_check_but_not_what_is_known():
    assert judge(YES, YES, NO, check=Verdict(0, None, "idle")).agreed == (False, False, True)
    assert judge(YES, YES, NO, check=ABSTAIN).agreed == (None, None, None)
    assert judge(YES, YES, NO, known={PROBLEM.question}).agreed == (True, True, False)
    assert judge(YES, YES, NO, check=YES).votes == (1, 1, 0)  # the program check is no vote


# ---------------------------------------------------------------- planted problems, all votes, all audits

PLANTED = {"ambiguous": "ambiguous", "underspecified": "missing information", "unsolvable": "unsolvable",
           "wrong answer": "wrong", "fine": "wrong"}  # the reason of a verdict against it
AUDITS = {"first": Verdict(1, "25", "valid"), "second": Verdict(1, "26", "valid"), "third": Verdict(1, "27", "valid"),
          "against": Verdict(0, None, "wrong"), "blocking": Verdict(0, None, "ambiguous"), "silent": Verdict(None)}


def by_the_rule(kind, votes, agree, audit):
    """Method, 5: two of three valid; no reason names ambiguity, missing information or unsolvability; answers agree or
    the auditor settles; the claim is what was agreed on."""
    if kind in ("ambiguous", "underspecified", "unsolvable") and 0 in votes:
        return PLANTED[kind]
    if sum(votes) < 2:
        return "wrong"
    agreed = "first" if agree else audit
    if agreed in ("third", "against"):
        return "disagreement"
    if agreed in ("blocking", "silent"):
        return {"blocking": "ambiguous", "silent": "could not judge"}[agreed]
    return "valid" if agreed == ("second" if kind == "wrong answer" else "first") else "wrong answer"


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_problems_go_where_the_rule_says(kind):
    """All 2^3 votes, with answers that agree or not, and all outcomes of the audit. The truth is 25; a planted wrong
    claim is 26."""
    problem = Problem(PROBLEM.question, "26" if kind == "wrong answer" else "25", ("shift",))
    seen = set()
    for votes, agree, audit in itertools.product(itertools.product((0, 1), repeat=3), (True, False), AUDITS):
        first = votes.index(1) if 1 in votes else None
        verdicts = [Verdict(1, "25" if agree or n == first else "26", "valid") if vote else
                    Verdict(0, None, PLANTED[kind]) for n, vote in enumerate(votes)]
        judgement = judge(*verdicts, auditor=AUDITS[audit], problem=problem)
        expected = by_the_rule(kind, votes, agree, audit)
        assert (judgement.reason, judgement.valid) == (expected, expected == "valid"), (votes, agree, audit)
        seen.add(expected)
    assert {"valid", "wrong answer", "disagreement", "could not judge", PLANTED[kind]} <= seen


# ---------------------------------------------------------------- program check, known problems


@pytest.mark.parametrize("check, reason", [
    (YES, "valid"), (OTHER, "disagreement"), (Verdict(0, None, "missing skill"), "missing skill"),
    (Verdict(0), "invalid"), (ABSTAIN, "could not judge"),
])
def test_the_program_check_stands_beside(check, reason):
    assert judge(YES, YES, YES, check=check).reason == reason


def test_an_unsound_problem_is_named_before_its_claim():
    """About an unsound problem no claim can be right."""
    assert judge(OTHER, OTHER, OTHER, check=Verdict(0, None, "idle")).reason == "idle"


def test_the_program_check_cannot_save_what_the_committee_refused():
    assert judge(NO, NO, YES, check=YES).reason == "wrong"
    assert judge(YES, ABSTAIN, NO, check=YES).reason == "could not judge"


def test_a_known_problem_is_invalid():
    assert judge(YES, YES, YES, known={PROBLEM.question}).reason == "known problem"
    assert judge(OTHER, OTHER, OTHER, known={PROBLEM.question}).reason == "wrong answer"


def test_a_committee_has_three():
    with pytest.raises(ValueError, match="three"):
        Committee([Says(YES)] * 2, Says(YES))


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("reply, verdict", [
    ('I solved it. {"valid": true, "answer": 25, "reason": "valid"}', Verdict(1, "25", "valid")),
    ('{"valid": true, "answer": "1"} no: {"valid": false, "answer": null, "reason": "Ambiguous"}',
     Verdict(0, None, "ambiguous")),
    ('{"valid": true} {"valid": "yes"}', Verdict(1, None, "")),
    ('{"valid": true, "answer": "your own final answer", "reason": "one of: ambiguous, wrong"}', Verdict(1, None, "")),
    ("valid", Verdict(None, None, "unreadable verdict")), ('{"valid": 1}', Verdict(None, None, "unreadable verdict")),
    ("{" * 10_000, Verdict(None, None, "unreadable verdict")), (None, Verdict(None, None, "unreadable verdict")),
    ('{"valid": ' + "[" * 9000 + "}", Verdict(None, None, "unreadable verdict")),
])
def test_reading_a_models_verdict(reply, verdict):
    assert read_verdict(reply) == verdict


def test_a_model_sees_trace_and_question_and_its_silence_is_an_abstention():
    asked = []
    ChatVerifier(lambda prompt: asked.append(prompt) or "{}").verify(PROBLEM, "the {trace}")
    assert "the {trace}" in asked[0] and PROBLEM.question in asked[0]
    assert PROBLEM.answer not in asked[0].replace(PROBLEM.question, "")  # the claimed answer is not given away

    def silent(prompt):
        raise TimeoutError

    assert ChatVerifier(silent).verify(PROBLEM).vote is None


@pytest.mark.parametrize("error, reason", [
    (TimeoutError, "no reply"), (OSError, "judge failed"), (KeyError, "judge failed"), (MemoryError, "judge failed"),
])
def test_a_judge_that_raises_abstains_and_is_counted(error, reason):
    """*Choice*: a judge abstains whatever its client raises. The two others still decide."""
    def ask(prompt):
        raise error("secret")

    committee = Committee([Says(YES), ChatVerifier(ask), Says(YES)], Says(ABSTAIN))
    judgement = committee.judge(PROBLEM)
    assert (judgement.outcome, judgement.abstained) == ("valid", (reason,))
    judgement = Committee([ChatVerifier(ask)] * 3, Says(YES)).judge(PROBLEM)
    assert (judgement.outcome, judgement.valid, judgement.abstained) == ("could not judge", False, (reason,) * 3)


def test_a_judge_that_hangs_stalls_nothing():
    """It costs its time limit a few times, then nothing, and is asked again when it has come back."""
    hanging = threading.Event()
    judge = ChatVerifier(lambda prompt: hanging.wait(60) and '{"valid": true, "answer": 25}', seconds=0.05)
    committee, start = Committee([Says(YES), judge, Says(YES)], Says(ABSTAIN)), time.perf_counter()
    for _ in range(200):
        judgement = committee.judge(PROBLEM)
        assert judgement.valid and judgement.abstained == ("no reply",)
    assert time.perf_counter() - start < 5 and len(judge.unanswered) == MAX_UNANSWERED
    hanging.set()
    for thread in list(judge.unanswered):
        thread.join(5)
    assert judge.verify(PROBLEM).vote == 1 and not judge.unanswered


def test_a_mistake_in_our_own_programs_is_not_hidden():
    """*Choice*: a program verifier that raises is a bug of ours; an abstention would hide it in a rate."""
    def broken(*_):
        raise KeyError("a bug")

    for committee in (Committee([ProgramVerifier(broken)] * 3, Says(YES)),
                      Committee([Says(YES)] * 3, Says(YES), ProgramCheck(broken))):
        with pytest.raises(KeyError):
            committee.judge(PROBLEM)


def test_the_three_outcomes_are_kept_apart():
    assert [judge(*verdicts).outcome for verdicts in ((YES, YES, NO), (NO, NO, YES), (YES, NO, ABSTAIN))] == [
        "valid", "invalid", "could not judge"]
    assert judge(YES, YES, YES, check=ABSTAIN).outcome == "could not judge"
    assert judge(YES, OTHER, NO, auditor=Verdict(None, None, "late")).abstained == ("late",)
    assert judge(YES, YES, YES).abstained == ()


def test_programs_abstain_when_they_give_up():
    for status, vote in (("ok", 1), ("no answer", 0), ("unknown", None)):
        assert ProgramVerifier(lambda text: Solution(status, "1")).verify(PROBLEM).vote == vote


# ---------------------------------------------------------------- the miniature world


@pytest.fixture(scope="module")
def committee():
    mini = Mini()
    return Committee([ProgramVerifier(solve) for solve in mini.verifiers], ProgramVerifier(mini.auditor),
                     ProgramCheck(mini.audit), mini.canonical)


@pytest.mark.parametrize("question, answer, skills, reason", [
    ("a is 20. b is 5 more than a. Find b.", "25", ("shift",), "valid"),
    ("a is 20. b is 5 more than a. Find b.", "24", ("shift",), "wrong answer"),
    ("a is 20. b is 5 more than a. Find b.", "", ("shift",), "wrong answer"),
    ("a is 20. b is 5 more than a. Find b.", "25", ("shift", "scale"), "missing skill"),
    ("a is 20. b is a divided by 3. Find b.", "6", ("share",), "no answer"),
    ("Tell me a number.", "3", (), "unreadable"),
    ("a is a whole number from 0 to 99. b is the digit sum of a. Here b is 5. Find a.", "5", ("digits", "invert"),
     "several answers"),
    ("a is 20. b is 5 more than a. c is 2 times a. Find b.", "25", ("shift",), "idle"),
])
def test_committee_of_programs(committee, question, answer, skills, reason):
    judgement = committee.judge(Problem(question, answer, skills))
    assert (judgement.reason, judgement.valid) == (reason, reason == "valid")


def test_a_renamed_known_problem_does_not_count(committee):
    known = {committee.canonical("z is 20. y is 5 more than z. Find y.")}
    assert committee.judge(PROBLEM, known=known).reason == "known problem"
    assert committee.judge(Problem("a is 20. b is 6 more than a. Find b.", "26", ("shift",)), known=known).valid
