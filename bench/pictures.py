"""A picture of several samples as SVG: each value a dot, with its mean and the bootstrap interval of the mean."""
from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Mapping, Sequence

from ap.files import write_text
from ap.tools.evaluation import bootstrap_interval

LEFT, WIDTH, ROW, MARGIN = 260, 760, 24, 20  # pixels: of the names, of all, of a row, at the right
STYLE = ("text { font: 12px sans-serif; fill: #222 } .name { text-anchor: end } .head { font-weight: bold } .tick { "
         "text-anchor: middle; fill: #666 } .dot { fill: #2a6fb0; fill-opacity: .55 } .mean { stroke: #b03030; "
         "stroke-width: 2 } .grid { stroke: #ddd } .zero { stroke: #666 }")


def ticks_of(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart), at most seven, between low and high."""
    steps = [m * 10.0 ** power for power in range(-9, 10) for m in (1, 2, 5)]
    step = next(step for step in steps if (high - low) / step <= 6)
    first = -int(-low // step)
    return [round(n * step, 10) for n in range(first, first + 7) if n * step <= high + 1e-9]


def panel(heading: str, samples: Mapping[str, Sequence[tuple[str, float]]], top: int) -> tuple[list[str], int]:
    """The elements of one panel that begins at `top`, and where it ends. samples: {row: [(name of the dot, value)]}."""
    values = [value for row in samples.values() for _, value in row]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    pad = 0.05 * (high - low) or 0.05
    low, high = low - pad, high + pad

    def x(value: float) -> str:
        return f"{LEFT + (value - low) / (high - low) * (WIDTH - LEFT - MARGIN):.1f}"

    bottom = top + ROW * (len(samples) + 1)
    parts = [f'<text class="head" x="{MARGIN}" y="{top + 14}">{escape(heading)}</text>']
    for tick in ticks_of(low, high):
        kind = "zero" if tick == 0 else "grid"
        parts += [f'<path class="{kind}" d="M{x(tick)} {top + ROW}V{bottom}"/>',
                  f'<text class="tick" x="{x(tick)}" y="{bottom + 14}">{tick:g}</text>']
    for number, (name, row) in enumerate(samples.items()):
        y = top + ROW * (number + 1.5)
        parts.append(f'<text class="name" x="{LEFT - 10}" y="{y + 4}">{escape(name)}</text>')
        parts += [f'<circle class="dot" cx="{x(value)}" cy="{y}" r="4"><title>{escape(f"{dot}: {value:.4g}")}</title>'
                  "</circle>" for dot, value in row]
        if row:
            mean, least, most = bootstrap_interval([value for _, value in row])
            parts.append(f'<path class="mean" d="M{x(least)} {y}H{x(most)}M{x(mean)} {y - 8}V{y + 8}"/>')
    return parts, bottom + 2 * ROW


def write_picture(path: Path, title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]) -> None:
    """Write the panels, one below the other: {heading: {row: [(name of the dot, value), ...]}}. Atomic."""
    parts, top = [f'<text class="head" x="{MARGIN}" y="18">{escape(title)}</text>'], 32
    for heading, samples in panels.items():
        more, top = panel(heading, samples, top)
        parts += more
    write_text(path, "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}">',
        f"<style>{STYLE}</style>", f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>', *parts, "</svg>"]) + "\n")
