"""The ideal gas law p V = n R T, solved for the one that is missing."""

R = 8.314


def check(pressure=None, volume=None, amount=None, temperature=None, digits=3):
    """In Pa, m^3, mol, K; exactly one is left out, and is the answer."""
    given = dict(pressure=pressure, volume=volume, amount=amount, temperature=temperature)
    missing = [name for name, value in given.items() if value is None]
    if len(missing) > 1:
        return f"fault: missing information, {' and '.join(missing)} are not given"
    if not missing:
        return "fault: nothing is asked for"
    if min(value for value in given.values() if value is not None) <= 0:
        return "fault: all quantities are above 0, temperatures in kelvin"
    found = {"pressure": lambda: (amount * R * temperature / volume, "Pa"),
             "volume": lambda: (amount * R * temperature / pressure, "m^3"),
             "amount": lambda: (pressure * volume / (R * temperature), "mol"),
             "temperature": lambda: (pressure * volume / (amount * R), "K")}[missing[0]]()
    return f"answer: {found[0]:.{digits}g} {found[1]}"
