"""The nine colours of the world, far enough apart that a picture's colours can be named by the nearest."""

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.13, 0.13),
    "orange": (0.98, 0.54, 0.08),
    "yellow": (0.98, 0.90, 0.20),
    "green": (0.16, 0.64, 0.26),
    "blue": (0.14, 0.34, 0.88),
    "purple": (0.52, 0.20, 0.70),
    "pink": (0.98, 0.58, 0.78),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.07),
}

Rgb = tuple[float, float, float]


def second_tone(color: str, depth: float) -> Rgb:
    """The same colour one tone darker by the factor `depth`; black, which cannot go darker, goes as far up."""
    if color == "black":
        return (1.0 - depth * 0.93,) * 3
    r, g, b = COLORS[color]
    return r * depth, g * depth, b * depth
