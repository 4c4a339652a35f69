"""Place values on an axis, and write numbers and durations for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_LARGEST = 1e300  # so that the difference of two values is a number still
_SMALLEST = 1e-305  # so that a part of it is more than 0 still
_BOUNDS = {"s": 60.0, "min": 3600.0, "h": 172_800.0}  # seconds up to which an axis has this unit
_UNITS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_TIME_STEPS = [
    *(factor * 10.0**power for power in range(-6, 1) for factor in (1, 2, 5)),
    *(10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0),
    *(3600.0, 7200.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0),
]


@dataclass(frozen=True)
class Scale:
    """An axis: where a value lies between its two ends, and what is written along it.

    Example:
        >>> scale = linear_scale(0, 10)
        >>> scale.at(2.5)
        0.25
        >>> [label for _, label in scale.ticks]
        ['0', '2', '4', '6', '8', '10']
    """

    position: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]  # fraction of the axis, label

    def at(self, value: float) -> float:
        """Fraction of the axis, from 0 to 1, at which a value is; beyond the ends, the end."""
        place = self.position(value)
        return 0.0 if math.isnan(place) else min(1.0, max(0.0, place))


def linear_scale(
    low: float, high: float, *, room: float = 0.0, count: int = 5, whole: bool = False
) -> Scale:
    """An axis of equal steps.

    Args:
        low: Value of its beginning.
        high: Value of its end; where that is not more, there is room around `low`.
        room: Share of the axis that is left before its beginning, and beyond its end.
        count: About so many steps between ticks.
        whole: Write whole numbers only.
    """
    low, high = (max(-_LARGEST, min(_LARGEST, value)) for value in (low, high))
    size = max(abs(low), abs(high))
    if not high - low > max(1e-12 * size, _SMALLEST):
        around = 0.1 * size if size > 1 / _LARGEST else 1.0
        low, high = low - around, low + around
    low, high = low - room * (high - low), high + room * (high - low)
    step = _round_step((high - low) / count)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [index * step for index in range(first, last + 1)]
    labels = _labels(values, step)

    def position(value: float) -> float:
        # A value of infinity has a place too, beyond the end.
        return (value - low) / (high - low)

    ticks = zip(map(position, values), labels, strict=True)
    return Scale(position, tuple((min(1.0, max(0.0, place)), label) for place, label in ticks))


def log_scale(low: float, high: float, *, room: float = 0.0) -> Scale:
    """An axis of equal ratios.

    Args:
        low: Value of its beginning, above 0.
        high: Value of its end.
        room: Share of the axis that is left before its beginning, and beyond its end.
    """
    # Far beyond these, a power of ten is no number.
    bottom, top = (max(-280.0, min(280.0, math.log10(end))) for end in (low, high))
    if not top - bottom > 1e-9:
        bottom, top = bottom - 0.3, bottom + 0.3
    bottom, top = bottom - room * (top - bottom), top + room * (top - bottom)

    def position(value: float) -> float:
        if not value > 0:
            return 0.0
        return (math.log10(value) - bottom) / (top - bottom) if value < math.inf else 1.0

    decades = range(math.ceil(bottom - 1e-9), math.floor(top + 1e-9) + 1)
    every = max(1, math.ceil(len(decades) / 6))
    values = [10.0**power for power in decades if power % every == 0]
    for factors in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        if len(values) >= 3:
            break
        around = range(math.floor(bottom), math.ceil(top) + 1)
        made = [factor * 10.0**power for power in around for factor in factors]
        values = [value for value in made if -1e-9 <= position(value) <= 1 + 1e-9]
    if len(values) < 2:
        values = [10.0**bottom, 10.0**top]
    return Scale(position, tuple((position(value), number_text(value)) for value in values))


def category_scale(labels: Sequence[str]) -> Scale:
    """An axis of names, on which a value is the index of one.

    Args:
        labels: The names; long ones are cut, and of many not each one is written.
    """
    count = max(1, len(labels))
    every = math.ceil(count / 8)
    length = max(4, 34 * every // count)
    ticks = [
        ((index + 0.5) / count, label if len(label) <= length else label[: length - 1] + "…")
        for index, label in enumerate(labels)
        if index % every == 0
    ]
    return Scale(lambda value: (value + 0.5) / count, tuple(ticks))


def duration_ticks(seconds: float, *, count: int = 6) -> tuple[list[tuple[float, str]], str]:
    """Times to write along an axis of a duration.

    Args:
        seconds: How long the axis is.
        count: About so many times.

    Returns:
        Seconds and label of each time, and the unit of the labels.

    Example:
        >>> duration_ticks(100, count=4)
        ([(0.0, '0:00'), (30.0, '0:30'), (60.0, '1:00'), (90.0, '1:30')], 'minutes:seconds')
    """
    wanted = seconds / count
    days = 86_400.0 * _round_step(max(1.0, wanted / 86_400))
    step = next((step for step in _TIME_STEPS if step >= wanted), days)
    times = [index * step for index in range(math.floor(seconds / step + 1e-9) + 1)]
    if seconds < _BOUNDS["s"]:
        return list(zip(times, _labels(times, step), strict=True)), "seconds"
    if seconds < _BOUNDS["min"]:
        return [(time, f"{time // 60:.0f}:{time % 60:02.0f}") for time in times], "minutes:seconds"
    if seconds < _BOUNDS["h"]:
        labels = [f"{time // 3600:.0f}:{time % 3600 // 60:02.0f}" for time in times]
        return list(zip(times, labels, strict=True)), "hours:minutes"
    return [(time, number_text(time / 86_400)) for time in times], "days"


def shown_range(values: Sequence[float], keep: float | None = None) -> tuple[float, float]:
    """The range of values that a chart shows: all, or without a few that would flatten the rest.

    Args:
        values: Infinite ones do not count.
        keep: A value to show in any case.

    Example:
        >>> shown_range([*range(100), 1e9])
        (0, 99)
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if not finite:
        return 0.0, 1.0
    last = len(finite) - 1
    low, high = finite[round(0.05 * last)], finite[round(0.95 * last)]
    room = 1.5 * (high - low)
    if 0 < room < math.inf:
        finite = [value for value in finite if low - room <= value <= high + room]
    if keep is not None and math.isfinite(keep):
        return min(finite[0], keep), max(finite[-1], keep)
    return finite[0], finite[-1]


def number_text(value: float, digits: int = 4) -> str:
    """A number with so many significant digits at most.

    Example:
        >>> number_text(0.00001234567), number_text(1234.5), number_text(0.25)
        ('1.235e-5', '1,234', '0.25')
    """
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if not -4 <= exponent < 7:
        return f"{_without_zeros(mantissa)}e{exponent}"
    return _without_zeros(f"{value:,.{max(0, digits - 1 - exponent)}f}")


def duration_text(seconds: float) -> str:
    """A duration in the two units that matter.

    Example:
        >>> duration_text(0.0123), duration_text(75), duration_text(7500)
        ('12 ms', '1 min 15 s', '2 h 5 min')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, part, part_name in _UNITS:
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"


def _round_step(about: float) -> float:
    """The number of 1, 2 or 5 times a power of ten that is not less."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about * 0.999)


def _labels(values: Sequence[float], step: float) -> list[str]:
    """Each value with as many digits as tell it from the next."""
    for digits in range(1, 17):
        labels = [number_text(value, digits) for value in values]
        exact = (float(label.replace(",", "")) for label in labels)
        if all(abs(value - told) < step / 100 for value, told in zip(values, exact, strict=True)):
            return labels
    return [repr(value) for value in values]


def _without_zeros(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
