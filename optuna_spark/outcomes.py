"""What a study holds, as a report tells it: plain values made from Optuna's trials."""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_spark.scales import duration_text, number_text
from optuna_spark.timeline import Bar
from optuna_spark.trial_task import ATTEMPT, FAILURE

UNKNOWN_HOST = "host not recorded"
# The states of what began, and their words.
STATES = {"complete": "complete", "pruned": "pruned", "fail": "failed", "running": "running"}
_NO_REASON = "No reason was recorded."
_NUMBER = re.compile(r"0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Objective:
    """One of the values that a study is about."""

    index: int
    name: str
    maximize: bool

    @property
    def title(self) -> str:
        """The name, and what is good."""
        return f"{self.name} ({'maximize' if self.maximize else 'minimize'})"

    def of(self, trial: FrozenTrial) -> float | None:
        """A trial's value, None where it has none."""
        values = trial.values or ()
        return float(values[self.index]) if self.index < len(values) else None

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is nearer to the aim than another."""
        return value > than if self.maximize else value < than


class Outcomes:
    """The trials of a study at one moment.

    Args:
        study: Any study of Optuna.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.study = study
        self.trials = study.get_trials(deepcopy=False)
        self._importances: dict[Objective, dict[str, float] | str] = {}
        names = study.metric_names or []
        several = len(study.directions) > 1
        self.objectives = [
            Objective(
                index,
                names[index] if names else f"value {index}" if several else "value",
                direction == StudyDirection.MAXIMIZE,
            )
            for index, direction in enumerate(study.directions)
        ]

    def of_state(self, state: TrialState) -> list[FrozenTrial]:
        """The trials of a state, by number."""
        return [trial for trial in self.trials if trial.state == state]

    @functools.cached_property
    def best(self) -> list[FrozenTrial]:
        """The best trial, or those of the Pareto front; none where none is complete."""
        if len(self.objectives) > 1:
            return sorted(self.study.best_trials, key=lambda trial: trial.values)
        try:
            return [self.study.best_trial]
        except ValueError:  # Optuna's word for none, or none that keeps its constraints
            return []

    @functools.cached_property
    def params(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """Each parameter of a complete trial, with its widest distribution."""
        found: dict[str, Any] = {}
        for trial in self.of_state(TrialState.COMPLETE):
            for name, one in trial.distributions.items():
                known = found.get(name)
                if known is None or (hasattr(one, "low") and not _within(one, known)):
                    found[name] = one if known is None else _wider(one, known)
        return found

    def records(self, objective: Objective) -> list[tuple[float, float]]:
        """Number and value of each trial that was better than all before it."""
        found: list[tuple[float, float]] = []
        for trial in self.of_state(TrialState.COMPLETE):
            value = objective.of(trial)
            if value is None or not math.isfinite(value) or not is_feasible(trial):
                continue
            if not found or objective.is_better(value, found[-1][1]):
                found.append((trial.number, value))
        return found

    def bars(self) -> list[Bar]:
        """The trials that began, in time; what runs still ends at the last that is known."""
        begun = [trial for trial in self.trials if trial.datetime_start is not None]
        moments = [
            moment.timestamp()
            for trial in begun
            for moment in (trial.datetime_start, trial.datetime_complete)
            if moment is not None
        ]
        last = max(moments, default=0.0)
        return [bar_of(trial, last) for trial in begun]

    def importances(self, objective: Objective) -> dict[str, float]:
        """Share of each parameter in what makes a trial good, the largest first.

        Raises:
            ValueError: the trials do not tell, and why.
        """
        if objective not in self._importances:
            self._importances[objective] = self._find_importances(objective)
        found = self._importances[objective]
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _find_importances(self, objective: Objective) -> dict[str, float] | str:
        finite = [
            value
            for value in map(objective.of, self.of_state(TrialState.COMPLETE))
            if value is not None and math.isfinite(value)
        ]
        if len(finite) < 2:
            return "it takes two complete trials with a finite value"
        if not self.params:
            return "the trials have no parameters"
        sign = -1.0 if objective.maximize else 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                # Optuna 4's own default needs scikit-learn, and minutes for thousands of trials.
                found = optuna.importance.get_param_importances(
                    self.study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                    target=lambda trial: sign * trial.values[objective.index],
                    normalize=False,
                )
            except (ValueError, RuntimeError, ArithmeticError) as error:
                return str(error).partition("\n")[0].rstrip(".")
        total = sum(found.values())
        if not found:
            return "no parameter is in all trials"
        if not 0 < total < math.inf:
            return "good and bad trials do not differ in their parameters"
        shares = {name: float(value / total) for name, value in found.items()}
        return dict(sorted(shares.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Failures:
    """Trials that failed for one reason."""

    reason: str
    trials: tuple[FrozenTrial, ...]

    @property
    def traceback(self) -> str | None:
        """That of the last of them that has one."""
        found = (failure_of(trial).get("traceback") for trial in reversed(self.trials))
        return next((str(text) for text in found if text), None)

    @property
    def hosts(self) -> list[str]:
        """Where they ran."""
        return sorted({str(host) for host in map(host_of, self.trials) if host})


def failures(trials: Sequence[FrozenTrial]) -> list[Failures]:
    """Trials that failed, by reason, the most frequent first.

    Reasons that differ in numbers alone are one.

    Example:
        >>> [(each.reason, len(each.trials)) for each in failures(study.trials)]  # doctest: +SKIP
        [('ValueError: no row 7', 12), ('MemoryError', 1)]
    """
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if trial.state == TrialState.FAIL:
            groups.setdefault(_NUMBER.sub("#", reason_of(trial)), []).append(trial)
    made = [Failures(reason_of(found[-1]), tuple(found)) for found in groups.values()]
    return sorted(made, key=lambda each: -len(each.trials))


def reason_of(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return str(failure_of(trial).get("reason") or _NO_REASON)


def failure_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial that failed says of it, empty where it is silent."""
    found = trial.system_attrs.get(FAILURE)
    return found if isinstance(found, dict) else {}


def attempt_of(trial: FrozenTrial) -> dict[str, Any]:
    """What ran a trial, empty where that is not known."""
    found = trial.system_attrs.get(ATTEMPT)
    return found if isinstance(found, dict) else {}


def host_of(trial: FrozenTrial) -> str | None:
    """The executor's host on which a trial ran, None where that is not known."""
    host = attempt_of(trial).get("host")
    return None if host is None else str(host)


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether a trial keeps its constraints, if it has any."""
    # `FrozenTrial.constraints` is of Optuna 5 alone.
    limits = list(trial.system_attrs.get("constraints") or ())
    attributes = trial.system_attrs.items()
    limits += [value for key, value in attributes if key.startswith("constraints:")]
    return all(limit <= 0 for limit in limits)


def bar_of(trial: FrozenTrial, horizon: float) -> Bar:
    """A trial that began, in time.

    Args:
        trial: Has a start.
        horizon: Seconds since the epoch at which a trial ends that runs still.
    """
    assert trial.datetime_start is not None
    start, complete = trial.datetime_start.timestamp(), trial.datetime_complete
    end = max(start, horizon if complete is None else complete.timestamp())
    attempt, state = attempt_of(trial), trial.state.name.lower()
    told = f"trial {trial.number}: {state}, {duration_text(end - start)}"
    if trial.values and len(trial.values) == 1:
        told += f", value {number_text(trial.values[0], 6)}"
    if attempt:
        told += f"\n{attempt.get('host')}, process {attempt.get('process')}"
        told += f", task attempt {attempt.get('task_attempt')}"
    process = attempt.get("process")
    return Bar(
        start=start,
        end=end,
        state=state if state in ("complete", "pruned", "fail") else "running",
        host=host_of(trial) or UNKNOWN_HOST,
        process=process if isinstance(process, int) else None,
        title=told,
    )


def moment_text(seconds: float) -> str:
    """A moment by this host's clock."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _within(one: Any, other: Any) -> bool:
    return bool(other.low <= one.low and one.high <= other.high)


def _wider(one: Any, other: Any) -> Any:
    low, high = min(one.low, other.low), max(one.high, other.high)
    return type(one)(low, high, log=one.log or other.log)
