"""pH of a mixture of a strong acid and a strong base with one proton each, at 25 celsius."""
from math import log10


def check(acid, base=(0.0, 0.0), water=0.0, digits=2):
    """acid, base: (volume in L, concentration in mol/L). water: L that are added. The pH, with so many decimals."""
    if min(*acid, *base, water) < 0 or acid[0] + base[0] + water <= 0:
        return "fault: volumes and concentrations must be at least 0, and something must be there"
    over = (acid[0] * acid[1] - base[0] * base[1]) / (acid[0] + base[0] + water)
    if abs(over) < 1e-6:
        return "fault: so little is left over that water's own ions count"
    return f"answer: {-log10(over) if over > 0 else 14 + log10(-over):.{digits}f}"
