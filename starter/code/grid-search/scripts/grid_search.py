"""The fewest moves from the first to the last cell of a grid, by relaxing until nothing changes."""


def slow(rows):
    """Moves up, down, left, right over "."; -1 when there is no way."""
    far = {(r, c): 10**9 for r, row in enumerate(rows) for c, cell in enumerate(row) if cell == "."}
    goal = (len(rows) - 1, len(rows[0]) - 1)
    if (0, 0) not in far or goal not in far:
        return -1
    far[0, 0] = 0
    for _ in far:
        for r, c in far:
            near = ((r, c + 1), (r + 1, c), (r, c - 1), (r - 1, c))
            far[r, c] = min([far[r, c], *(far.get(place, 10**9) + 1 for place in near)])
    return far[goal] if far[goal] < 10**9 else -1


def check(cases):
    """cases: (rows, expected output) of each test. `ok`, or the first case that is wrong."""
    for number, (rows, expected) in enumerate(cases, 1):
        if len(set(map(len, rows))) != 1 or set("".join(rows)) - set(".#"):
            return f"fault: case {number}: the rows differ in length, or hold other cells than . and #"
        right = slow(rows)
        if right != expected:
            return f"fault: case {number}: {expected} is expected, {right} is right"
    return f"ok: {len(cases)} cases"
