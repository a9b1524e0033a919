"""A language model as verifier or auditor: how it is asked for a verdict, and how its reply is read."""
from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field, replace
from typing import Callable

from ap.files import UserError
from ap.judge.roles import Verdict
from ap.judge.verifier import BLOCKING
from ap.trajectory import Problem

REQUEST = """\
Judge whether this problem is valid: it can be solved from what it says, and has exactly one answer. Solve it yourself.
Reply with one JSON record: {{"valid": true or false, "answer": "your own answer", "reason": "one of: {reasons}"}}

How it was written:
{trace}

Problem:
{question}"""

MAX_UNANSWERED = 4  # when so many calls of one judge hang at the same time, it is no longer asked


@dataclass(frozen=True)
class ChatVerifier:
    """A language model as verifier or auditor. `ask`: prompt -> reply, of a local checkpoint or of an endpoint.

    It abstains when `ask` takes longer than `seconds` ("no reply"; None: there is no limit), when it raises ("judge
    failed"), and when its reply holds no usable record ("unreadable verdict"). *Choice*: Python cannot end a thread, so
    a call that hangs is left behind in its thread; while MAX_UNANSWERED calls hang, the judge abstains at once. So one
    judge delays a whole step by MAX_UNANSWERED * seconds at most.

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
            reply = self.ask(prompt)
            verdict = read_verdict(reply)
            return replace(verdict, answer=self.read(reply)) if self.read else verdict
        except UserError as error:  # a dead endpoint: verify() raises it
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
        except (ValueError, RecursionError):  # RecursionError: brackets nested too deeply
            continue
        if isinstance(record, dict) and isinstance(record.get("valid"), bool):
            answer = record.get("answer")
            usable = isinstance(answer, (str, int, float)) and not isinstance(answer, bool)
            reason = str(record.get("reason") or "").strip().lower()
            return Verdict(int(record["valid"]), (str(answer).strip() or None) if usable else None, reason)
    return Verdict(None, None, "unreadable verdict")
