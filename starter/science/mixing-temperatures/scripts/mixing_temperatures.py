"""The common temperature of parts that are mixed without losses."""


def check(parts, low=None, high=None, digits=3):
    """parts: (mass in kg, specific heat in J/(kg K), temperature in celsius). low, high: where a phase would change."""
    if len(parts) < 2 or any(m <= 0 or c <= 0 for m, c, _ in parts):
        return "fault: at least two parts, masses and specific heats above 0"
    if len({t for _, _, t in parts}) == 1:
        return "fault: all parts have the same temperature, so nothing happens"
    if any(low is not None and t < low or high is not None and t > high for _, _, t in parts):
        return "fault: a part changes its phase, and its latent heat is missing"
    mixed = sum(m * c * t for m, c, t in parts) / sum(m * c for m, c, _ in parts)
    return f"answer: {mixed:.{digits}g} celsius"
