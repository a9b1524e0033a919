"""Verifier: is a submitted problem valid? V(q) from a committee of three, a second auditor and a program check.

Three outcomes are kept apart: valid, invalid (with a named reason), and "could not judge". An abstention or an unusable
verdict is never a vote, and is counted. *Choice*: what could not be judged earns nothing, since nobody vouches for it.

A judge that is a model or an endpoint (ChatVerifier) is asked under a time limit; when it hangs or raises, it abstains.
*Choice*: our own programs (ProgramVerifier, ProgramCheck) always return, so they are simply called, and what they raise
propagates: that is a mistake of ours, which an abstention would hide.
"""
from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field, replace
from typing import Callable, Sequence

from ap.files import UserError
from ap.engine.processes import here
from ap.judge.roles import Verifier
from ap.trajectory import Problem

VALID, COULD_NOT_JUDGE = "valid", "could not judge"
WRONG, KNOWN = "wrong answer", "known problem"  # reasons against a submission whose problem is sound

# Reasons that name ambiguity, missing information or unsolvability. One of them is enough for V(q) = 0.
BLOCKING = {
    "ambiguous", "several answers", "missing information", "undefined name", "no answer", "unsolvable", "contradiction",
}


@dataclass(frozen=True)
class Verdict:
    """What one verifier says. A vote of None is an abstention."""

    vote: int | None  # v_i: 1 valid, 0 invalid
    answer: str | None = None  # its own
    reason: str = ""  # a short name, such as "several answers"


@dataclass(frozen=True)
class Judgement:
    """What the committee says."""

    valid: bool  # V(q)
    answer: str | None  # that the committee agreed on, where it did
    reason: str  # "valid", "could not judge", or a short name of what is wrong, which logs can count
    abstained: tuple[str, ...] = ()  # why, of every verifier, auditor or check that was asked and gave no vote
    votes: tuple[int | None, ...] = ()  # of the three verifiers, None: no vote; then the auditor's, if it
    # was asked: 1 when it sided with one of their answers, 0 when with none
    agreed: tuple[bool | None, ...] = ()  # did each verifier say what came of it? None: it gave no vote, or nothing did

    @property
    def outcome(self) -> str:
        """One of the three: "valid", "invalid", "could not judge"."""
        return self.reason if self.reason in (VALID, COULD_NOT_JUDGE) else "invalid"


def same_answer(one: str, other: str, call: Callable = here) -> bool:
    """Are two answers equal? Equal text at once, whole numbers as numbers, all else by ap.answers, which `call` calls
    (processes.py)."""
    one, other = one.strip(), other.strip()
    if one == other:
        return True
    if re.fullmatch(r"[+-]?\d{1,18}", one) and re.fullmatch(r"[+-]?\d{1,18}", other):
        return int(one) == int(other)
    from ap.answers import match_answer  # here: it loads sympy, which whole numbers do not need

    return call(match_answer, one, other).status == "equal"


