"""From the tree of an answer to its meaning: sets, intervals, named values, relations."""
from __future__ import annotations

import re
import zlib
from fractions import Fraction

from ap.answers.equality import is_expression, same
from ap.answers.expressions import BASE, DOTS, INFINITY, MINUS_INFINITY, Node, Parser, Unreadable, num
from ap.answers.extract import HEDGE
from ap.answers.probes import OPERATIONS, Probe
from ap.answers.reals import complement, intersection, is_interval, number, union

MAX_ENTRIES = 4000  # of 1, 2, ..., n written out
NAME = re.compile(  # f(x) = ..., AB = ..., Area = ...: the name is not parsed
    r"^(?:([A-Za-z])(?:\^\{-1\}|')* *\( *[A-Za-z0-9](?: *, *[a-z])* *\)|\|?[A-Z]{2,4}\|?"
    r"|[A-Z][a-z]+ *\([^()=]{1,40}\)|m? *\\(?:angle|triangle) *[A-Z]{1,3}|\\frac *\{d\^?2? *[a-z]?\} *\{d[a-z]\^?2?\}"
    r"|[A-Za-z]{4,}(?: [A-Za-z]+)*) *=(?=[^=]*$|(?:[^A-Za-z=]|\\[a-z]+)*=(?:[^A-Za-z=]|\\[a-z]+)*$)")
QUANTITY = re.compile(r"([^=<>,;:!]{,40}(?:[([|][^()\[\]|]{1,40}[)\]|])?[^=<>,;:!]{,40})=([^=<>]+)")
# Left of "=" no quantity, but a side of an equation: sums and powers outside of brackets, derivatives
IN_BRACKETS = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|\|[^|]*\|")
SUMS = re.compile(r"\\(?:sum|o?int|det)(?![A-Za-z])")  # and then = 0 is an equation, too
EQUATION = re.compile(
    r"(?i)^ *[0-9]|\b(?:if|when|for|where|at|and|or|so|then|let|suppose|assume)\b|[-+^*](?![^{]*\})|'"
    r"|\\(?:d?dot|partial|nabla|prime|Delta)(?![A-Za-z])")
BOUND = re.compile(  # a parameter: ..., k \in Z; ... for all x \in R; ... where n is an integer
    r" *(?:[,;(]|\b(?:for|where|with)\b) *(?:all |any |every |some |each )*(?:real |integers? |numbers? )*([a-z]) *"
    r"(?:\\in *(?:\\R|[ZNQC])(?: *\^ *\{? *[+*] *\}?)?"
    r"|(?:is |are )(?:an? |any |arbitrary )*(?:integer|real number|constant)s?) *\)?$"
    r"|()(?<=\S) +for (?:all|any|every) (?:real |integers? |numbers? )*[a-z]$")
EXCEPT = re.compile(
    r"(?:all )?(?:real numbers?|reals)(?: x)? (?:except(?: for)?|but|other than|excluding) (?:x = )?(.*)")
OUTWARDS = re.compile(r"([\[\]])([^\[\]()=,]+,[^\[\]()=,]+)([\[\]])")  # ]0, 1[


def meanings(text: str) -> list[Node]:
    """Everything that an answer without its unit can mean, at least one meaning. Raises Unreadable."""
    text = re.sub(r"(?<![A-Za-z\\])c(?=_)|(?<=\+)( ?)c$", r"\1C", text)  # a constant of integration
    text = EXCEPT.sub(r"\\R \\setminus \\{\1\\}", text)
    text = OUTWARDS.sub(_inwards, text)
    bound = BOUND.search(text, max(0, len(text) - 80))
    if not bound or not bound.start():
        plain = [_meaning(Parser(text).whole())] if re.match(r"[A-Z]{2,4} *=[^=]*[A-Z]", text) else []  # PV = nRT
        return [_interpreted(text), *plain]
    text = text[:bound.start()]
    found = [_interpreted(text)]
    if bound[1] and not re.search(r"[a-z]\(", text):  # k gets a name that is not its own; but not x of f(x)
        found.append(_interpreted(re.sub(rf"(?<![A-Za-z\\]){bound[1]}(?![A-Za-z])", r"\\Upsilon ", text)))
    return found


