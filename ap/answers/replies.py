r"""What a model says: the part of a reply that is no thought, and the records of JSON in it, with the slips of models.

Three things are decided here, and nowhere else. What stands behind the hidden thoughts (`after_thoughts`): only that is
a verdict, a message, a program. Which text is a record (`records`, `last_record`): JSON as models write it, where
LaTeX's backslashes stand undoubled, Python's True and quotes stand in the place of JSON's, and braces stand in the
texts. Which text is a tool call (`tool_call_in`).

Read is what has one meaning; all else is None, for the caller to say so. *Choice*: "\frac" is JSON for a form feed and
`rac`, and nobody means that; so b, f, n, r and t behind a backslash are escapes of JSON unless they begin the name of a
LaTeX command. Of json-repair, which mends broken JSON too, we took nothing: it reads "\frac" as JSON does, and makes
a record of every text, such as one that was cut, where we would rather ask again.
"""
from __future__ import annotations

import itertools
import json
import re
from typing import Any, Callable, Collection, Iterator, Mapping, NamedTuple

from ap.files import writable

# ---------------------------------------------------------------- thoughts

THOUGHTS = re.compile(  # how models open (a group is set) and close their thoughts
    r"<(?!/)\s*(seed:think|think|thinking|thought|thoughts|reasoning)\s*>|<\s*/\s*(?:seed:)?(?:think(?:ing)?|thoughts?"
    r"|reasoning)\s*>|(\[THINK\])|\[/THINK\]|(◁think▷)|◁/think▷|(<\|begin_of_thought\|>)|<\|end_of_thought\|>"
    r"|(<\|channel\|>analysis<\|message\|>)|<\|channel\|>final<\|message\|>", re.IGNORECASE)
TRIED, MENDED = 1000, 40  # places of a text, its last ones, at which a record is looked for, and a broken one
STARTS = {  # where a record or a list may begin: behind most braces of formulas comes something else
    "{": re.compile(r"""\{(?=\s*(?:["'“`}#]|//|/\*|[A-Za-z_][\w -]{,40}[:：]))"""),
    "[": re.compile(r"""\[(?=\s*(?:[{\["'“`\]#]|//|/\*|-?\d|[A-Za-z]))""")}


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
            data = _end_of_record_around(marked, max(start, data), mark.start()) or data
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


def _end_of_record_around(marked: str, start: int, place: int) -> int:
    """The end of the JSON record that begins in marked[start:place] and goes on behind `place`; 0: there is none."""
    end = start
    for brace in [one.start() for one in STARTS["{"].finditer(marked, start, place)][-TRIED:]:
        found = _exact(marked, brace) if brace >= end else None
        end = found.end if found else end
    return end if end > place else 0


# ---------------------------------------------------------------- backslashes

# Names of LaTeX commands that begin with a letter which JSON escapes.
COMMANDS = frozenset("""
bar barwedge because begin beta beth between bf bigcap bigcup bigcirc big bigg biggl biggr bigl bigm bigr bigoplus
bigotimes bigsqcup bigstar bigvee bigwedge binom bm bmatrix bmod boldsymbol bot bowtie box boxed boxplus boxtimes breve
bullet bumpeq
fbox flat footnotesize forall frac framebox frown
nabla natural ncong ne nearrow neg neq newcommand newline nexists ngeq ngtr nleftarrow nleq nless nmid nobreak
noindent nolimits nonumber norm normalsize not notag notin nparallel nprec nrightarrow nsim nsubset nsubseteq nsucc
nsupseteq nthroot ntriangleleft nu nvdash nwarrow nRightarrow nLeftarrow nLeftrightarrow nleftrightarrow
raisebox rangle rbrace rbrack rceil real rfloor rgroup rho right rightarrow rightharpoondown rightharpoonup
rightleftarrows rightleftharpoons rightsquigarrow rlap rm root rtimes rule rvert rVert
tag tan tanh tau tbinom text textbf textcolor textdegree textit textnormal textrm textsc textsf textstyle
textsuperscript texttt textup tfrac therefore theta thetasym thickapprox thicksim thinspace tilde times tiny title to
top triangle triangledown triangleleft trianglelefteq triangleq triangleright trianglerighteq twoheadrightarrow
""".split())
SHORT = frozenset("ne nu tan to".split())  # what is left without the first letter may be a word
ESCAPE = re.compile(r"\\(?:(u[0-9a-fA-F]{4})|([a-zA-Z]+)|([\\\"'/])|)")
BOUNDARIES = re.compile(r"\\b\w+\\b")  # in a program: of a regular expression, and not two backspaces
BACKSLASH = "\udc5c"  # stands for a backslash that is one; no reply holds it, for its halves of pairs were replaced


