"""Draws the first number of each measure: `python -m benchmarks.plot RESULTS.json PLOT.svg`.

Runs in an environment of its own, which has matplotlib.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import matplotlib
from matplotlib import pyplot

from benchmarks.contenders import CONTENDERS
from benchmarks.measures import MEASURES
from benchmarks.report import first_number
from benchmarks.results import Results

_COLUMNS = 3
_COLORS = ("#1b6ca8", "#8a8a8a", "#c9733b", "#6b9e5a", "#a0648f", "#b5a13c")


def draw(results: Results, path: Path) -> None:
    """Draw a panel for each measure and a bar for each contender."""
    matplotlib.rcParams.update({"font.size": 8, "svg.hashsalt": "benchmarks"})
    measured = results.measures
    names = [name for name in MEASURES if name in measured and len(measured[name].rows) > 1]
    lines = -(-len(names) // _COLUMNS)
    figure, grid = pyplot.subplots(
        lines, _COLUMNS, figsize=(12, 2.3 * lines), squeeze=False, layout="constrained"
    )
    for panel in grid.flat[len(names) :]:
        panel.set_axis_off()
    for panel, name in zip(grid.flat, names, strict=False):
        rows = results.measures[name].rows
        drawn = [each for each in reversed(CONTENDERS) if each in rows and rows[each].taken]
        if not drawn:
            panel.set_axis_off()
            continue
        number = first_number(rows[drawn[0]])
        values = [rows[each].median(number) or 0.0 for each in drawn]
        colors = [_COLORS[list(CONTENDERS).index(each)] for each in drawn]
        bars = panel.barh([CONTENDERS[each].title for each in drawn], values, color=colors)
        panel.bar_label(bars, fmt="%.3g", padding=2)
        panel.margins(x=0.15)
        panel.set_title(textwrap.fill(MEASURES[name].title, 44), fontsize=8)
        panel.set_xlabel(number)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw(Results.load(Path(sys.argv[1])), Path(sys.argv[2]))
