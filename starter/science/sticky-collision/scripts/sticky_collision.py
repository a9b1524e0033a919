"""A fully inelastic collision on a line."""


def check(m1, v1, m2, v2, ask="speed", digits=3):
    """Masses in kg, velocities in m/s with signs. ask: "speed" in m/s (with its sign), or "loss" in J."""
    if min(m1, m2) <= 0:
        return "fault: a mass must be above 0"
    if v1 <= v2:
        return "fault: the first body, behind the second, never reaches it"
    v = (m1 * v1 + m2 * v2) / (m1 + m2)
    loss = (m1 * v1**2 + m2 * v2**2 - (m1 + m2) * v**2) / 2
    return f"answer: {v:.{digits}g} m/s" if ask == "speed" else f"answer: {loss:.{digits}g} J"
