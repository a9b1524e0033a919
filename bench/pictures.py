"""A picture of several samples as SVG: each value a dot, with its mean and the bootstrap interval of the mean.

Colours and anchors are attributes and not CSS, which some viewers leave out.
"""
from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

from ap.files import write_text
from ap.tools.evaluation import bootstrap_interval

LEFT, WIDTH, ROW, MARGIN = 300, 820, 24, 20  # pixels: of the names, of all, of a row, at the sides


class Panel(NamedTuple):
    """samples: {row: [(name of the dot, value)]}. zero: 0 must be on the axis, as for differences."""

    heading: str
    samples: Mapping[str, Sequence[tuple[str, float]]]
    zero: bool = False


def ticks_of(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart), at most seven, between low and high."""
    steps = [m * 10.0 ** power for power in range(-9, 10) for m in (1, 2, 5)]
    step = next(step for step in steps if (high - low) / step <= 6)
    first = -int(-low // step)
    return [round(n * step, 10) for n in range(first, first + 7) if n * step <= high]


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(words)}</text>'


def drawn(panel: Panel, top: float) -> tuple[list[str], float]:
    """The elements of a panel that begins at `top`, and where it ends."""
    values = [value for row in panel.samples.values() for _, value in row] + [0.0] * panel.zero or [0.0]
    pad = 0.05 * (max(values) - min(values)) or 0.05
    low, high = min(values) - pad, max(values) + pad

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - MARGIN)

    bottom = top + ROW * (len(panel.samples) + 1)
    parts = [text(MARGIN, top + 14, panel.heading, ' font-weight="bold"')]
    for tick in ticks_of(low, high):
        parts += [f'<path d="M{x(tick):.1f} {top + ROW}V{bottom}" stroke="{"#666" if tick == 0 else "#ddd"}"/>',
                  text(x(tick), bottom + 14, f"{tick:g}", ' text-anchor="middle" fill="#666"')]
    for number, (name, row) in enumerate(panel.samples.items()):
        y = top + ROW * (number + 1.5)
        parts.append(text(LEFT - 10, y + 4, name, ' text-anchor="end"'))
        parts += [f'<circle cx="{x(value):.1f}" cy="{y}" r="4" fill="#2a6fb0" fill-opacity="0.55">'
                  f"<title>{escape(f'{dot}: {value:.4g}')}</title></circle>" for dot, value in row]
        if row:
            mean, least, most = map(x, bootstrap_interval([value for _, value in row]))
            parts.append(f'<path d="M{least:.1f} {y}H{most:.1f}M{mean:.1f} {y - 8}V{y + 8}" stroke="#b03030" '
                         'stroke-width="2"/>')
    return parts, bottom + 2 * ROW


def write_picture(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Write the panels, one below the other. Atomic."""
    parts, top = [text(MARGIN, 20, title, ' font-size="15"')], 36.0
    for panel in panels:
        more, top = drawn(panel, top)
        parts += more
    write_text(path, "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>', *parts, "</svg>"]) + "\n")
