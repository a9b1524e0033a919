"""Speed after a fall in which a share of the energy is lost."""
from math import sqrt


def check(height, lost=0.0, speed=0.0, g=9.81, digits=3):
    """height in m, lost: share of the energy from 0 to 1, speed at the start in m/s. The final speed in m/s."""
    if not 0 <= lost < 1:
        return "fault: the share that is lost must be at least 0 and less than 1"
    energy = (g * height + speed ** 2 / 2) * (1 - lost)
    return f"answer: {sqrt(2 * energy):.{digits}g} m/s" if energy > 0 else "fault: the energy does not suffice"
