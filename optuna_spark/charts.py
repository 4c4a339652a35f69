"""Charts as SVG text, from plain values.

A chart is as wide as what holds it: places across are percentages, places down are pixels, so that
text has the same size on a phone and on a large screen. What is drawn left of the plot (labels of
the y axis) is in the margin that the page leaves there. Colours are classes, which the page's
style sheet gives their meaning by light and by dark.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from optuna_spark.scales import Scale

LEFT = 60  # pixels for labels of the y axis
_TOP, _BOTTOM = 26, 42  # pixels above the plot for the y title, and below for the x axis
_FINE = 2000  # steps across in which paths are drawn

# What no HTML or XML may hold, a half of a surrogate pair included.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S+@")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Dot:
    """A mark of a chart."""

    x: float
    y: float | None  # None: it has no value, and is marked on the x axis
    kind: str  # complete, infeasible, pruned, fail, front
    title: str  # shown under the pointer


def escaped(text: object) -> str:
    """Text of a study as text of a page, whatever is in it, with passwords of URLs masked.

    Example:
        >>> escaped("<b> mysql://me:secret@db/x")
        '&lt;b&gt; mysql://me:***@db/x'
    """
    masked = _PASSWORD.sub(r"\1***@", str(text))
    return html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", masked))


def thinned(items: Sequence[Item], limit: int) -> list[Item]:
    """So many of the items at most, evenly spaced, the first and the last among them.

    Example:
        >>> thinned(range(10), 4)
        [0, 3, 6, 9]
    """
    if len(items) <= limit:
        return list(items)
    step = (len(items) - 1) / (limit - 1)
    return [items[round(index * step)] for index in range(limit)]


def svg(parts: Iterable[str], height: float, label: str) -> str:
    """A chart of these parts.

    Args:
        parts: Elements of SVG.
        height: Pixels.
        label: What the chart shows, for those who do not see it.
    """
    body = "\n".join(parts)
    return (
        f'<svg class="plot" width="100%" height="{height:g}" role="img" '
        f'aria-label="{escaped(label)}">\n{body}\n</svg>'
    )


def history(
    dots: Sequence[Dot],
    best: Sequence[tuple[float, float]],
    x: Scale,
    y: Scale,
    *,
    x_title: str,
    y_title: str,
) -> str:
    """Values over trials, and the best so far as a line.

    Args:
        dots: The trials to draw.
        best: Number and value of each trial that was better than all before it, and last the
            number at which the line ends.
        x: Axis of trial numbers.
        y: Axis of values.
        x_title: What the x axis is.
        y_title: What the y axis is.
    """
    height, bottom = 300, 300 - _BOTTOM
    parts = [*_axes(x, y, height, x_title, y_title), *_marks(dots, x, y, bottom)]
    if best:
        points = [best[0]]
        for before, point in itertools.pairwise(best):
            points.append((point[0], before[1]))
            points += [point] if point[1] != before[1] else []
        parts.append(stretched([(path(points, x, y, bottom), "line best")], height))
        *_, record = best[:-1] or best
        place, top = 100 * x.at(record[0]), _down(y.at(record[1]), bottom)
        parts.append(f'<circle class="ring" cx="{place:.2f}%" cy="{top:.1f}" r="5"/>')
    return svg(parts, height, f"{y_title} by {x_title}, with the best so far")


def scatter(dots: Sequence[Dot], x: Scale, y: Scale, *, x_title: str, y_title: str) -> str:
    """Two values of each trial against each other."""
    height = 360
    parts = [*_axes(x, y, height, x_title, y_title), *_marks(dots, x, y, height - _BOTTOM)]
    return svg(parts, height, f"{y_title} by {x_title}")


def slice_plot(
    points: Sequence[tuple[float, float]],
    best: tuple[float, float] | None,
    x: Scale,
    y: Scale,
    *,
    label: str,
) -> str:
    """Values against one parameter, the later trials darker.

    Args:
        points: Parameter and value of each trial, in the order of the trials.
        best: Those of the best trial.
        x: Axis of the parameter.
        y: Axis of values.
        label: The parameter's name.
    """
    height, bottom = 190, 190 - 26
    parts = _axes(x, y, height, "", "", top=8)
    quarter = max(1, math.ceil(len(points) / 4))
    layers = []
    for index in range(0, len(points), quarter):
        shown = points[index : index + quarter]
        places = ((x.at(one), _down(y.at(two), bottom, 8)) for one, two in shown)
        # A line of no length with round ends is a dot, and the shortest way to write one.
        made = "".join(f"M{_FINE * across:.0f} {down:.0f}h0" for across, down in places)
        layers.append((made, f"dots age{index // quarter}"))
    parts.append(stretched(layers, height))
    if best is not None:
        place, down = 100 * x.at(best[0]), _down(y.at(best[1]), bottom, 8)
        parts.append(f'<circle class="ring" cx="{place:.2f}%" cy="{down:.1f}" r="4.5"/>')
    return svg(parts, height, f"Value by {label}")


def curves(
    lines: Sequence[tuple[Sequence[tuple[float, float]], str]],
    x: Scale,
    y: Scale,
    *,
    x_title: str,
    y_title: str,
) -> str:
    """Intermediate values of trials, a line for each.

    Args:
        lines: Step and value of each point of a trial, and the trial's kind.
        x: Axis of steps.
        y: Axis of values.
        x_title: What the x axis is.
        y_title: What the y axis is.
    """
    height, bottom = 300, 300 - _BOTTOM
    layers = []
    for points, kind in lines:
        made = path(points, x, y, bottom)
        # A line of one point has no length, and is drawn as a dot.
        alone = made.count("M") == 1 and "L" not in made
        layers.append((f"{made}h0", f"line {kind} point") if alone else (made, f"line {kind}"))
    parts = [*_axes(x, y, height, x_title, y_title), stretched(layers, height)]
    return svg(parts, height, f"{y_title} by {x_title}, a line for each trial")


def bars(shares: Sequence[tuple[str, float]], label: str) -> str:
    """Shares of a whole, each a bar under its name.

    Args:
        shares: Name and share, from 0 to 1, in order.
        label: What they are shares of.
    """
    row = 34
    largest = max((share for _, share in shares), default=1.0) or 1.0
    parts = []
    for index, (name, share) in enumerate(shares):
        top, width = row * index, 100 * share / largest
        shown = name if len(name) <= 40 else name[:39] + "…"
        parts.append(
            f'<text class="name" x="0" y="{top + 14}">{escaped(shown)}</text>'
            f'<text class="end" x="100%" y="{top + 14}">{share:.1%}</text>'
            f'<rect class="track" x="0" y="{top + 20}" width="100%" height="5" rx="2.5"/>'
            f'<rect class="share" x="0" y="{top + 20}" width="{width:.2f}%" height="5" rx="2.5"/>'
        )
    return svg(parts, row * len(shares), label)


def path(points: Iterable[tuple[float, float]], x: Scale, y: Scale, bottom: float) -> str:
    """A line through points, as `stretched` takes it; it has a hole where a value is no number."""
    made, command = [], "M"
    for across, up in points:
        if math.isnan(up):
            command = "M"
        else:
            made.append(f"{command}{_FINE * x.at(across):.0f} {_down(y.at(up), bottom):.1f}")
            command = "L"
    return "".join(made)


def stretched(layers: Iterable[tuple[str, str]], height: float) -> str:
    """Paths that are as wide as the chart, each with its class."""
    paths = "".join(f'<path class="{kind}" d="{made}"/>' for made, kind in layers if made)
    return (
        f'<svg width="100%" height="{height:g}" viewBox="0 0 {_FINE} {height:g}" '
        f'preserveAspectRatio="none">{paths}</svg>'
    )


def x_axis(ticks: Iterable[tuple[float, str]], top: float, bottom: float, title: str) -> list[str]:
    """Lines across the plot, and labels below it.

    Args:
        ticks: Fraction of the axis, and label.
        top: Pixels at which the plot begins.
        bottom: Pixels at which it ends.
        title: What the axis is.
    """
    parts = []
    for place, label in ticks:
        at = f"{100 * place:.2f}%"
        # There is room for a label left of the plot, and hardly any on its right.
        align = "end" if place > 0.97 else "middle"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{top:g}" y2="{bottom:g}"/>')
        parts.append(f'<text class="{align}" x="{at}" y="{bottom + 16:g}">{escaped(label)}</text>')
    if title:
        middle = f'<text class="middle title" x="50%" y="{bottom + 36:g}">'
        parts.append(f"{middle}{escaped(title)}</text>")
    return parts


def _axes(
    x: Scale, y: Scale, height: float, x_title: str, y_title: str, *, top: float = _TOP
) -> list[str]:
    bottom = height - (_BOTTOM if x_title else 26)
    parts = x_axis(x.ticks, top, bottom, x_title)
    for place, label in y.ticks:
        down = _down(place, bottom, top)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{down:.1f}" y2="{down:.1f}"/>')
        parts.append(f'<text class="end" x="-8" y="{down + 4:.1f}">{escaped(label)}</text>')
    parts.append(f'<line class="axis" x1="0" x2="100%" y1="{bottom:g}" y2="{bottom:g}"/>')
    if y_title:
        parts.append(f'<text class="title" x="{-LEFT}" y="12">{escaped(y_title)}</text>')
    return parts


def _marks(dots: Sequence[Dot], x: Scale, y: Scale, bottom: float) -> list[str]:
    """The dots, those of the kinds that matter most on top."""
    order = ["fail", "infeasible", "pruned", "complete", "front"]
    parts = []
    for dot in sorted(dots, key=lambda dot: order.index(dot.kind)):
        across, title = f"{100 * x.at(dot.x):.2f}%", f"<title>{escaped(dot.title)}</title>"
        if dot.y is None:
            parts.append(
                f'<line class="{dot.kind}" x1="{across}" x2="{across}" y1="{bottom - 7:g}" '
                f'y2="{bottom:g}">{title}</line>'
            )
        else:
            down = _down(y.at(dot.y), bottom)
            parts.append(
                f'<circle class="{dot.kind}" cx="{across}" cy="{down:.1f}" r="3">{title}</circle>'
            )
    return parts


def _down(place: float, bottom: float, top: float = _TOP) -> float:
    return bottom - place * (bottom - top)
