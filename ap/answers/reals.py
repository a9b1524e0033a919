"""Subsets of the real line whose ends are numbers: unions, intersections and differences in one form.

A subset is a list of pieces from one cut to another. A cut is (value, side, node): just before (side 0) or just behind
(side 1) that value. So [1, 2) goes from (1, 0) to (2, 0), and the point 3 from (3, 0) to (3, 1).
"""
from __future__ import annotations

from ap.answers.expressions import INFINITY, MINUS_INFINITY, Node, Unreadable
from ap.answers.probes import Evaluation

INTERVALS = ("()", "[]", "(]", "[)")
LEFT, RIGHT = (float("-inf"), 1, MINUS_INFINITY), (float("inf"), 0, INFINITY)


def is_interval(node: Node) -> bool:
    return node.op in (*INTERVALS, "union") and len(node.args) >= 2


def number(node: Node):
    """The value of a real number, for sorting. Raises Unreadable when it is not a real number."""
    if node in (INFINITY, MINUS_INFINITY):
        return float("inf") if node == INFINITY else float("-inf")
    if node.variables:
        raise Unreadable("an end that is not a number")
    evaluation = Evaluation(50, {}, False)
    value = evaluation.approximate(evaluation(node))
    if value.imag:
        raise Unreadable("an end that is not real")
    return value


def union(*subsets: Node) -> Node:
    """The union, in one form where the ends are numbers; otherwise its parts as they stand."""
    pieces, parts = [], []
    try:
        for subset in subsets:
            pieces += _pieces(subset)
    except Unreadable:
        for subset in subsets:
            parts += subset.args if subset.op == "union" else [subset]
        return Node("union", tuple(parts))
    pieces.sort(key=_start)
    merged = pieces[:1]
    for low, high in pieces[1:]:
        if low[:2] > merged[-1][1][:2]:
            merged.append((low, high))
        elif high[:2] > merged[-1][1][:2]:
            merged[-1] = (merged[-1][0], high)
    return _node(merged)


def intersection(*subsets: Node) -> Node:
    """The intersection. Raises Unreadable when it is empty."""
    pieces = [(LEFT, RIGHT)]
    for subset in subsets:
        others = _pieces(subset)
        common = [(max(one[0], other[0], key=_key), min(one[1], other[1], key=_key))
                  for one in pieces for other in others]
        pieces = [(low, high) for low, high in common if low[:2] < high[:2]]
    return _node(pieces)


def complement(subset: Node) -> Node:
    """All other real numbers."""
    cuts = [LEFT]
    for low, high in sorted(_pieces(subset), key=_start):
        cuts += [low, high]
    cuts.append(RIGHT)
    return _node([(low, high) for low, high in zip(cuts[::2], cuts[1::2]) if low[:2] < high[:2]])


def _key(cut):
    return cut[:2]


def _start(piece):
    return piece[0][:2]


def _pieces(node: Node) -> list:
    if node.op == "union":
        return [piece for part in node.args for piece in _pieces(part)]
    if node.op == "set":
        return [((number(point), 0, point), (number(point), 1, point)) for point in node.args]
    if node.op not in INTERVALS or len(node.args) != 2:
        raise Unreadable("not a set of real numbers")
    low, high = node.args
    piece = (number(low), int(node.op[0] == "("), low), (number(high), int(node.op[1] == "]"), high)
    if not piece[0][:2] < piece[1][:2]:
        raise Unreadable("an interval without points")
    return [piece]


def _node(pieces: list) -> Node:
    if not pieces:
        raise Unreadable("no real number")
    parts = [Node("set", (low[2],)) if low[0] == high[0] else
             Node("[("[low[1]] + ")]"[high[1]], (low[2], high[2])) for low, high in pieces]
    if all(part.op == "set" for part in parts):
        return Node("set", tuple(part.args[0] for part in parts))
    return parts[0] if len(parts) == 1 else Node("union", tuple(parts))
