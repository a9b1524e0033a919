"""Mean steps to the state "end", from a linear system in exact fractions."""
import sympy


def check(moves, start, end="end"):
    """moves: state -> {next state: chance as text}. The mean number of steps from start to end."""
    states = sorted(moves)
    chances = {s: {t: sympy.Rational(p) for t, p in moves[s].items()} for s in states}
    for state in states:
        if sum(chances[state].values()) != 1 or min(chances[state].values()) < 0:
            return f"fault: the chances of {state} do not add up to 1"
        if set(chances[state]) - set(states) - {end}:
            return f"fault: missing information, {state} leads to a state without chances"
    if start not in moves:
        return "fault: missing information, the start has no chances"
    reached = {end}
    for _ in states:
        reached |= {s for s in states if any(t in reached and p > 0 for t, p in chances[s].items())}
    if set(states) - reached:
        return "fault: the process need not end"
    matrix = sympy.Matrix(len(states), len(states), lambda i, j: int(i == j) - chances[states[i]].get(states[j], 0))
    means = matrix.LUsolve(sympy.ones(len(states), 1))
    return f"answer: {means[states.index(start)]}"