def _inwards(match: re.Match) -> str:
    """An interval whose open ends are brackets that look outwards, ]0, 1], in the usual way: (0, 1]."""
    return ("[" if match[1] == "[" else "(") + match[2] + ("]" if match[3] == "]" else ")")


PRIME = "'"


def _short_name(match: re.Match) -> str:
    """f(x) = becomes y =, so that the two can be compared; any other long name becomes a new variable."""
    if match[1] and re.search(r"\( *[a-z]", match[0]) and "y" not in match[0]:
        return f"y{match[0].count(PRIME) * PRIME} ="
    return _variable(match[0]) + " ="


def _variable(name: str) -> str:
    return f"f_{{{zlib.crc32(re.sub(r'[^A-Za-z0-9]', '', name).encode())}}}"


def _interpreted(text: str) -> Node:
    if text.count("=") > 1 and "y" not in text:
        text = re.sub(r"\b[A-Za-z]\(x\) *=", "y =", text)  # f(x) = x, f(x) = -x
    if re.search("[<>]|\\\\[gln]eq?(?![A-Za-z])", text) and "y" not in text:
        text = re.sub(r"(?<![A-Za-z\\])[fgh]\([a-z]\)", "y", text)  # 0 < f(x) < 1
    name = NAME.match(text)
    if not (name and name[1] and re.search(rf"(?<![A-Za-z\\]){name[1]}['(]", text[name.end():])):  # not f(x) = f(-x)
        text = NAME.sub(_short_name, text)
    if builder := re.fullmatch(r"\\\{ *([A-Za-z])(?: *\\in *\\R)? *(?:\\mid|\||:) *(.*)\\\}", text):
        value = _meaning(Parser(builder[2]).whole())
        if value.op != "named" or value.args[0] != builder[1]:
            raise Unreadable("a set of what?")
        return value.args[1]
    if builder := re.fullmatch(r"\\\{ *\(([a-z, ]+)\) *(?:\\mid|\||:) *(.*)\\\}", text):  # of points
        names = Node("word", (builder[1].replace(" ", ""),))
        return Node("set", (Node("()", (names, _meaning(Parser(builder[2]).whole()))),))
    try:
        tree = Parser(text).whole()
    except Unreadable:  # \det A = 5, P(X = 1) = 5, [ABC] = 5
        match = QUANTITY.fullmatch(text)
        if (not match or HEDGE.search(match[1]) or not re.search("[A-Za-z]{2}|\\([A-Z]|[A-Z]\\(", match[1])
                or EQUATION.search(IN_BRACKETS.sub("", match[1])) or match[2].strip() == "0" and SUMS.search(match[1])):
            raise
        return Node("named", (_variable(match[1].lower()), _meaning(Parser(match[2].strip()).whole()), None))
    return _meaning(tree)


def _meaning(node: Node) -> Node:
    """Turn lists into sets, relations into named values, intervals or differences, and every +- into two values."""
    if node.op in ("list", "or", "and"):
        return _several(node.op, [_meaning(arg) for arg in node.args])
    if node.op == "relation":
        return _relation(node)
    if node.op == "set":
        return _set(node)
    if node.has("pm", "mp"):
        return Node("set", (_signed(node, "neg"), _signed(node, "")))
    if node.op == "union":
        return union(*[_meaning(arg) for arg in node.args])
    if node.op in ("()", "[]", "(]", "[)"):
        parts = [_meaning(arg) for arg in node.args]
        if node.op == "[]" and all(part.op == "[]" and len(part.args) == len(parts[0].args) for part in parts):
            return Node("matrix", tuple(Node("row", part.args) for part in parts))
        return Node(node.op, tuple(parts))
    if node.op == "minus":
        whole, holes = map(_meaning, node.args)
        return intersection(whole, complement(holes))
    return node


