"""A language model as verifier or auditor: how it is asked for a verdict, and how its reply is read.

ChatJudge, what all judges share that are language models, is here too; the critic (chat_critic.py) is another one.
"""
from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Callable, TypeVar

from ap.answers.replies import last_record
from ap.files import UserError, writable
from ap.judge.roles import Verdict
from ap.judge.verifier import BLOCKING
from ap.trajectory import Problem

# It shows no whole record to copy: of two, a model of 0.5 B said the last one word for word in 56 of 79 replies.
REQUEST = """\
Judge whether the problem below is valid: it can be solved from what it says, and has exactly one answer.

How it was written:
{trace}

Problem:
{question}

Solve it yourself first, step by step. Then end your reply with one line, a JSON record of three fields: "valid" is true \
or false, "answer" is your own final answer, and "reason" is valid, or else one of: {reasons}."""

AGAIN = "\n\nYour last reply could not be used: it held no such record. End your reply with the JSON record."
COPIED = ("your own final answer", "...")  # what stands in the place of an answer when a reply copies the request
UNREADABLE = "unreadable verdict"
MAX_UNANSWERED = 4  # when so many calls of one judge hang at the same time, it is no longer asked

T = TypeVar("T")  # what a judge says: a Verdict, an Opinion


@dataclass(frozen=True)
class ChatJudge:
    """A language model that judges something. `ask`: prompt -> reply, of a local checkpoint or of an endpoint.

    It abstains when `ask` takes longer than `seconds` ("no reply"; None: there is no limit), and when it raises ("judge
    failed"). *Choice*: Python cannot end a thread, so a call that hangs is left behind in its thread; while
    MAX_UNANSWERED calls hang, the judge abstains at once. So one judge delays a whole step by MAX_UNANSWERED * seconds
    at most.
    """

    ask: Callable[[str], str]
    seconds: float | None = 120.0
    unanswered: list[threading.Thread] = field(default_factory=list, compare=False, repr=False, kw_only=True)

    def _within_limit(self, prompt: str, read: Callable[[str], T], abstain: Callable[[str], T]) -> T:
        """One question, in a thread of its own. Raises UserError, which is for people.

        read: reply -> what it says. abstain: the reason why there is no reply -> what takes its place.
        """
        self.unanswered[:] = [thread for thread in self.unanswered if thread.is_alive()]
        if len(self.unanswered) >= MAX_UNANSWERED:
            return abstain("no reply")
        found: list[T | UserError] = []
        thread = threading.Thread(target=lambda: found.append(self._asked(prompt, read, abstain)), daemon=True)
        thread.start()
        thread.join(self.seconds)
        if not found:
            self.unanswered.append(thread)
            return abstain("no reply")
        if isinstance(found[0], UserError):
            raise found[0]
        return found[0]

    def _asked(self, prompt: str, read: Callable[[str], T], abstain: Callable[[str], T]) -> T | UserError:
        try:
            reply = self.ask(prompt)
            return read(writable(reply) if isinstance(reply, str) else "")
        except UserError as error:  # a dead endpoint: _within_limit() raises it
            return error
        except TimeoutError:
            return abstain("no reply")
        except Exception:  # whatever a client of an endpoint may raise
            return abstain("judge failed")


@dataclass(frozen=True)
class ChatVerifier(ChatJudge):
    """A language model as verifier or auditor. It also abstains when its reply holds no usable record, nor does that to
    a second question ("unreadable verdict").

    request: a text with {reasons}, {question} and, if it shall be shown, {trace}. read: reply -> answer, for answers
    that are not a field of the record. grade: (problem, the judge's answer) -> what the committee compares, for answers
    that cannot be compared as texts.
    """

    request: str = REQUEST
    read: Callable[[str], str | None] | None = None
    grade: Callable[[Problem, str], str] | None = None

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        """Ask, and once more where the reply cannot be used: it holds no verdict, or "valid" without an answer."""
        reasons = ", ".join([*sorted(BLOCKING), "wrong"])
        prompt = self.request.format(reasons=reasons, trace=trace, question=problem.question)
        verdict = self._within_limit(prompt, self._read, _abstain)
        if verdict.reason == UNREADABLE or (verdict.vote == 1 and verdict.answer is None):
            second = self._within_limit(prompt + AGAIN, self._read, _abstain)
            verdict = second if second.vote is not None else verdict
        if self.grade is not None and verdict.vote == 1 and verdict.answer is not None:
            return replace(verdict, answer=self.grade(problem, verdict.answer))
        return verdict

    def _read(self, reply: str) -> Verdict:
        verdict = read_verdict(reply)
        return replace(verdict, answer=self.read(reply)) if self.read and verdict.vote is not None else verdict


def _abstain(reason: str) -> Verdict:
    return Verdict(None, None, reason)


def read_verdict(reply: str) -> Verdict:
    """The last record {valid, answer, reason} behind a reply's thoughts. Never raises: without one, an abstention."""
    record = last_record(reply, lambda record: _vote(record) is not None)
    if record is None:
        return Verdict(None, None, UNREADABLE)
    answer = field_of(record, "answer")
    parts = answer if isinstance(answer, list) else [answer]  # several values: as one text
    usable = all(isinstance(part, (str, int, float)) and not isinstance(part, bool) for part in parts)
    answer = ", ".join(map(str, parts)).strip() if usable else None
    if answer in COPIED:
        answer = None
    return Verdict(_vote(record), answer or None, _reason(field_of(record, "reason")))


def field_of(record: dict, name: str):
    """A field, whatever the case of its name."""
    return next((value for key, value in record.items() if key.strip().lower() == name), None)


def _vote(record: dict) -> int | None:
    """1 or 0 where the field `valid` is true or false, as a value or as a text."""
    valid = str(field_of(record, "valid")).strip().lower()
    return {"true": 1, "false": 0}.get(valid)


def _reason(said) -> str:
    """A reason as logs count it. "one of: ambiguous" is `ambiguous`; a copy of the whole list gives no reason."""
    reason = ", ".join(map(str, said)) if isinstance(said, list) else str(said or "")
    reason = reason.strip().lower()
    if reason.startswith("one of"):
        reason = reason.removeprefix("one of").strip(" :")
        reason = "" if "," in reason else reason
    reason = reason.strip(" .\"'`*")
    named = reason.replace("_", " ").replace("-", " ")
    return named if named in BLOCKING else reason