def mark_backslashes(text: str, program: bool = False) -> str:
    r"""`text` of the same length, with another mark for each backslash that JSON must not take: `\frac`, `\sqrt`, `\{`.

    A writer that doubles backslashes in a record means what JSON says by `\nu` and its like; so does one that ends a
    sentence before it. For one that never does, `\\` is LaTeX's new line. program: in its text `\n` and `\t` are lines
    and indentation, whatever follows.
    """
    first = re.search(r"""\{\s*["'“]""", text)
    first = first.start() if first else 0
    doubled = re.search(r"\\\\[a-zA-Z]{2}", text[first:]) is not None
    boundaries = program and BOUNDARIES.search(text) is not None

    def marked(found: re.Match) -> str:
        code, word, quote = found.groups()
        if code or quote:
            return found[0]
        if word and word[0] in "bfnrt" and not command(word, found.start()):
            return found[0]
        return BACKSLASH + (word or "")

    def command(word: str, place: int) -> bool:
        if program and word[0] in "nt" or boundaries and word[0] == "b":
            return word[0] == "b"
        if word in SHORT:
            return not doubled and text[place - 1:place] not in tuple(".:;!?\n")
        return word in COMMANDS or word[0] in "bf" and re.match("[a-z]{4}", word) is not None

    found = ESCAPE.sub(marked, text)
    if not (doubled or program) and re.search(BACKSLASH + "[a-zA-Z]{2}", found[first:]):
        found = found.replace("\\\\", BACKSLASH * 2)
    return found


def _plain(value: Any) -> Any:
    """A value whose texts are as they were meant, and can be written."""
    if isinstance(value, str):
        return writable(value.replace(BACKSLASH, "\\"))
    if isinstance(value, dict):
        return {_plain(name): _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


# ---------------------------------------------------------------- one record


class Found(NamedTuple):
    """A value of JSON in a text."""

    value: Any
    start: int
    end: int
    exact: bool  # it is JSON, but for its backslashes


def _number(text: str) -> Any:
    """A number; the text itself where it is too long for one."""
    if len(text) > 300:
        return text
    value = float(text) if re.search("[.eE]", text) else int(text)
    return value if abs(value) < float("inf") else text


EXACT = json.JSONDecoder(strict=False, parse_int=_number, parse_float=_number, parse_constant=str)


def _exact(marked: str, place: int) -> Found | None:
    try:
        value, end = EXACT.raw_decode(marked, place)
        return Found(_plain(value), place, end, True)
    except (ValueError, RecursionError):  # the second from brackets that are nested deeply
        return None


GAP = re.compile(r"(?:\s|//[^\n]*|/\*.*?\*/|#[^\n]*)*", re.DOTALL)
QUOTES = {'"': '"', "'": "'", "“": "”", "`": "`"}
KEY = r"""["'“]?[A-Za-z_][\w -]{,40}["'”]?\s*[:：]"""
ENDS = re.compile(rf"\s*(?:[}}\]]|\Z|[,，]\s*(?:{KEY}|[}}\]])|\s+{KEY})")  # behind the quote that closes a value
BARE_KEY = re.compile(r"[A-Za-z_][\w -]*?(?=\s*[:：])")
_PAIR = r"""[{\[](?:[^{}\[\]"'`\n]|%s)*[}\]]"""
BARE = re.compile(rf"""(?:[^{{}}\[\],，"'`\n]|,(?=\d{{3}}(?!\d))|{_PAIR % (_PAIR % "(?!)")})+""")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
DEEPEST, MARKS = 40, 2000  # brackets in brackets; quotes of a text that may be the one that closes it


class _Lenient:
    """Reads a value with the slips of models: Python's quotes and constants, comments, trailing or missing commas,
    names without quotes. Each method takes a place in the text and gives (value, end), or raises ValueError.

    inner: a quote inside a text need not be escaped; the one that closes it has what must follow a value behind it.
    unclosed: at the end of the text, behind a quote or a bracket, brackets may be missing.
    """

    def __init__(self, text: str, inner: bool, unclosed: bool):
        self.text, self.inner, self.unclosed = text, inner, unclosed

    def value(self, place: int, depth: int = 0) -> tuple[Any, int]:
        place = GAP.match(self.text, place).end()
        first = self.text[place:place + 1]
        if depth > DEEPEST or not first:
            raise ValueError
        if first == "{":
            return self.members(place + 1, depth + 1, {}, "}")
        if first == "[":
            return self.members(place + 1, depth + 1, [], "]")
        if first in QUOTES:
            return self.quoted(place, ENDS)
        bare = BARE.match(self.text, place)
        said = bare[0].strip() if bare else ""
        if not said:
            raise ValueError
        if said.lower() in CONSTANTS:
            return CONSTANTS[said.lower()], bare.end()
        return (_number(said) if NUMBER.fullmatch(said) else said), bare.end()

    def members(self, place: int, depth: int, into: dict | list, closing: str) -> tuple[dict | list, int]:
        """What stands in a pair of brackets, from behind the opening one."""
        while True:
            place = GAP.match(self.text, place).end()
            if self.text[place:place + 1] == closing:
                return into, place + 1
            if place == len(self.text) and self.unclosed and self.text.rstrip()[-1] in "\"'”}]":
                return into, place
            if into and self.text[place:place + 1] in (",", "，"):
                place = GAP.match(self.text, place + 1).end()
                if self.text[place:place + 1] == closing:
                    return into, place + 1
            if closing == "]":
                one, place = self.value(place, depth)
                into.append(one)
                continue
            name, place = self.name(place)
            place = GAP.match(self.text, place).end()
            if self.text[place:place + 1] not in (":", "："):
                raise ValueError
            into[name], place = self.value(place + 1, depth)

    def name(self, place: int) -> tuple[str, int]:
        if self.text[place:place + 1] in QUOTES:
            return self.quoted(place, re.compile(r"\s*[:：]"))
        bare = BARE_KEY.match(self.text, place)
        if bare is None:
            raise ValueError
        return bare[0].strip(), bare.end()

    def quoted(self, place: int, ends: re.Pattern) -> tuple[str, int]:
        mark = self.text[place]
        if self.text.startswith(mark * 3, place):  # Python's long texts
            end = self.text.find(mark * 3, place + 3)
            if end >= 0:
                return self.text[place + 3:end].replace("\\" + mark, mark), end + 3
        close = re.compile(rf"\\.|{QUOTES[mark]}", re.DOTALL)
        for found in itertools.islice(close.finditer(self.text, place + 1), MARKS if self.inner else None):
            if len(found[0]) == 1 and (not self.inner or ends.match(self.text, found.end())):
                return _unescaped(self.text[place + 1:found.start()]), found.end()
        raise ValueError


def _unescaped(inside: str) -> str:
    """What JSON's escapes in a text stand for; of others, such as Python's \\', what is escaped."""
    simple = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}

    def meant(found: re.Match) -> str:
        code, one = found.groups()
        return chr(int(code, 16)) if code else simple.get(one, one)

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", meant, inside, flags=re.DOTALL)


