r"""Records of JSON in a model's text, with the slips of models: which text is a record, and what it says.

LaTeX's backslashes stand undoubled in them, Python's True and quotes stand in the place of JSON's, braces stand in the
texts. Read is what has one meaning; all else is no record, for the caller to say so. *Choice*: "\frac" is JSON for a
form feed and `rac`, and nobody means that; so b, f, n, r and t behind a backslash are escapes of JSON unless they begin
the name of a LaTeX command. Of json-repair, which mends broken JSON too, we took nothing: it reads "\frac" as JSON
does, and makes a record of every text, such as one that was cut, where we would rather ask again.
"""
from __future__ import annotations

import itertools
import json
import re
from typing import Any, Callable, Iterator, NamedTuple

from ap.files import writable

TRIED, MENDED = 1000, 40  # places of a text, its last ones, at which a record is looked for, and a broken one
STARTS = {  # where a record or a list may begin: behind most braces of formulas comes something else
    "{": re.compile(r"""\{(?=\s*(?:["'“`}#]|//|/\*|[A-Za-z_][\w -]{,40}[:：]))"""),
    "[": re.compile(r"""\[(?=\s*(?:[{\["'“`\]#]|//|/\*|-?\d|[A-Za-z]))""")}

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


def read_exact(marked: str, place: int) -> Found | None:
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


def read_lenient(marked: str, place: int, slips: tuple[tuple[bool, bool], ...]) -> Found | None:
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
            exact[start] = read_exact(marked, start)
            end = exact[start].end if exact[start] else end
    broken = [start for start, found in exact.items() if found is None][-MENDED:]
    end = 0
    for start, found in exact.items():
        if start < end:
            continue
        if found is None and start in broken:
            found = read_lenient(marked, start, slips)
        parts = list(_parts(found.value, lambda part: isinstance(part, kind) and wanted(part))) if found else []
        yield from (found._replace(value=part) for part in parts)
        if found and (found.exact or parts):  # a broken record that is of no use may have swallowed a good one
            end = found.end


def end_of_record_around(marked: str, start: int, place: int) -> int:
    """The end of the JSON record that begins in marked[start:place] and goes on behind `place`; 0: there is none."""
    end = start
    for brace in [one.start() for one in STARTS["{"].finditer(marked, start, place)][-TRIED:]:
        found = read_exact(marked, brace) if brace >= end else None
        end = found.end if found else end
    return end if end > place else 0


def _parts(value: Any, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """A value that is wanted, or else those inside of it."""
    if wanted(value):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _parts(part, wanted)