def _set(node: Node) -> Node:
    """A set with its entries. A +- stands for two of them: {1, +-2} has three entries."""
    parts = [_meaning(arg) for arg in node.args]
    parts = _continued(_flattened(parts) if node.has("pm", "mp") else parts)
    names = {part.args[0] for part in parts if part.op == "named"}
    if len(parts) > 1 and len(names) == len(parts):
        return _several("list", parts)  # {x = 1, y = 2}
    return Node("set", tuple(parts))


def _flattened(parts: list[Node]) -> list[Node]:
    """The parts, with the entries of a set in its place."""
    entries = []
    for part in parts:
        entries += part.args if part.op == "set" else [part]
    return entries


def _signed(node: Node, upper: str) -> Node:
    """The tree with every +- as + (upper "") or - (upper "neg"), and every -+ the other way round."""
    args = tuple(_signed(arg, upper) if isinstance(arg, Node) else arg for arg in node.args)
    if node.op in ("pm", "mp"):
        negative = (node.op == "pm") == (upper == "neg")
        return Node("neg", args) if negative else args[0]
    return Node(node.op, args)


def _several(kind: str, parts: list[Node]) -> Node:
    """What `a, b`, `a or b`, `a and b` mean."""
    parts = [part.args[2] if part.op == "named" and not part.args[0] else part for part in _continued(parts)]
    if kind == "or" and all(is_interval(part) for part in parts):
        return union(*parts)
    meaning = _several_named(kind, parts)
    if meaning is not None:
        return meaning
    entries, probe = _flattened(parts), Probe("or", 50)
    if kind == "or" and entries and all(is_expression(e) and same(entries[0], e, probe) for e in entries):
        return entries[0]  # 0.75 or 3/4
    return Node("set", tuple(entries))


def _several_named(kind: str, parts: list[Node]) -> Node | None:
    """What parts mean of which some are named values (x = 1, y = 2); None where the names do not matter."""
    named = [part for part in parts if part.op == "named"]
    names, values = [part.args[0] for part in named], [part.args[1] for part in named]
    unknowns = sorted({*names})
    all_named, all_differ = len(named) == len(parts), len(unknowns) == len(parts)
    intervals = any(is_interval(value) for value in values)
    if intervals and all_named and len(unknowns) == 1:  # x = 2 or x >= 3; 1 < x < 3, x != 2
        subsets = [value if is_interval(value) or value.op == "set" else Node("set", (value,)) for value in values]
        return Node("named", (unknowns[0], union(*subsets) if kind == "or" else intersection(*subsets), None))
    if all_named and (points := _points(named, unknowns)):  # x=1, y=2; x=3, y=4
        return Node("set", points)
    if all_differ and not intervals and len({name[:2] for name in names if "_" in name}) == 1:
        return Node("set", tuple(values))  # x_1 = 2, x_2 = 3
    if all_differ and kind != "or":
        return Node("system", tuple(sorted(parts, key=_name)))
    if intervals:
        return None
    if all_named and len(unknowns) == 1:  # x = 1 or x = 2
        return Node("named", (unknowns[0], _several(kind, values), None))
    if len(named) == 1 and parts[0].op == "named":  # x = 1, 2
        return Node("named", (unknowns[0], _several(kind, [values[0], *parts[1:]]), None))
    return None


def _points(named: list[Node], unknowns: list[str]) -> tuple[Node, ...]:
    """Named values in rows that each name all unknowns, as points; () where they are not such rows."""
    width = len(unknowns)
    if not 1 < width < len(named) or len(named) % width:
        return ()
    rows = [sorted(named[i:i + width], key=_name) for i in range(0, len(named), width)]
    if any([_name(part) for part in row] != unknowns for row in rows):
        return ()
    return tuple(Node("()", tuple(part.args[1] for part in row)) for row in rows)


def _name(part: Node) -> str:
    return part.args[0]