class Committee:
    """V(q) = 1 iff all of these hold, asked in this order:

    1. at least two of the three verifiers vote valid, each with an answer of its own;
    2. no verdict's reason names ambiguity, missing information or unsolvability (BLOCKING);
    3. the answers of those who vote valid agree, or the second auditor votes valid and sides with one of them;
    4. the program check, where the domain has one, finds the problem sound and its answer the same;
    5. the claimed answer is the one agreed on;
    6. the problem is not a known one under other names.

    *Choices*: with neither two votes for nor two against it could not judge, as when the auditor abstains. A blocking
    reason counts beside any vote, but not beside an abstention. The reason of a lost vote is the commonest among those
    against. The auditor is asked only when it is needed. A verifier agrees with what came of it when it found sound,
    with the answer agreed on, what was found sound, or unsound what was not. A problem whose claim is wrong or which is
    known (5, 6) is sound: verifiers are not asked about that.
    """

    def __init__(
        self, verifiers: Sequence[Verifier], auditor: Verifier, program_check: Verifier | None = None,
        canonical: Callable[[str], str] = lambda text: " ".join(text.split()),
        same: Callable[[str, str], bool] = same_answer,
    ):
        """canonical: question -> one form for all of its renamings. same: are two answers equal?"""
        if len(verifiers) != 3:
            raise ValueError(f"a committee has three verifiers, not {len(verifiers)}")
        self.verifiers, self.auditor, self.program_check = list(verifiers), auditor, program_check
        self.canonical, self.same = canonical, same

    def judge(self, problem: Problem, trace: str = "", known: Set[str] = frozenset()) -> Judgement:
        """V(q). trace: the proposer's whole episode as text. known: canonical forms that do not count again."""
        asked: list[Verdict] = []

        def ask(verifier: Verifier) -> Verdict:
            asked.append(verifier.verify(problem, trace))
            return asked[-1]

        verdicts = [ask(verifier) for verifier in self.verifiers]
        answer, reason = self._vote(ask, verdicts)
        audit = asked[3:]
        if reason == VALID:
            reason = self._check(ask, problem, answer, known)
        abstained = tuple(verdict.reason or "abstained" for verdict in asked if verdict.vote is None)
        votes = [None if verdict.vote and verdict.answer is None else verdict.vote for verdict in verdicts]
        sound = answer is not None and reason in (VALID, WRONG, KNOWN)
        agreed = [None if vote is None or reason == COULD_NOT_JUDGE else bool(vote) == sound and (
            not sound or not audit or self.same(verdict.answer, answer)) for vote, verdict in zip(votes, verdicts)]
        votes += [None if verdict.vote is None else int(answer is not None) for verdict in audit]
        return Judgement(reason == VALID, answer, reason, abstained, tuple(votes), tuple(agreed))

    def _vote(self, ask: Callable[[Verifier], Verdict], verdicts: Sequence[Verdict]) -> tuple[str | None, str]:
        """Conditions 1 to 3: (answer, reason)."""
        against = [verdict for verdict in verdicts if verdict.vote == 0]
        answers = [verdict.answer for verdict in verdicts if verdict.vote == 1 and verdict.answer is not None]
        if len(against) >= 2:
            return None, _commonest(against)
        if len(answers) < 2:
            return None, COULD_NOT_JUDGE
        blocking = [verdict for verdict in verdicts if verdict.vote is not None and verdict.reason in BLOCKING]
        if blocking:
            return None, _commonest(blocking)
        if all(self.same(answer, answers[0]) for answer in answers[1:]):
            return answers[0], VALID
        audit = ask(self.auditor)
        if audit.vote is None:
            return None, COULD_NOT_JUDGE
        if audit.reason in BLOCKING:
            return None, audit.reason
        if audit.vote == 1 and audit.answer is not None:
            sided = [answer for answer in answers if self.same(answer, audit.answer)]
            if sided:
                return sided[0], VALID
        return None, "disagreement"

    def _check(self, ask: Callable[[Verifier], Verdict], problem: Problem, answer: str, known: Set[str]) -> str:
        """Conditions 4 to 6: "valid" or the reason against."""
        if self.program_check is not None:
            checked = ask(self.program_check)
            if checked.vote is None:
                return COULD_NOT_JUDGE
            if checked.vote == 0:
                return checked.reason or "invalid"
            if checked.answer is not None and not self.same(checked.answer, answer):
                return "disagreement"
        if not self.same(problem.answer, answer):
            return WRONG
        return KNOWN if self.canonical(problem.question) in known else VALID


def _commonest(verdicts: Sequence[Verdict]) -> str:
    """The commonest reason, the first of them at a tie. Never "valid" or "could not judge", which name outcomes."""
    reasons = Counter(v.reason for v in verdicts if v.reason and v.reason not in (VALID, COULD_NOT_JUDGE))
    return reasons.most_common(1)[0][0] if reasons else "invalid"


# ---------------------------------------------------------------- who can verify


@dataclass(frozen=True)
class ProgramVerifier:
    """A program as verifier or auditor. `solve`: question -> an object with `status` ("ok" or a failure) and `answer`.

    A status in `gave_up` is an abstention: the program did not get to an end.
    """

    solve: Callable[[str], object]
    gave_up: frozenset[str] = frozenset({"too many cases", "unknown"})

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        solution = self.solve(problem.question)
        if solution.status == "ok":
            return Verdict(1, solution.answer, VALID)
        return Verdict(None if solution.status in self.gave_up else 0, None, solution.status)


