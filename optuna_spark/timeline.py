"""Which process ran which trial when: the times of a study without idle ones, and their chart."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optuna_spark.charts import LEFT, escaped, stretched, svg, x_axis
from optuna_spark.scales import duration_text, duration_ticks

MAX_ROWS = 60  # beyond, processes that were never busy at once share a row
MAX_SHARED_ROWS = 200  # beyond, rows are left out
_MAX_HOVER = 1500  # trials; beyond, bars are paths, which say nothing under the pointer
_IDLE_SHARE = 0.1  # of the busy time; a longer pause is cut out
_IDLE_SECONDS = 10.0  # that no pause is cut out for
_CUT_SHARE = 0.02  # of the busy time that a cut takes on the axis
_FINE = 2000  # steps across, as of `stretched`
_BINS = 250  # of the curve that counts trials


@dataclass(frozen=True)
class Bar:
    """A trial in time."""

    start: float  # seconds since the epoch
    end: float
    state: str  # complete, pruned, fail, running
    host: str
    process: int | None  # None: not known
    title: str  # shown under the pointer


@dataclass(frozen=True)
class Row:
    """A line of the chart: a process, or several that were never busy at once."""

    host: str
    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Clock:
    """The time in which trials ran, long pauses cut out.

    Example:
        >>> clock = clock_of([(0, 10), (5, 20), (3600, 3620)])
        >>> clock.seconds, clock.pauses
        (40, (3580,))
    """

    spans: tuple[tuple[float, float], ...]  # beginning and end of each, in order

    @property
    def seconds(self) -> float:
        """How long it is."""
        return sum(end - start for start, end in self.spans)

    @property
    def pauses(self) -> tuple[float, ...]:
        """Seconds of each pause that is cut out."""
        return tuple(later[0] - span[1] for span, later in itertools.pairwise(self.spans))

    @property
    def cut(self) -> float:
        """Seconds of the axis that a cut takes."""
        return self.seconds * min(_CUT_SHARE, 0.3 / max(1, len(self.pauses)))

    @property
    def length(self) -> float:
        """Seconds of the whole axis, cuts included."""
        return (self.seconds + self.cut * len(self.pauses)) or 1.0

    def at(self, time: float) -> float:
        """Fraction of the axis at which a moment is."""
        index = max(0, bisect.bisect_right(self.spans, time, key=lambda span: span[0]) - 1)
        start, end = self.spans[index]
        before = sum(end - start for start, end in self.spans[:index])
        return (before + index * self.cut + min(max(time, start), end) - start) / self.length

    def moment(self, seconds: float) -> float:
        """The moment at which so much time had passed, pauses not counted."""
        for start, end in self.spans:
            if seconds <= end - start:
                return start + seconds
            seconds -= end - start
        return self.spans[-1][1]


def clock_of(times: Iterable[tuple[float, float]]) -> Clock:
    """The clock of trials.

    Args:
        times: Beginning and end of each trial, of one at least.
    """
    merged: list[tuple[float, float]] = []
    for start, end in sorted(times):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, max(start, end)))
    longest = max(_IDLE_SECONDS, _IDLE_SHARE * sum(end - start for start, end in merged))
    spans = merged[:1]
    for start, end in merged[1:]:
        if start - spans[-1][1] <= longest:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    return Clock(tuple(spans))


def rows_of(bars: Sequence[Bar]) -> list[Row]:
    """The lines of the chart, by host and by when each process began."""
    processes: dict[tuple[str, int | None], list[Bar]] = {}
    for bar in sorted(bars, key=lambda bar: bar.start):
        processes.setdefault((bar.host, bar.process), []).append(bar)
    rows: list[Row] = []
    shared = len(processes) > MAX_ROWS
    for host in sorted({host for host, _ in processes}):
        of_host = {process: made for (at, process), made in processes.items() if at == host}
        unknown = of_host.pop(None, [])
        groups = list(of_host.items())
        if shared:
            groups = [(None, made) for made in _side_by_side([made for _, made in groups])]
        groups += [(None, made) for made in _side_by_side([[bar] for bar in unknown])]
        for process, made in groups:
            rows.append(Row(host, "" if process is None else str(process), tuple(made)))
    return rows


def timeline(rows: Sequence[Row], clock: Clock) -> str:
    """The chart: how many trials ran at once, and below it a line for each row, by host.

    Args:
        rows: Some of `rows_of`, one at least.
        clock: Of all their bars.
    """
    every = [bar for row in rows for bar in row.bars]
    pitch = 16 if len(rows) <= 32 else 11 if len(rows) <= 64 else 7
    parts: list[str] = []
    layers: dict[str, list[str]] = {}
    top, area = 26.0, 48.0
    down = top + area + 10
    body: list[str] = []
    for host, of_host in itertools.groupby(rows, key=lambda row: row.host):
        down += 18
        body.append(f'<text class="host" x="{-LEFT}" y="{down:g}">{escaped(host)}</text>')
        down += 7
        for row in of_host:
            if row.label and pitch > 10:
                label = escaped(row.label)
                body.append(f'<text class="end" x="-8" y="{down + pitch - 5}">{label}</text>')
            if len(every) <= _MAX_HOVER:
                body += [_bar(bar, clock, down, pitch - 3) for bar in row.bars]
            else:
                for kind, made in _paths(row.bars, clock, down + pitch / 2).items():
                    layers.setdefault(kind, []).append(made)
            down += pitch
        down += 3
    bottom = down + 3
    times, unit = duration_ticks(clock.seconds)
    ticks = [(clock.at(clock.moment(seconds)), label) for seconds, label in times]
    parts += x_axis(ticks, top, bottom, f"time since the first trial began, {unit}")
    for before, pause in zip(clock.spans, clock.pauses, strict=False):
        at = f"{100 * (clock.at(before[1]) + clock.cut / clock.length / 2):.2f}%"
        parts.append(
            f'<line class="cut" x1="{at}" x2="{at}" y1="{top:g}" y2="{bottom:g}">'
            f"<title>nothing ran for {duration_text(pause)}</title></line>"
        )
    parts += _trials_at_once(every, clock, top, area)
    parts += body
    height = bottom + 42
    if layers:
        above = sorted(layers, key=["complete", "running", "pruned", "fail"].index)
        drawn = [("".join(layers[kind]), f"bar {kind}") for kind in above]
        group = f'<g style="stroke-width:{pitch - 2}px">{stretched(drawn, height)}</g>'
        parts.append(group)
    parts.append(f'<line class="axis" x1="0" x2="100%" y1="{bottom:g}" y2="{bottom:g}"/>')
    return svg(parts, height, "Trials by process and time")


def trials_at_once(bars: Sequence[Bar], clock: Clock) -> list[float]:
    """How many trials ran at once, on the average of each of the equal parts of the axis."""
    counts = [0.0] * _BINS
    for bar in bars:
        start, end = _BINS * clock.at(bar.start), _BINS * clock.at(bar.end)
        for index in range(int(start), min(_BINS, int(end) + 1)):
            counts[index] += max(0.0, min(end, index + 1) - max(start, index))
    return counts


def _trials_at_once(bars: Sequence[Bar], clock: Clock, top: float, area: float) -> list[str]:
    counts = trials_at_once(bars, clock)
    most = max(1.0, max(counts))
    bottom = top + area
    made = [f"M0 {bottom:g}"]
    for index, count in enumerate(counts):
        down = bottom - area * count / most
        made.append(f"L{index * _FINE // _BINS} {down:.1f}H{(index + 1) * _FINE // _BINS}")
    made.append(f"V{bottom:g}Z")
    return [
        f'<text class="title" x="{-LEFT}" y="12">trials at once</text>',
        f'<text class="end" x="-8" y="{top + 8:g}">{most:.0f}</text>',
        f'<text class="end" x="-8" y="{bottom:g}">0</text>',
        stretched([("".join(made), "area")], bottom),
        f'<line class="axis" x1="0" x2="100%" y1="{bottom:g}" y2="{bottom:g}"/>',
    ]


def _side_by_side(groups: Iterable[list[Bar]]) -> list[list[Bar]]:
    """Put groups of bars in as few rows as will do with no two at once in a row."""
    rows: list[list[Bar]] = []
    free: list[float] = []  # when each row is
    for group in groups:
        start, end = group[0].start, max(bar.end for bar in group)
        # The row that was free last: a process that replaces another comes behind it.
        fits = [index for index, since in enumerate(free) if since <= start]
        if fits:
            index = max(fits, key=lambda index: free[index])
            rows[index] += group
            free[index] = end
        else:
            rows.append(list(group))
            free.append(end)
    return rows


def _bar(bar: Bar, clock: Clock, top: float, height: float) -> str:
    start, end = clock.at(bar.start), clock.at(bar.end)
    return (
        f'<rect class="bar {bar.state}" x="{100 * start:.2f}%" y="{top:g}" '
        f'width="{max(0.15, 100 * (end - start)):.2f}%" height="{height}">'
        f"<title>{escaped(bar.title)}</title></rect>"
    )


def _paths(bars: Sequence[Bar], clock: Clock, middle: float) -> dict[str, str]:
    """Bars as lines, neighbours of one state joined where the gap cannot be seen."""
    found: dict[str, list[list[float]]] = {}
    for bar in bars:
        start, end = (_FINE * clock.at(time) for time in (bar.start, bar.end))
        lines = found.setdefault(bar.state, [])
        if lines and start - lines[-1][1] < 1:
            lines[-1][1] = max(lines[-1][1], end)
        else:
            # A rare kind must be seen, be it as short as may be.
            lines.append([start, max(end, start + (1 if bar.state == "complete" else 2))])
    return {
        state: "".join(f"M{start:.0f} {middle:g}H{end:.0f}" for start, end in lines)
        for state, lines in found.items()
    }
