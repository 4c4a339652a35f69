"""The sections of a report that draw what trials found: values, parameters, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_spark import charts
from optuna_spark.charts import Dot, escaped, thinned
from optuna_spark.outcomes import STATES, Objective, Outcomes, is_feasible, reason_of
from optuna_spark.page import figure, paragraph, section
from optuna_spark.scales import (
    Scale,
    category_scale,
    linear_scale,
    log_scale,
    number_text,
    shown_range,
)

# What is drawn at most, so that a page stays small and can be read.
MAX_DOTS = 1500
MAX_SLICES = 24  # parameters
MAX_SLICE_DOTS = 800
MAX_SHARES = 30  # parameters
MAX_CURVES = 80
MAX_CURVE_POINTS = 60

_ROOM = 0.04  # of an axis, at both ends
_DECADES = 100.0  # an axis is logarithmic where most values are within no such ratio
_SCATTER = 0.6180339887  # of the golden ratio, whose multiples fill a row evenly


def history(outcomes: Outcomes) -> str:
    """The value of each trial and the best so far, for each objective."""
    ended = [trial for trial in outcomes.trials if trial.state.is_finished()]
    made = [_history(outcomes, objective, ended) for objective in outcomes.objectives]
    parts = made if ended else [paragraph("No trial has ended yet.", soft=True)]
    return section("history", "History", parts)


def _history(outcomes: Outcomes, objective: Objective, ended: Sequence[FrozenTrial]) -> str:
    if not ended:
        return ""
    records = outcomes.records(objective)
    numbers = {number for number, _ in records}
    notable = [trial for trial in ended if trial.number in numbers][-MAX_DOTS:]
    others = thinned([trial for trial in ended if trial.number not in numbers], MAX_DOTS)
    dots = [_dot(trial, objective) for trial in [*notable, *others]]
    values = [value for trial in ended if (value := objective.of(trial)) is not None]
    y, note = _value_scale(values, records[-1][1] if records else None)
    first, last = ended[0].number, ended[-1].number
    room = 0.015 * max(1, last - first)
    x = linear_scale(first - room, last + room, whole=True)
    line = [*records, (float(last), records[-1][1])] if records else []
    chart = charts.history(dots, line, x, y, x_title="trial number", y_title=objective.title)
    caption = "The value of each trial that ended"
    caption += ", and the best value so far" if records else ""
    if any(dot.y is None for dot in dots):
        caption += "; a mark on the axis is a trial without a value"
    caption += f".{note}"
    if len(dots) < len(ended):
        caption += f" {len(dots):,} of {len(ended):,} trials are drawn, each new best included."
    keys = _keys(dots)
    if records:
        keys.append(("line best", "best so far"))
    return figure(chart, caption, keys=keys)


def front(outcomes: Outcomes) -> list[str]:
    """The Pareto front of two objectives."""
    if len(outcomes.objectives) != 2:
        return []
    one, two = outcomes.objectives
    complete = outcomes.of_state(TrialState.COMPLETE)
    if not complete:
        return []
    best = {trial.number for trial in outcomes.best}
    drawn = thinned([trial for trial in complete if trial.number not in best], MAX_DOTS)
    shown = thinned(outcomes.best, MAX_DOTS)
    dots = []
    for trial in [*drawn, *shown]:
        kind = "front" if trial.number in best else _kind(trial)
        told = f"trial {trial.number}: " + ", ".join(number_text(v, 6) for v in trial.values)
        dots.append(Dot(trial.values[0], trial.values[1], kind, told))
    scales = [_value_scale([trial.values[i] for trial in complete], None) for i in (0, 1)]
    chart = charts.scatter(dots, scales[0][0], scales[1][0], x_title=one.title, y_title=two.title)
    caption = "Both values of each complete trial; no trial is better in one value than one of the"
    caption += f" Pareto front without being worse in the other.{scales[0][1] or scales[1][1]}"
    if len(dots) < len(complete):
        caption += f" {len(dots):,} of {len(complete):,} trials are drawn."
    return [section("front", "Pareto front", [figure(chart, caption, keys=_keys(dots))])]


def importances(outcomes: Outcomes) -> str:
    """Which parameters made trials good, or why that cannot be said."""
    parts = []
    for objective in outcomes.objectives:
        try:
            shares = list(outcomes.importances(objective).items())
        except ValueError as error:
            parts.append(paragraph(f"Not known for {objective.name}: {error}.", soft=True))
            continue
        drawn = shares[:MAX_SHARES]
        caption = f"How much each parameter tells the best tenth of trials, by {objective.name}, "
        caption += "from the others (PED-ANOVA)."
        if len(drawn) < len(shares):
            caption += f" {len(shares) - len(drawn)} more parameters are left out."
        chart = charts.bars(drawn, f"Importance for {objective.name}")
        parts.append(figure(chart, caption, kind="narrow"))
    if len(parts) > 1:
        parts = [f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts)}</div>']
    return section("importances", "Parameter importances", parts)


def slices(outcomes: Outcomes) -> list[str]:
    """Values against each parameter, the most important first."""
    complete = outcomes.of_state(TrialState.COMPLETE)
    if not outcomes.params or not complete:
        return []
    return [_slices(outcomes, objective, complete) for objective in outcomes.objectives]


def _slices(outcomes: Outcomes, objective: Objective, complete: Sequence[FrozenTrial]) -> str:
    try:
        names = list(outcomes.importances(objective))
    except ValueError:
        names = []
    names += [name for name in outcomes.params if name not in names]
    drawn = names[: max(4, MAX_SLICES // len(outcomes.objectives))]
    best = outcomes.best[0] if len(outcomes.objectives) == 1 and outcomes.best else None
    values = [value for trial in complete if (value := objective.of(trial)) is not None]
    y, note = _value_scale(values, None if best is None else objective.of(best), count=4)
    panels, most = [], 0
    for name in drawn:
        held = [trial for trial in complete if name in trial.params]
        most = max(most, len(held))
        chart = _slice(
            name, outcomes.params[name], thinned(held, MAX_SLICE_DOTS), best, objective, y
        )
        panels.append(f'<div><h3>{escaped(name)}</h3><div class="chart">{chart}</div></div>')
    caption = f"The {objective.name} of complete trials against each parameter"
    caption += "; the ring is the best trial." if best is not None else "."
    caption += note
    if most > MAX_SLICE_DOTS:
        caption += f" {MAX_SLICE_DOTS} of {most:,} trials are drawn at most."
    if len(drawn) < len(names):
        caption += f" {len(names) - len(drawn)} more parameters are left out."
    keys = [("age0", "early trials"), ("age3", "late trials")]
    several = len(outcomes.objectives) > 1
    made = figure("".join(panels), caption, keys=keys, kind="slices")
    name = f"slices-{objective.index}" if several else "slices"
    return section(name, f"Slices of {objective.name}" if several else "Slices", [made])


def _slice(
    name: str,
    distribution: Any,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial | None,
    objective: Objective,
    y: Scale,
) -> str:
    categories = isinstance(distribution, CategoricalDistribution)

    def across(trial: FrozenTrial) -> float:
        place = float(distribution.to_internal_repr(trial.params[name]))
        # Trials of one category lie side by side.
        return place + (0.6 * (trial.number * _SCATTER % 1 - 0.5) if categories else 0.0)

    points = [
        (across(trial), value) for trial in trials if (value := objective.of(trial)) is not None
    ]
    ring = None
    if best is not None and name in best.params:
        value = objective.of(best)
        ring = None if value is None else (across(best), value)
    if categories:
        x = category_scale([value_text(choice) for choice in distribution.choices])
    elif distribution.log:
        x = log_scale(distribution.low, distribution.high, room=_ROOM)
    else:
        whole = isinstance(distribution, IntDistribution)
        x = linear_scale(distribution.low, distribution.high, room=_ROOM, whole=whole)
    return charts.slice_plot(points, ring, x, y, label=name)


def curves(outcomes: Outcomes) -> list[str]:
    """Intermediate values of trials that reported some."""
    told = [trial for trial in outcomes.trials if trial.intermediate_values]
    if not told or len(outcomes.objectives) > 1:
        return []
    number = outcomes.best[0].number if outcomes.best else None
    best = next((trial for trial in told if trial.number == number), None)
    others = thinned([trial for trial in told if trial is not best], MAX_CURVES)
    drawn = [*others, best] if best is not None else others
    lines = []
    for trial in drawn:
        points = [
            (float(step), value) for step, value in sorted(trial.intermediate_values.items())
        ]
        kind = "best" if trial is best else trial.state.name.lower()
        lines.append((thinned(points, MAX_CURVE_POINTS), kind))
    values = [value for points, _ in lines for _, value in points if not math.isnan(value)]
    y, note = _value_scale(values, None)
    steps = [step for points, _ in lines for step, _ in points]
    x = linear_scale(min(steps), max(steps), whole=True)
    title = outcomes.objectives[0].title
    chart = charts.curves(lines, x, y, x_title="step", y_title=title)
    caption = f"The intermediate values that trials reported.{note}"
    if len(drawn) < len(told):
        caption += f" {len(drawn)} of {len(told):,} trials are drawn, the best included."
    kinds = {kind for _, kind in lines}
    keys = [(f"line {kind}", word) for kind, word in STATES.items() if kind in kinds]
    keys += [("line best", "best trial")] if best is not None else []
    return [section("curves", "Learning curves", [figure(chart, caption, keys=keys)])]


def value_text(value: object) -> str:
    """A parameter's value.

    Example:
        >>> value_text(0.00123456789), value_text("adam"), value_text(None)
        ('0.00123457', 'adam', 'None')
    """
    return number_text(value, 6) if isinstance(value, float) else str(value)


def _value_scale(
    values: Sequence[float], keep: float | None, *, count: int = 5
) -> tuple[Scale, str]:
    """An axis for values, and what is to be said of it."""
    finite = sorted(value for value in values if math.isfinite(value))
    note = ""
    middle = [finite[round(part * (len(finite) - 1))] for part in (0.05, 0.95)] if finite else []
    if finite and finite[0] > 0 and middle[1] > _DECADES * middle[0]:
        low, high = (math.exp(end) for end in shown_range([math.log(v) for v in finite]))
        low, high = (low, high) if keep is None else (min(low, keep), max(high, keep))
        scale = log_scale(low, high, room=_ROOM)
        note = " The axis of values is logarithmic."
    else:
        low, high = shown_range(values, keep)
        scale = linear_scale(low, high, room=_ROOM, count=count)
        # With no value to place, numbers would be made up.
        scale = scale if finite else replace(scale, ticks=())
    beyond = sum(not _between(value, low, high) for value in values)
    if beyond:
        are = "value is" if beyond == 1 else "values are"
        note += f" {beyond:,} {are} beyond the axis, and drawn at its edge."
    return scale, note


def _between(value: float, low: float, high: float) -> bool:
    room = 1e-9 * max(abs(low), abs(high))  # that powers and logarithms may be off
    return low - room <= value <= high + room


def _dot(trial: FrozenTrial, objective: Objective) -> Dot:
    value, kind = objective.of(trial), _kind(trial)
    told = f"trial {trial.number}: "
    if kind == "fail":
        told += f"failed, {reason_of(trial)[:200]}"
    else:
        told += "no value" if value is None else number_text(value, 6)
        told += {"pruned": ", pruned", "infeasible": ", breaks a constraint"}.get(kind, "")
    return Dot(trial.number, value, kind, told)


def _kind(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return "complete" if is_feasible(trial) else "infeasible"
    return trial.state.name.lower()


def _keys(dots: Sequence[Dot]) -> list[tuple[str, str]]:
    words = {
        **{kind: STATES[kind] for kind in ("complete", "pruned", "fail")},
        "infeasible": "breaks a constraint",
        "front": "Pareto front",
    }
    kinds = {dot.kind for dot in dots}
    return [(kind, word) for kind, word in words.items() if kind in kinds]