def _lenient(marked: str, place: int, slips: tuple[tuple[bool, bool], ...]) -> Found | None:
    for inner, unclosed in slips:
        try:
            value, end = _Lenient(marked, inner, unclosed).value(place)
            return Found(_plain(value), place, end, False)
        except ValueError:
            continue
    return None


WHOLE = ((False, False), (True, False))  # (inner, unclosed) in the order in which they are tried
SLIPS = (*WHOLE, (False, True), (True, True))


# ---------------------------------------------------------------- the records of a text


def records(
    text: str, wanted: Callable[[Any], bool], opening: str = "{", program: bool = False, slips=SLIPS
) -> Iterator[Found]:
    """The records (opening "{") or lists ("[") in a text that are wanted, in order, be they parts of others.

    What a record only quotes in its texts is none. program: see mark_backslashes. slips: how a record may be broken.
    """
    marked, kind = mark_backslashes(text, program), {"{": dict, "[": list}[opening]
    exact: dict[int, Found | None] = {}
    end = 0
    for start in [one.start() for one in STARTS[opening].finditer(marked)][-TRIED:]:
        if start >= end:
            exact[start] = _exact(marked, start)
            end = exact[start].end if exact[start] else end
    broken = [start for start, found in exact.items() if found is None][-MENDED:]
    end = 0
    for start, found in exact.items():
        if start < end:
            continue
        if found is None and start in broken:
            found = _lenient(marked, start, slips)
        parts = list(_parts(found.value, lambda part: isinstance(part, kind) and wanted(part))) if found else []
        yield from (found._replace(value=part) for part in parts)
        if found and (found.exact or parts):  # a broken record that is of no use may have swallowed a good one
            end = found.end


ESCAPED = re.compile(r"""[\s"'`a-z]*[{\[]\s*\{?\\\"""")  # a reply that is JSON in a text of JSON


def last_record(reply: str, answers: Callable[[Any], bool], opening: str = "{") -> Any:
    """The last record or list behind a reply's thoughts that answers the question, or None. Never raises."""
    text, last = after_thoughts(reply) if isinstance(reply, str) else "", None
    if ESCAPED.match(text):
        text = re.sub(r'\\(["\\])', r"\1", text)
    for found in records(text, answers, opening):
        last = found.value
    return last


def _parts(value: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """A value that is wanted, or else those inside of it."""
    if wanted(value):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part, wanted)


# ---------------------------------------------------------------- tool calls

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
    whole = _exact(inside, len(inside) - len(inside.lstrip()))
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
        record = _exact(marked, place) or _lenient(marked, place, WHOLE)
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
        found = _exact(marked, 0)
        arguments = found.value if found and found.end == len(marked) else arguments
    return name, {} if arguments is None else arguments


def _is_call(record: Any) -> bool:
    name, arguments = call_of(record)
    return isinstance(name, str) and isinstance(arguments, dict) and bool(
        arguments or {"arguments", "parameters", "args"} & set(record))
