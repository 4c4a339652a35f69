"""Axes, charts and the timeline: what is drawn where, parsed from the SVG itself."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence

import pytest

from optuna_spark import charts, timeline
from optuna_spark.charts import Dot, escaped, thinned
from optuna_spark.scales import (
    Scale,
    category_scale,
    duration_text,
    duration_ticks,
    linear_scale,
    log_scale,
    number_text,
    shown_range,
)
from optuna_spark.timeline import Bar, clock_of, rows_of, trials_at_once

INF, NAN = math.inf, math.nan


def labels(scale: Scale) -> list[str]:
    return [label for _, label in scale.ticks]


# Numbers and durations


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (-0.25, "-0.25"),
        (9.99999, "10"),
        (1234.56, "1,235"),
        (1_234_567.0, "1,234,567"),
        (12_345_678.0, "1.235e7"),
        (0.00012346, "0.0001235"),
        (0.00001, "1e-5"),
        (INF, "∞"),
        (-INF, "-∞"),
        (NAN, "nan"),
    ],
)
def test_a_number(value: float, expected: str) -> None:
    assert number_text(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (3599, "59 min 59 s"),
        (3661, "1 h 1 min"),
        (86_400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_a_duration(seconds: float, expected: str) -> None:
    assert duration_text(seconds) == expected


# Axes


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, ["0", "2", "4", "6", "8", "10"]),
        (-0.3, 0.31, ["-0.2", "0", "0.2"]),
        (1000, 5200, ["1,000", "2,000", "3,000", "4,000", "5,000"]),
        (0.0001, 0.0005, ["0.0001", "0.0002", "0.0003", "0.0004", "0.0005"]),
        (1e9 + 0.1, 1e9 + 0.5, None),
        (3, 3, None),
        (0, 0, None),
        (-1.7e308, 1.7e308, None),
        (5e-324, 1e-323, None),
    ],
)
def test_ticks_of_a_linear_axis(low: float, high: float, expected: list[str] | None) -> None:
    scale = linear_scale(low, high)
    assert 2 <= len(set(labels(scale))) == len(scale.ticks) <= 12
    places = [place for place, _ in scale.ticks]
    assert places == sorted(places)
    assert 0 <= places[0] < places[-1] <= 1
    if expected is not None:
        assert labels(scale) == expected


def test_whole_numbers_are_written_whole() -> None:
    assert labels(linear_scale(1, 3, whole=True)) == ["1", "2", "3"]
    assert "." not in "".join(labels(linear_scale(0.5, 2.5, whole=True)))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-5, 1e-1, ["1e-5", "0.0001", "0.001", "0.01", "0.1"]),
        (1, 100, ["1", "10", "100"]),
        (2, 40, ["3", "10", "30"]),
        (2, 7, ["2", "3", "5", "7"]),
        (4.1, 4.2, None),
        (1e-300, 1e300, None),
        (8, 8, None),
        (1e-306, 1e-305, None),
    ],
)
def test_ticks_of_a_log_axis(low: float, high: float, expected: list[str] | None) -> None:
    scale = log_scale(low, high)
    assert 2 <= len(scale.ticks) <= 8
    assert all(-1e-9 <= place <= 1 + 1e-9 for place, _ in scale.ticks)
    if expected is not None:
        assert labels(scale) == expected


@pytest.mark.parametrize("make", [linear_scale, log_scale])
def test_room_at_the_ends_of_an_axis(make: Callable[..., Scale]) -> None:
    scale = make(1, 100, room=0.25)
    assert scale.at(1) == pytest.approx(1 / 6)
    assert scale.at(100) == pytest.approx(5 / 6)


def test_values_beyond_an_axis_are_at_its_end() -> None:
    for scale in (linear_scale(1, 10), log_scale(1, 10)):
        assert [scale.at(value) for value in (-INF, 0, 1, 10, 99, INF)] == [0, 0, 0, 1, 1, 1]
        assert scale.at(NAN) == 0
    assert log_scale(1, 100).at(10) == pytest.approx(0.5)


def test_an_axis_of_names_cuts_long_ones_and_leaves_some_out() -> None:
    assert labels(category_scale(["a", "b"])) == ["a", "b"]
    assert category_scale(["a", "b"]).at(1) == 0.75
    [long, _] = labels(category_scale(["x" * 50, "y"]))
    assert len(long) < 20
    assert long.endswith("…")
    assert len(category_scale([str(index) for index in range(500)]).ticks) <= 8
    assert category_scale([]).ticks == ()


@pytest.mark.parametrize(
    ("seconds", "unit", "some"),
    [
        (0, "seconds", "0"),
        (0.004, "seconds", "0.002"),
        (42, "seconds", "20"),
        (100, "minutes:seconds", "1:30"),
        (7200, "hours:minutes", "0:30"),
        (86_400 * 30, "days", "10"),
        (86_400 * 3000, "days", "1,000"),
    ],
)
def test_times_along_an_axis(seconds: float, unit: str, some: str) -> None:
    ticks, told = duration_ticks(seconds)
    assert told == unit
    assert some in [label for _, label in ticks]
    assert len(ticks) <= 8
    assert all(0 <= time <= seconds for time, _ in ticks)


@pytest.mark.parametrize(
    ("values", "keep", "expected"),
    [
        ([], None, (0, 1)),
        ([INF, NAN], None, (0, 1)),
        ([3.0], None, (3, 3)),
        ([1.0, 5.0, INF], None, (1, 5)),
        ([1.0, 1e9], None, (1, 1e9)),  # of so few, none is an outlier
        ([*range(100), 1e9], None, (0, 99)),
        ([*range(100), 1e9], 1e9, (0, 1e9)),
        ([*[1.0] * 99, 1e9], None, (1, 1e9)),
        ([*range(100)], INF, (0, 99)),
    ],
)
def test_the_range_that_is_shown(
    values: list[float], keep: float | None, expected: tuple[float, float]
) -> None:
    assert shown_range(values, keep) == expected


# Text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>&\"'", "&lt;script&gt;&amp;&quot;&#x27;"),
        ("a\x00\x1b[31m\ud800", "a��[31m�"),
        ("tab\tline\n", "tab\tline\n"),
        ("mysql://u:s3cr3t@db/x", "mysql://u:***@db/x"),
        ("mysql://u:s3@/:cr3t@db/x", "mysql://u:***@db/x"),
        ("'mysql+pymysql://u:s3cr3t@db/x'", "&#x27;mysql+pymysql://u:***@db/x&#x27;"),
        ("http://host:80/x", "http://host:80/x"),
    ],
)
def test_text_is_fit_for_a_page(text: str, expected: str) -> None:
    assert escaped(text) == expected
    ET.fromstring(f"<p>{escaped(text)}</p>")


def test_what_is_thinned_keeps_its_ends() -> None:
    assert thinned([1, 2, 3], 3) == [1, 2, 3]
    for limit in (2, 7, 999):
        found = thinned(range(1000), limit)
        assert len(set(found)) == len(found) == limit
        assert (found[0], found[-1]) == (0, 999)


# Charts


def parts(svg: str, tag: str, kind: str) -> list[ET.Element]:
    """The elements of a chart, of a tag and a class."""
    return [
        element
        for element in ET.fromstring(svg).iter(tag)
        if kind in element.get("class", "").split()
    ]


def percent(element: ET.Element, name: str) -> float:
    text = element.get(name, "")
    assert text.endswith("%")
    return float(text[:-1])


def a_history(dots: Sequence[Dot], best: Sequence[tuple[float, float]]) -> str:
    x, y = linear_scale(0, 10), linear_scale(0, 1)
    return charts.history(dots, best, x, y, x_title="trial <number>", y_title="loss & more")


def test_history() -> None:
    svg = a_history(
        [
            Dot(0, 1.0, "complete", "trial 0"),
            Dot(5, 0.0, "complete", "<b>"),
            Dot(7, INF, "pruned", "trial 7"),
            Dot(10, None, "fail", "trial 10"),
        ],
        [(0, 1.0), (5, 0.0), (10, 0.0)],
    )
    first, second = parts(svg, "circle", "complete")
    assert [percent(dot, "cx") for dot in (first, second)] == [0, 50]
    assert float(first.get("cy", "")) < float(second.get("cy", "")), "up is more"
    assert [dot.findtext("title") for dot in (first, second)] == ["trial 0", "<b>"]
    [edge] = parts(svg, "circle", "pruned")
    assert edge.get("cy") == first.get("cy"), "what is beyond the axis is at its edge"
    [failed] = parts(svg, "line", "fail")
    assert percent(failed, "x1") == 100
    [line] = parts(svg, "path", "best")
    assert line.get("d", "").count("L") == 3, "a step, not a slope"
    [ring] = parts(svg, "circle", "ring")
    assert percent(ring, "cx") == 50
    texts = [element.text for element in parts(svg, "text", "title")]
    assert texts == ["trial <number>", "loss & more"]


def test_history_without_anything() -> None:
    svg = a_history([], [])
    assert not parts(svg, "circle", "complete")
    assert parts(svg, "line", "grid")


def test_one_best_trial_has_a_ring_of_its_own() -> None:
    [ring] = parts(a_history([], [(3, 0.5), (3, 0.5)]), "circle", "ring")
    assert percent(ring, "cx") == 30


def test_a_front_is_drawn_above_the_others() -> None:
    dots = [Dot(1, 1, "front", "a"), Dot(1, 1, "complete", "b"), Dot(1, 1, "infeasible", "c")]
    scale = linear_scale(0, 2)
    svg = charts.scatter(dots, scale, scale, x_title="x", y_title="y")
    kinds = [element.get("class") for element in ET.fromstring(svg).iter("circle")]
    assert kinds == ["infeasible", "complete", "front"]


def test_slices_darken_with_age() -> None:
    points = [(float(index), float(index)) for index in range(10)]
    svg = charts.slice_plot(
        points, (9.0, 9.0), linear_scale(0, 9), linear_scale(0, 9), label="<x>"
    )
    drawn = parts(svg, "path", "dots")
    assert [path.get("d", "").count("M") for path in drawn] == [3, 3, 3, 1]
    assert [path.get("class") for path in drawn] == [f"dots age{age}" for age in range(4)]
    assert percent(parts(svg, "circle", "ring")[0], "cx") == 100
    assert ET.fromstring(svg).get("aria-label") == "Value by <x>"


def test_a_curve_has_a_hole_where_a_value_is_no_number() -> None:
    lines = [([(0, 0.0), (1, NAN), (2, 1.0), (3, INF)], "pruned"), ([], "complete")]
    scale = linear_scale(0, 3)
    svg = charts.curves(lines, scale, scale, x_title="step", y_title="loss")
    [line] = parts(svg, "path", "line")
    assert line.get("class") == "line pruned"
    assert (line.get("d", "").count("M"), line.get("d", "").count("L")) == (2, 1)


def test_a_curve_of_one_point_is_a_dot() -> None:
    scale = linear_scale(0, 3)
    lines = [([(0, 1.0)], "pruned"), ([(0, 1.0), (1, NAN)], "pruned"), ([(0, NAN)], "fail")]
    svg = charts.curves(lines, scale, scale, x_title="step", y_title="loss")
    drawn = parts(svg, "path", "point")
    assert [path.get("class") for path in drawn] == ["line pruned point"] * 2
    assert all(path.get("d", "").endswith("h0") for path in drawn)


def test_bars() -> None:
    svg = charts.bars([("a" * 60, 0.75), ("<b>", 0.25), ("c", 0.0)], "Importance")
    widths = [percent(bar, "width") for bar in parts(svg, "rect", "share")]
    assert widths == [100, 33.33, 0]
    names = [element.text or "" for element in parts(svg, "text", "name")]
    assert names[1:] == ["<b>", "c"]
    assert len(names[0]) == 40
    assert [element.text for element in parts(svg, "text", "end")] == ["75.0%", "25.0%", "0.0%"]
    ET.fromstring(charts.bars([], "nothing"))


# The timeline


def bar(
    start: float, end: float, host: str = "a", process: int | None = 1, state: str = "complete"
) -> Bar:
    return Bar(start, end, state, host, process, f"{start} to {end}")


def test_a_clock_leaves_long_pauses_out() -> None:
    clock = clock_of([(0, 100), (90, 200), (205, 210), (5000, 5100)])
    assert clock.spans == ((0, 210), (5000, 5100))
    assert (clock.seconds, clock.pauses) == (310, (4790,))
    places = [clock.at(time) for time in (-5, 0, 105, 210, 3000, 5000, 5100, 9999)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (0, pytest.approx(1))
    assert places[4] == places[3] < places[5], "a cut is as wide as the eye needs"
    assert [clock.moment(seconds) for seconds in (0, 200, 211, 310)] == [0, 200, 5001, 5100]


def test_short_pauses_are_time_too() -> None:
    assert clock_of([(0, 1), (9, 10)]).pauses == ()


def test_a_clock_of_no_time() -> None:
    clock = clock_of([(7, 7)])
    assert (clock.seconds, clock.at(7)) == (0, 0)


def test_many_pauses_leave_room_for_trials() -> None:
    clock = clock_of([(start, start + 1) for start in range(0, 100_000, 1000)])
    assert len(clock.pauses) == 99
    assert clock.cut * 99 < 0.31 * clock.seconds


def test_trials_at_once() -> None:
    bars = [bar(0, 50), bar(0, 100, process=2), bar(50, 100, process=3)]
    counts = trials_at_once(bars, clock_of([(0, 100)]))
    assert counts == pytest.approx([2.0] * len(counts))
    half = trials_at_once([bar(0, 50)], clock_of([(0, 100)]))
    assert sum(half) / len(half) == pytest.approx(0.5)


def test_a_row_for_each_process_by_host() -> None:
    bars = [bar(5, 6, "b"), bar(0, 1, "b", 9), bar(0, 2, "a", 3), bar(2, 3, "a", 3)]
    rows = rows_of(bars)
    assert [(row.host, row.label) for row in rows] == [("a", "3"), ("b", "9"), ("b", "1")]
    assert [len(row.bars) for row in rows] == [2, 1, 1]


def test_many_processes_share_rows_where_none_overlap() -> None:
    count = timeline.MAX_ROWS + 10
    bars = [bar(time, time + 1, "a", process=time) for time in range(count)]
    bars.append(bar(0, count, "a", process=-1))
    rows = rows_of(bars)
    assert sorted(len(row.bars) for row in rows) == [1, count]
    for row in rows:
        for before, after in zip(row.bars, row.bars[1:], strict=False):
            assert before.end <= after.start


def test_trials_of_no_known_process_share_rows() -> None:
    rows = rows_of([bar(0, 2, process=None), bar(1, 3, process=None), bar(2, 4, process=None)])
    assert [len(row.bars) for row in rows] == [2, 1]


def test_the_timeline() -> None:
    bars = [bar(0, 50, "a&b", 11), bar(50, 100, "a&b", 12, "fail"), bar(5000, 5100, "c", 13)]
    clock = clock_of((one.start, one.end) for one in bars)
    svg = timeline.timeline(rows_of(bars), clock)
    assert [element.text for element in parts(svg, "text", "host")] == ["a&b", "c"]
    drawn = parts(svg, "rect", "bar")
    assert [element.get("class") for element in drawn] == [
        "bar complete",
        "bar fail",
        "bar complete",
    ]
    assert percent(drawn[0], "x") == 0
    assert percent(drawn[1], "x") == pytest.approx(percent(drawn[0], "width"), abs=0.02)
    assert drawn[1].findtext("title") == "50 to 100"
    tops = [float(element.get("y", "")) for element in drawn]
    assert tops == sorted(set(tops))
    [cut] = parts(svg, "line", "cut")
    assert cut.findtext("title") == "nothing ran for 1 h 21 min"


def test_a_bar_of_no_time_can_be_seen() -> None:
    svg = timeline.timeline(rows_of([bar(0, 100), bar(50, 50)]), clock_of([(0, 100)]))
    assert all(percent(element, "width") > 0 for element in parts(svg, "rect", "bar"))


def test_a_timeline_of_many_trials_is_paths() -> None:
    bars = [
        bar(
            10 * index,
            10 * index + 5,
            process=index % 4,
            state="fail" if index % 2 else "complete",
        )
        for index in range(5000)
    ]
    svg = timeline.timeline(rows_of(bars), clock_of([(0, 50_000)]))
    assert not parts(svg, "rect", "bar")
    drawn = {path.get("class"): path.get("d", "") for path in parts(svg, "path", "bar")}
    assert set(drawn) == {"bar complete", "bar fail"}
    assert len(svg) < 100_000
