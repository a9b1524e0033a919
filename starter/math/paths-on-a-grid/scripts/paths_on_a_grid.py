"""Shortest paths from (0, 0) to (width, height) that avoid points, counted point by point."""


def check(width, height, blocked=()):
    """blocked: points (x, y) that no path may touch."""
    points = {tuple(point) for point in blocked}
    if width < 1 or height < 1 or width * height > 10**6:
        return "fault: width and height from 1, not more than a million points"
    if any(not (0 <= x <= width and 0 <= y <= height) for x, y in points):
        return "fault: a blocked point lies outside of the grid"
    ways = {(0, 0): 0 if (0, 0) in points else 1}
    for x in range(width + 1):
        for y in range(height + 1):
            if (x, y) != (0, 0):
                ways[x, y] = 0 if (x, y) in points else ways.get((x - 1, y), 0) + ways.get((x, y - 1), 0)
    count = ways[width, height]
    return f"answer: {count}" if count else "fault: no path is left"
