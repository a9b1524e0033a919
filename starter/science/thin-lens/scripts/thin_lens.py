"""Image of a thin lens, in exact fractions."""
from fractions import Fraction


def check(focal, distance, ask="image", digits=3):
    """focal (below 0: diverging) and distance of the object in cm. ask: "image" in cm, or "magnification"."""
    f, g = Fraction(str(focal)), Fraction(str(distance))
    if f == 0 or g <= 0:
        return "fault: a focal length that is not 0, an object in front of the lens"
    if f == g:
        return "fault: no image, the object stands in the focal point"
    image = 1 / (1 / f - 1 / g)
    return f"answer: {float(image):.{digits}g} cm" if ask == "image" else f"answer: {float(-image / g):.{digits}g}"
