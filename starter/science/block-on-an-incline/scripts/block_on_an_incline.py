"""Acceleration of a body that is released on a slope."""
from math import cos, radians, sin


def check(angle, friction, g=9.81, digits=3):
    """angle in degrees. Its acceleration in m/s^2."""
    if not 0 < angle < 90 or friction < 0:
        return "fault: an angle between 0 and 90 degrees, a friction of at least 0"
    acceleration = g * (sin(radians(angle)) - friction * cos(radians(angle)))
    return f"answer: {acceleration:.{digits}g} m/s^2" if acceleration > 0 else "fault: the body stays at rest"