def _continued(entries: list[Node]) -> list[Node]:
    """1, 2, ..., 10 written out, if its steps are equal."""
    at = next((i for i, node in enumerate(entries) if node == DOTS), 0)
    if at < 2 or at != len(entries) - 2 or any(node.op != "num" for node in (*entries[:at], entries[-1])):
        return entries
    values, last = [node.args[0] for node in entries[:at]], entries[-1].args[0]
    step = values[1] - values[0]
    steps = (last - values[0]) / step if step else Fraction(-1)
    uneven = any(b - a != step for a, b in zip(values, values[1:]))
    if uneven or steps.denominator > 1 or not at <= steps <= MAX_ENTRIES:
        return entries
    return [num(values[0] + step * n) for n in range(int(steps) + 1)]


def _relation(node: Node) -> Node:
    """Node "named" (variable, value, the relation itself or None), or "=", "<", "<=", "!=" of a difference with 0."""
    signs, parts = node.args[0], [_meaning(part) for part in node.args[1:]]
    if {*signs} == {"="}:
        return _equation(parts)
    if signs == ("\\in",) and parts[0].op == "var":
        return Node("named", (parts[0].args[0], parts[1], None))
    if signs == ("\\in",) and _is_point_of_variables(parts[0]):
        return parts[1]
    apart = signs == ("!=",) and parts[0].op == "var" and parts[1].op == "set"
    if not (apart or all(is_expression(part) for part in parts)) or "\\in" in signs or "=" in signs:
        raise Unreadable("a relation of what are not numbers")
    return _inequality(signs, parts)


def _equation(parts: list[Node]) -> Node:
    """a = b, or a chain a = b = c."""
    left, right = parts[:2]
    if left.op == right.op == ":" and left.variables and not right.variables and len(parts) == 2:
        return Node("named", ("", right, None))  # V_1 : V_2 = 11 : 21
    if any(a == b for a, b in zip(parts, parts[1:])):
        raise Unreadable("a statement without content")
    named = left.op == "var" and not any(_bare(left.args[0]) in map(_bare, value.variables) for value in parts[1:])
    if named or len(parts) > 2:
        return _chain(parts, named)
    if _is_point_of_variables(left) and right.op == "()" and len(left.args) == len(right.args):  # (x,y) = (1,2)
        return _several("list", [Node("named", (a.args[0], b, None)) for a, b in zip(left.args, right.args)])
    if right.op == "var" and not left.variables and is_expression(left):  # 5 = x
        return Node("named", (right.args[0], left, Node("=", (_minus(left, right),))))
    if not (is_expression(left) and is_expression(right)):
        raise Unreadable("an equation of what are not numbers")
    if _identical(left, right):  # 3 + 4 = 7, (x^2 - 1)/(x - 1) = x + 1
        return right
    if (left.variables | right.variables) == {BASE.args[0]}:  # \log 0.01 = -2
        if not _identical(*(_in_base_10(side) for side in parts)):
            raise Unreadable("a false statement")
        return right
    if not (left.variables or right.variables):
        raise Unreadable("a false statement")
    relation = Node("=", (_minus(left, right),))
    return Node("named", ("", right, relation)) if _is_asked_for(left, right) else relation


def _bare(name: str) -> str:
    r"""The y of y', \ddot{y}, y(0), y_{n+1} and y_{tt}: an equation with two of them names no value."""
    return re.sub(r"_(?:[nkijmtxyz]{1,2}(?:[-+][0-9])?)$|\\d?dot|'|\(.*", "", name)


def _chain(parts: list[Node], named: bool) -> Node:
    """x = 1/2 = 0.5 (named), or 2/4 = 1/2 = 0.5: the first value, of which all others must be the same."""
    probe = Probe("chain", 50)
    asked = not named and is_expression(parts[0]) and is_expression(parts[1]) and _is_asked_for(*parts[:2])
    values = parts[1:] if named or asked else parts
    if any(not same(values[0], other, probe) for other in values[1:]):
        raise Unreadable("a chain of different values")
    if asked:  # ab = 2 * 3 = 6
        return Node("named", ("", values[0], Node("=", (_minus(parts[0], values[0]),))))
    if not named:
        return values[0]
    relation = Node("=", (_minus(parts[0], values[0]),)) if is_expression(values[0]) else None
    return Node("named", (parts[0].args[0], values[0], relation))


