"""A language model as verifier or auditor: how it is asked for a verdict, and how its reply is read."""
from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Callable

from ap.answers.replies import last_record
from ap.files import UserError, writable
from ap.judge.roles import Verdict
from ap.judge.verifier import BLOCKING
from ap.trajectory import Problem

REQUEST = """\
Judge whether the problem below is valid: it can be solved from what it says, and has exactly one answer.

How it was written:
{trace}

Problem:
{question}

Solve it yourself, step by step. Then end your reply with one line, a JSON record. If the problem is valid:
{{"valid": true, "answer": "your own final answer", "reason": "valid"}}
If it is not, with one of the reasons {reasons}:
{{"valid": false, "answer": "", "reason": "the reason"}}"""

AGAIN = "\n\nYour last reply could not be used: it held no such record. End your reply with the JSON record."
COPIED = ("your own final answer", "...")  # what stands in the place of an answer when a reply copies the request
UNREADABLE = "unreadable verdict"
MAX_UNANSWERED = 4  # when so many calls of one judge hang at the same time, it is no longer asked


@dataclass(frozen=True)
class ChatVerifier:
    """A language model as verifier or auditor. `ask`: prompt -> reply, of a local checkpoint or of an endpoint.

    It abstains when `ask` takes longer than `seconds` ("no reply"; None: there is no limit), when it raises ("judge
    failed"), and when its reply holds no usable record, nor does that to a second question ("unreadable verdict").
    *Choice*: Python cannot end a thread, so a call that hangs is left behind in its thread; while MAX_UNANSWERED calls
    hang, the judge abstains at once. So one judge delays a whole step by MAX_UNANSWERED * seconds at most.

    request: a text with {reasons}, {question} and, if it shall be shown, {trace}. read: reply -> answer, for answers
    that are not a field of the record. grade: (problem, the judge's answer) -> what the committee compares, for answers
    that cannot be compared as texts.
    """

    ask: Callable[[str], str]
    seconds: float | None = 120.0
    request: str = REQUEST
    read: Callable[[str], str | None] | None = None
    grade: Callable[[Problem, str], str] | None = None
    unanswered: list[threading.Thread] = field(default_factory=list, compare=False, repr=False)

    def verify(self, problem: Problem, trace: str = "") -> Verdict:
        """Ask, and once more where the reply cannot be used: it holds no verdict, or "valid" without an answer."""
        reasons = ", ".join([*sorted(BLOCKING), "wrong"])
        prompt = self.request.format(reasons=reasons, trace=trace, question=problem.question)
        verdict = self._within_limit(prompt)
        if verdict.reason == UNREADABLE or (verdict.vote == 1 and verdict.answer is None):
            second = self._within_limit(prompt + AGAIN)
            verdict = second if second.vote is not None else verdict
        if self.grade is not None and verdict.vote == 1 and verdict.answer is not None:
            return replace(verdict, answer=self.grade(problem, verdict.answer))
        return verdict

    def _within_limit(self, prompt: str) -> Verdict:
        """One question, in a thread of its own. Raises UserError, which is for people."""
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
        return verdicts[0]

    def _asked(self, prompt: str) -> Verdict | UserError:
        try:
            reply = self.ask(prompt)
            reply = writable(reply) if isinstance(reply, str) else ""
            verdict = read_verdict(reply)
            return replace(verdict, answer=self.read(reply)) if self.read and verdict.vote is not None else verdict
        except UserError as error:  # a dead endpoint: _within_limit() raises it
            return error
        except TimeoutError:
            return Verdict(None, None, "no reply")
        except Exception:  # whatever a client of an endpoint may raise
            return Verdict(None, None, "judge failed")


def read_verdict(reply: str) -> Verdict:
    """The last record {valid, answer, reason} behind a reply's thoughts. Never raises: without one, an abstention."""
    record = last_record(reply, lambda record: _vote(record) is not None)
    if record is None:
        return Verdict(None, None, UNREADABLE)
    answer = _field(record, "answer")
    parts = answer if isinstance(answer, list) else [answer]  # several values: as one text
    usable = all(isinstance(part, (str, int, float)) and not isinstance(part, bool) for part in parts)
    answer = ", ".join(map(str, parts)).strip() if usable else None
    if answer in COPIED:
        answer = None
    return Verdict(_vote(record), answer or None, _reason(_field(record, "reason")))


def _field(record: dict, name: str):
    """A field, whatever the case of its name."""
    return next((value for key, value in record.items() if key.strip().lower() == name), None)


def _vote(record: dict) -> int | None:
    """1 or 0 where the field `valid` is true or false, as a value or as a text."""
    valid = str(_field(record, "valid")).strip().lower()
    return {"true": 1, "false": 0}.get(valid)


def _reason(said) -> str:
    """A reason as logs count it. "one of: ambiguous" is `ambiguous`; a copy of the whole list gives no reason."""
    reason = ", ".join(map(str, said)) if isinstance(said, list) else str(said or "")
    reason = reason.strip().lower()
    if reason == "the reason":  # a copy of the request
        return ""
    if reason.startswith("one of"):
        reason = reason.removeprefix("one of").strip(" :")
        reason = "" if "," in reason else reason
    reason = reason.strip(" .\"'`*")
    named = reason.replace("_", " ").replace("-", " ")
    return named if named in BLOCKING else reason
