"""What a model says: the part of a reply that is no thought, and the last record in it that answers a question.

Only what stands behind the hidden thoughts is a verdict, a message or a program. records.py reads the JSON of a reply,
tool_calls.py its call of a tool.
"""
from __future__ import annotations

import re
from typing import Any, Callable

from ap.answers.records import end_of_record_around, mark_backslashes, records
from ap.files import writable

THOUGHTS = re.compile(  # how models open (a group is set) and close their thoughts
    r"<(?!/)\s*(seed:think|think|thinking|thought|thoughts|reasoning)\s*>|<\s*/\s*(?:seed:)?(?:think(?:ing)?|thoughts?"
    r"|reasoning)\s*>|(\[THINK\])|\[/THINK\]|(◁think▷)|◁/think▷|(<\|begin_of_thought\|>)|<\|end_of_thought\|>"
    r"|(<\|channel\|>analysis<\|message\|>)|<\|channel\|>final<\|message\|>", re.IGNORECASE)


def after_thoughts(reply: str) -> str:
    """What a model says outside of its hidden thoughts; all of it where there are none, "" where they never end. It
    can be written to a file.

    A closing mark that nothing opened ends what the prompt, or a server, has opened: all before it was thought.
    Thoughts end with their first closing mark, as in the models' own templates. *Choice*: behind thoughts, a mark in a
    whole JSON record is text, such as a program that prints `</think>`. Before any have ended it may be the mark that
    ends them, so it counts wherever it stands.
    """
    reply = writable(reply)
    marks = list(THOUGHTS.finditer(reply)) if any(start in reply for start in "<[◁") else []
    marked = mark_backslashes(reply) if marks else ""
    said, start, inside, ended, data = [], 0, False, False, 0  # data: where a record ends that holds the next mark
    for mark in marks:
        opens = mark.lastindex is not None
        if ended and not inside:
            data = end_of_record_around(marked, max(start, data), mark.start()) or data
        if not inside and mark.start() < data or inside and opens:
            continue
        if opens:
            said.append(reply[start:mark.start()])
        elif not inside:
            said.clear()
        inside, ended, start = opens, ended or not opens, mark.end()
    return "".join(said) + ("" if inside else reply[start:])


def opened_thoughts(before: str) -> str:
    """The mark with which a prompt has opened thoughts, if it ends so, as some templates' do; to be put before what was
    sampled behind it. "" where it has not."""
    marks = list(THOUGHTS.finditer(before))
    return marks[-1][0] if marks and marks[-1].lastindex is not None and not before[marks[-1].end():].strip() else ""


ESCAPED = re.compile(r"""[\s"'`a-z]*[{\[]\s*\{?\\\"""")  # a reply that is JSON in a text of JSON


def last_record(reply: str, answers: Callable[[Any], bool], opening: str = "{") -> Any:
    """The last record or list behind a reply's thoughts that answers the question, or None. Never raises."""
    text, last = after_thoughts(reply) if isinstance(reply, str) else "", None
    if ESCAPED.match(text):
        text = re.sub(r'\\(["\\])', r"\1", text)
    for found in records(text, answers, opening):
        last = found.value
    return last