def _in_base_10(node: Node) -> Node:
    """The tree with every logarithm of an unknown base as one to base 10."""
    args = tuple(_in_base_10(arg) if isinstance(arg, Node) else arg for arg in node.args)
    return num(10) if node == BASE else Node(node.op, args)


def _is_point_of_variables(node: Node) -> bool:
    return node.op == "()" and all(part.op == "var" for part in node.args)


def _identical(left: Node, right: Node) -> bool:
    try:
        return same(left, right, Probe("chain", 50))
    except Unreadable:
        return False


def _is_asked_for(left: Node, right: Node) -> bool:
    r"""Does it state the value that was asked for, as m + n = 113 or |z| = 5 do, rather than an equation to solve?"""
    if right.variables or right == num(0) or not left.variables:
        return False
    if left.op in OPERATIONS and left.op not in ("neg", "inv", "^", "root", "degrees"):
        return True
    terms = left.args if left.op == "+" else (left,)
    return (left.op in ("+", "*") and len(left.variables) > 1 and not left.variables & {*"xyz"}
            and all(term.variables for term in terms))


def _inequality(signs: tuple[str, ...], parts: list[Node]) -> Node:
    if signs == ("!=",):
        difference = Node("!=", (_minus(*parts),)) if is_expression(parts[1]) else None
        if parts[0].op == "var" and not parts[1].variables:
            holes = parts[1] if parts[1].op == "set" else Node("set", (parts[1],))  # x != +-1
            return Node("named", (parts[0].args[0], complement(holes), difference))
        return difference
    if any(sign[0] != signs[0][0] for sign in signs) or signs[0][0] not in "<>" or len(signs) > 2:
        raise Unreadable("a chain of relations")
    if signs[0][0] == ">":
        signs, parts = tuple(sign.replace(">", "<") for sign in reversed(signs)), parts[::-1]
    constants = [not part.variables for part in parts]
    if len(parts) == 2 and (limits := _around_zero(signs[0], *parts)):
        return limits
    if len(parts) == 3:
        if parts[1].op != "var" or constants != [True, False, True] or not number(parts[0]) < number(parts[2]):
            raise Unreadable("a chain of relations")
        brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
        return Node("named", (parts[1].args[0], Node(brackets, (parts[0], parts[2])), None))
    difference = Node(signs[0], (_minus(*parts),))
    if parts[0].op == "var" and constants[1]:
        value = Node("(" + ("]" if signs[0] == "<=" else ")"), (MINUS_INFINITY, parts[1]))
        return Node("named", (parts[0].args[0], value, difference))
    if parts[1].op == "var" and constants[0]:
        value = Node(("[" if signs[0] == "<=" else "(") + ")", (parts[0], INFINITY))
        return Node("named", (parts[1].args[0], value, difference))
    return difference


def _around_zero(sign: str, small: Node, large: Node) -> Node | None:
    """The interval, or the union, for x that |x + a| < b or |x + a| > b means; None: it is neither of them."""
    inside, bound = (small, large) if small.op == "abs" else (large, small)
    if inside.op != "abs" or bound.variables or len(inside.variables) != 1 or not number(bound) > 0:
        return None
    (name,), (argument,) = inside.variables, inside.args
    shift = [arg for arg in argument.args if arg != Node("var", (name,))] if argument.op == "+" else []
    if argument != Node("var", (name,)) and (len(shift) != len(argument.args) - 1 or Node("+", tuple(shift)).variables):
        return None
    centre = Node("neg", (Node("+", tuple(shift)),)) if shift else num(0)
    low, high = _minus(centre, bound), Node("+", (centre, bound))
    if inside is small:
        return _inequality((sign, sign), [low, Node("var", (name,)), high])
    left, right = (_inequality((sign,), pair) for pair in ([Node("var", (name,)), low], [high, Node("var", (name,))]))
    return Node("named", (name, union(left.args[1], right.args[1]), None))


def _minus(a: Node, b: Node) -> Node:
    return Node("+", (a, Node("neg", (b,))))
