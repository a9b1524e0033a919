"""The call of a tool in a message, in the forms in which models write one, and the drafts beside it.

A call stands between tags, or alone in a block or at the end of the message; it may lack a closing tag, hold raw line
breaks, or have its arguments under another name. What has several meanings is an error with a name, which the
environment tells the model once (HOW).
"""
from __future__ import annotations

import re
from typing import Any, Collection, Mapping, NamedTuple

from ap.answers.records import WHOLE, Found, mark_backslashes, read_exact, read_lenient, records

OPEN, CLOSE = "<tool_call>", "</tool_call>"
FENCE = re.compile(r"\s*(?:```\w*\s*)?")
TAIL = re.compile(r"[\s}\])]*(?:```\s*)?(</tool_call>|<tool_call>\s*\Z|\Z)")  # behind a call's record
BARE_CALL = re.compile(r"^[ \t]*(?:(```)[ \t]*(?:json|tool_call|tool|xml)?[ \t]*\n\s*)?(?=\{)", re.MULTILINE)
DRAFT = re.compile(r"<problem>(.*?)</problem>", re.DOTALL)
XML_CALL = re.compile(r"\s*<function=(\w+)>(.*?)</function>", re.DOTALL)  # as Qwen3-Coder writes a call
XML_ARGUMENT = re.compile(r"<parameter=(\w+)>\n?(.*?)\n?</parameter>", re.DOTALL)


HOW = """\
Your last message could not be used: {error}. A message is free text, and behind it at most one call of a tool, such as
<tool_call>
{{"name": "submit", "arguments": {{"answer": "7"}}}}
</tool_call>
There are the tools {tools}. A call is one record of JSON: in its texts, a quote, a line break and a backslash are \
written \\", \\n and \\\\. A draft stands between <problem> and </problem>, outside of the call. What you think to \
yourself ends before all that."""

NEXT = {  # stage -> what the environment says to a message without a call, where it says what is missing
    "draft": "There is no draft yet. Write a problem between <problem> and </problem>.",
    "check": """\
The draft is not checked yet. Check it by a program, such as
<tool_call>
{"name": "exec", "arguments": {"code": "print('answer:', 6 * 7)"}}
</tool_call>""",
    "refine": "Write the whole problem again, mended, between <problem> and </problem>, or run another program.",
    "finalize": """\
Submit the draft:
<tool_call>
{"name": "submit", "arguments": {}}
</tool_call>""",
}


def what_is_missing(stage: str, tools: Collection[str]) -> str:
    """The environment's answer to a message without a call, where it answers: what can be written next. "" where the
    stage has no such tool."""
    if stage == "check" and "exec" not in tools:
        return ""
    return NEXT[stage]


class Call(NamedTuple):
    """The tool call of a message, read."""

    outside: str  # the message without it
    name: str | None = None
    arguments: dict[str, str] | None = None
    error: str = ""  # why it cannot be used


def tool_call_in(said: str, tools: Mapping[str, dict]) -> Call:
    """The call in a message without thoughts. Never raises; without any call, name and error are empty.

    tools: name -> its schema, as a chat template takes it. *Choice*: an argument that is null is absent; a number is an
    answer; any other value that is no text is refused.
    """
    found, outside, closed = _calls(said, tools)
    if not closed:
        return Call(outside, error="unclosed tool call")
    if len(found) > 1:
        return Call(outside, error="several tool calls")
    if not found:
        return Call(outside)
    if found[0] is None:
        return Call(outside, error="tool call is not JSON")
    name, arguments = found[0]
    if not isinstance(name, str) or name not in tools:
        return Call(outside, error="unknown tool")
    if not isinstance(arguments, dict):
        return Call(outside, error="bad arguments")
    arguments = {key: value for key, value in arguments.items() if value is not None}
    if type(arguments.get("answer")) in (int, float):
        arguments["answer"] = str(arguments["answer"])
    schema = tools[name]["function"]["parameters"]
    texts = all(isinstance(value, str) for value in arguments.values())
    if not texts or set(schema["required"]) - set(arguments) or set(arguments) - set(schema["properties"]):
        return Call(outside, error="bad arguments")
    return Call(outside, name, arguments)


class _Calls(NamedTuple):
    found: list[tuple[Any, Any] | None]  # name and arguments of each, which may be of any type; None: it is no JSON
    outside: str
    closed: bool = True  # False: a tag without its counterpart, and no whole record at it


