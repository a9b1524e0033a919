"""Lattice points strictly inside a simple polygon, by Pick's theorem."""
from math import gcd


def turn(p, q, r):
    return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])


def cross(p, q, r, s):
    """Do the segments pq and rs share a point?"""
    def on(p, q, r):
        return turn(p, q, r) == 0 and all(min(p[i], q[i]) <= r[i] <= max(p[i], q[i]) for i in (0, 1))

    sides = [turn(p, q, r), turn(p, q, s), turn(r, s, p), turn(r, s, q)]
    proper = sides[0] * sides[1] < 0 and sides[2] * sides[3] < 0
    return proper or on(p, q, r) or on(p, q, s) or on(r, s, p) or on(r, s, q)


def check(vertices):
    """vertices: corners (x, y) in order, whole numbers."""
    corners = [tuple(corner) for corner in vertices]
    count = len(corners)
    if count < 3 or len(set(corners)) < count or any(not isinstance(x, int) for corner in corners for x in corner):
        return "fault: at least three different corners with whole coordinates"
    edges = list(zip(corners, corners[1:] + corners[:1]))
    for i in range(count):
        for j in range(i + 2, count):
            if (i, j) != (0, count - 1) and cross(*edges[i], *edges[j]):
                return "fault: the border crosses itself"
    double = abs(sum(x * v - u * y for (x, y), (u, v) in edges))
    border = sum(gcd(abs(x - u), abs(y - v)) for (x, y), (u, v) in edges)
    if double == 0:
        return "fault: the polygon has no area"
    return f"answer: {(double - border + 2) // 2}"
