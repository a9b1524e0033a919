"""Are two meanings the same? ap/answers/match.py says what counts as equal."""
from __future__ import annotations

from collections import Counter

from ap.answers.expressions import Node
from ap.answers.probes import Probe

MAX_UNEQUAL = 20  # entries of two sets that are not exactly alike, such as sqrt(3 + 2 sqrt(2)) and 1 + sqrt(2)
# Operations of a tree that stand for kinds of answers, not for numbers
NOT_EXPRESSIONS = ("set", "()", "[]", "(]", "[)", "union", "matrix", "row", "word", ":", "named", "system", "relation",
                   "=", "<", "<=", "!=", "list", "or", "and", "minus")


def is_expression(node: Node) -> bool:
    return node.op not in NOT_EXPRESSIONS


def same(a: Node, b: Node, probe: Probe) -> bool:
    """Do two trees mean the same? Raises Unreadable when one of them cannot be computed."""
    if a == b:
        return True
    if "named" in (a.op, b.op):
        return _same_named(a, b, probe)
    if a.op == "system" and b.op == "()":
        a = Node("()", tuple(part.args[1] for part in a.args))
    if b.op == "system" and a.op == "()":
        return same(b, a, probe)
    if is_expression(a) and is_expression(b):
        return probe.same(a, b)
    if {a.op, b.op} == {"union", "set"} and all(part.op == "()" for part in (*a.args, *b.args)):
        # (1, 2) or (3, 4) may be two points; the empty set is no part of them
        return len(a.args) == len(b.args) and _same_unordered(a.args, b.args, probe)
    if "set" in (a.op, b.op) and (is_expression(a) or is_expression(b)):
        (one, other) = (a, b) if a.op == "set" else (b, a)
        return len(one.args) == 1 and same(one.args[0], other, probe)
    if a.op != b.op or len(a.args) != len(b.args):
        return False
    if a.op in ("=", "!=", "<", "<="):
        return probe.proportional(a.args[0], b.args[0], positive=a.op[0] == "<")
    if a.op in ("set", "union"):
        return _same_unordered(a.args, b.args, probe)
    if a.op == ":":
        return all(probe.same(Node("*", (x, b.args[0])), Node("*", (y, a.args[0]))) for x, y in zip(a.args, b.args))
    return a.op != "word" and all(same(x, y, probe) for x, y in zip(a.args, b.args))


def _same_named(a: Node, b: Node, probe: Probe) -> bool:
    """x = 5 equals 5, x = 5 and 2x = 10, but neither y = 5 nor one member of a system."""
    if a.op != "named":
        a, b = b, a
    name, value, relation = a.args
    if b.op == "named":
        if name and name == b.args[0]:
            return same(value, b.args[1], probe)
        return relation is not None and b.args[2] is not None and same(relation, b.args[2], probe)
    if b.op in ("=", "!=", "<", "<="):
        return relation is not None and same(relation, b, probe)
    return same(value, b, probe)


def _same_unordered(ours: tuple[Node, ...], theirs: tuple[Node, ...], probe: Probe) -> bool:
    """Do both have the same entries, each equally often? Entries that are not exactly alike are compared in pairs."""
    rest, left = Counter(ours) - Counter(theirs), list((Counter(theirs) - Counter(ours)).elements())
    if len(left) > MAX_UNEQUAL:
        return False
    for x in rest.elements():
        found = next((i for i, y in enumerate(left) if same(x, y, probe)), None)
        if found is None:
            return False
        del left[found]
    return True