def _calls(said: str, names: Collection[str]) -> _Calls:
    """The calls between tags; where there are no tags, a call that stands alone in a block, or at the end, if it is
    complete and of a tool of these names."""
    if OPEN not in said:
        return _untagged(said, names)
    found, outside, place, closed = [], [], 0, True
    while (start := said.find(OPEN, place)) >= 0:
        outside.append(said[place:start])
        calls, place, ended = _tagged(said, start + len(OPEN))
        found += calls
        closed &= ended
    rest = "".join(outside) + said[place:]
    return _Calls(found, rest, closed and CLOSE not in rest)


def drafts_in(said: str) -> list[re.Match]:
    """Every <problem> block; its text is group 1."""
    return list(DRAFT.finditer(said, 0, said.rfind("</problem>") + len("</problem>")))  # beyond it each search fails


def _tagged(said: str, body: int) -> tuple[list, int, bool]:
    """The call whose body begins at `body`: (calls, where it ends, is it closed?)."""
    if xml := XML_CALL.match(said, body):
        tail = TAIL.match(said, xml.end()) or xml
        return [(xml[1], dict(XML_ARGUMENT.findall(xml[2])))], tail.end(), True
    record, end = _call_at(said, FENCE.match(said, body).end()), said.find(CLOSE, body)
    if record is not None and call_of(record.value)[0] is not None:
        if tail := TAIL.match(said, record.end):
            return [call_of(record.value)], tail.end(), True
        if record.exact:
            end, another = said.find(CLOSE, record.end), said.find(OPEN, record.end)
            if end < 0 or 0 <= another < end:  # its closing tag is missing
                return [call_of(record.value)], record.end, True
    if end < 0:
        return [], len(said), False
    inside = said[body:end]
    calls = list(records(inside, _is_call))
    if any("code" in call_of(one.value)[1] for one in calls):
        calls = list(records(inside, _is_call, program=True))
    calls = [one for one in calls if one.exact or TAIL.match(inside, one.end)]
    whole = read_exact(inside, len(inside) - len(inside.lstrip()))
    if not calls and whole and not inside[whole.end:].strip():
        calls = [whole]
    return [call_of(one.value) for one in calls] or [None], end + len(CLOSE), True


def _untagged(said: str, names: Collection[str]) -> _Calls:
    """Of a message without an opening tag."""
    text = said
    for draft in drafts_in(said):
        text = text[:draft.start()] + " " * len(draft[0]) + text[draft.end():]
    spans = []
    for start in BARE_CALL.finditer(text):
        record = _call_at(said, start.end())
        end = record and re.compile(r"\s*```" if start[1] else r"\s*(?:</tool_call>\s*)?\Z").match(text, record.end)
        if end and _is_call(record.value) and call_of(record.value)[0] in names:
            spans.append((start.start(), end.end(), call_of(record.value)))
    outside = said
    for start, end, _ in reversed(spans):
        outside = outside[:start] + outside[end:]
    return _Calls([call for *_, call in spans], outside, CLOSE not in outside)


def _call_at(said: str, place: int) -> Found | None:
    """The record that begins there, whole. A program's lines are read as such, and not as LaTeX."""
    if said[place:place + 1] != "{":
        return None
    for program in (False, True):
        marked = mark_backslashes(said, program)
        record = read_exact(marked, place) or read_lenient(marked, place, WHOLE)
        if record is None or not (record.exact or _is_call(record.value)):
            return None
        arguments = call_of(record.value)[1]
        if not (isinstance(arguments, dict) and "code" in arguments):
            break
    return record


def call_of(record: Any) -> tuple[Any, Any]:
    """Name and arguments of a call, in the forms in which models write it; None for what is missing."""
    if not isinstance(record, dict):
        return None, None
    if isinstance(record.get("function"), dict):
        record = record["function"]
    name = record.get("name", record.get("function"))
    given = [record[key] for key in ("arguments", "parameters", "args") if key in record]
    arguments = given[0] if given else {key: value for key, value in record.items()
                                        if key not in ("name", "function", "type", "id")}
    if isinstance(arguments, str):  # a record as text, as servers write it
        marked = mark_backslashes(arguments)
        found = read_exact(marked, 0)
        arguments = found.value if found and found.end == len(marked) else arguments
    return name, {} if arguments is None else arguments


def _is_call(record: Any) -> bool:
    name, arguments = call_of(record)
    return isinstance(name, str) and isinstance(arguments, dict) and bool(
        arguments or {"arguments", "parameters", "args"} & set(record))