@dataclass(frozen=True)
class ProgramCheck:
    """What the domain's programs say of a submission. `check`: problem -> an object with status and answer.

    In the miniature that is the exact check: beside soundness and the answer it looks at the skills, since all that
    were active at the end (K_T) must be there.
    """

    check: Callable[[Problem], object]

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        result = self.check(problem)
        return Verdict(1, result.answer, VALID) if result.status == "ok" else Verdict(0, None, result.status)


REQUEST = """\
Judge whether this problem is valid: it can be solved from what it says, and has exactly one answer. Solve it yourself.
Reply with one JSON record: {{"valid": true or false, "answer": "your own answer", "reason": "one of: {reasons}"}}

How it was written:
{trace}

Problem:
{question}"""


MAX_UNANSWERED = 4  # calls of one judge that hang at the same time, before it is no longer asked


@dataclass(frozen=True)
class ChatVerifier:
    """A language model as verifier or auditor. `ask`: prompt -> reply, of a local checkpoint or of an endpoint.

    It abstains when `ask` takes longer than `seconds` ("no reply"; None: there is no limit), when it raises ("judge
    failed"), and when its reply holds no usable record ("unreadable verdict"). *Choice*: Python cannot end a thread, so
    a call that hangs is left behind in one of its own; while MAX_UNANSWERED of them hang, the judge abstains at once.
    So one judge delays a whole step by MAX_UNANSWERED * seconds at most.

    request: a text with {reasons}, {question} and, if it shall be shown, {trace}. read: reply -> Verdict; None:
    read_verdict. grade: where answers are no texts to compare, (problem, its answer) -> what the committee compares.
    """

    ask: Callable[[str], str]
    seconds: float | None = 120.0
    request: str = REQUEST
    read: Callable[[str], Verdict] | None = None
    grade: Callable[[Problem, str], str] | None = None
    unanswered: list[threading.Thread] = field(default_factory=list, compare=False, repr=False)

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        reasons = ", ".join(["valid", "wrong", *sorted(BLOCKING)])
        prompt = self.request.format(reasons=reasons, trace=trace, question=problem.question)
        self.unanswered[:] = [thread for thread in self.unanswered if thread.is_alive()]
        if len(self.unanswered) >= MAX_UNANSWERED:
            return Verdict(None, None, "no reply")
        verdicts: list[Verdict | UserError] = []
        thread = threading.Thread(target=lambda: verdicts.append(self._asked(prompt)), daemon=True)
        thread.start()
        thread.join(self.seconds)
        if not verdicts:
            self.unanswered.append(thread)
            return Verdict(None, None, "no reply")
        if isinstance(verdicts[0], UserError):
            raise verdicts[0]
        [verdict] = verdicts
        if self.grade is not None and verdict.vote == 1 and verdict.answer is not None:
            return replace(verdict, answer=self.grade(problem, verdict.answer))
        return verdict

    def _asked(self, prompt: str) -> Verdict | UserError:
        try:
            return (self.read or read_verdict)(self.ask(prompt))
        except UserError as error:  # a dead endpoint: for people
            return error
        except TimeoutError:
            return Verdict(None, None, "no reply")
        except Exception:  # whatever a client of an endpoint may raise
            return Verdict(None, None, "judge failed")


def read_verdict(reply: str) -> Verdict:
    """The last JSON record {valid, answer, reason} in a reply. Never raises: without one it is an abstention."""
    for text in reversed(re.findall(r"\{[^{}]*\}", reply if isinstance(reply, str) else "")):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):  # the second from brackets that are nested deeply
            continue
        if isinstance(record, dict) and isinstance(record.get("valid"), bool):
            answer = record.get("answer")
            usable = isinstance(answer, (str, int, float)) and not isinstance(answer, bool)
            reason = str(record.get("reason") or "").strip().lower()
            return Verdict(int(record["valid"]), (str(answer).strip() or None) if usable else None, reason)
    return Verdict(None, None, "unreadable verdict")
