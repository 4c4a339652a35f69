"""Whatever code for Optuna does, it does on Spark: each behaviour is run on both and compared.

`CASES` holds what must be the same, `DIFFERENCES` what differs on purpose, with the reason.
"""

from __future__ import annotations

import copy
import functools
import gc
import importlib.util
import inspect
import logging
import math
import os
import pickle
import re
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import ExperimentalWarning, TrialPruned
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from pyspark.sql import SparkSession

import optuna_spark
from optuna_spark.trial_task import FAILURE

pytestmark = pytest.mark.filterwarnings("error")

Study = optuna.Study
S, P = optuna.samplers, optuna.pruners
OURS = "optuna_spark:"  # attributes that only a study on Spark has


class MyError(Exception):
    """Of the user's own module."""


class TwoArguments(Exception):
    """Calls its base with another number of arguments, so that pickle cannot make it again."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class HoldsLock(ValueError):
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


# Objectives


def suggest_all(trial: Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    y = trial.suggest_float("y", 1e-3, 1, log=True)
    z = trial.suggest_float("z", 0, 1, step=0.25)
    n = trial.suggest_int("n", 1, 9)
    kind = trial.suggest_categorical("kind", ["a", "b", None, True])
    return x * x + y + z + n + len(str(kind))


def suggest_x(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def returning(value: Any) -> Callable[[Trial], Any]:
    def objective(trial: Trial) -> Any:
        trial.suggest_float("x", 0, 1)
        return value

    return objective


def raising(
    kind: type[BaseException], *arguments: Any, number: int = 1
) -> Callable[[Trial], float]:
    """An objective of which one trial raises."""

    def objective(trial: Trial) -> float:
        if trial.number == number:
            raise kind(*arguments)
        return trial.suggest_float("x", 0, 1)

    return objective


def raise_from(trial: Trial) -> float:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise MyError("outer") from error


def report_and_prune(trial: Trial) -> float:
    for step in range(5):
        trial.report(float(trial.number * 10 + step), step)
        if trial.should_prune():
            raise TrialPruned
    return float(trial.number)


def report_then_prune(value: float) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        trial.report(1.0, 0)
        trial.report(value, 1)
        raise TrialPruned(f"pruned at {value}")

    return objective


def report(value: Any, step: Any) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        trial.report(value, step)
        return 1.0

    return objective


def report_twice(trial: Trial) -> float:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trial.report(1.0, 0)
        trial.report(2.0, 0)
    trial.set_user_attr("warned", [str(each.message) for each in caught])
    return 0.0


def two_values(trial: Trial) -> tuple[float, float]:
    x = trial.suggest_float("x", 0, 1)
    return x, 1 - x


def two_values_or_prune(trial: Trial) -> tuple[float, float]:
    if trial.number == 1:
        raise TrialPruned
    return two_values(trial)


def set_attributes(trial: Trial) -> float:
    trial.set_user_attr("text", "\N{GREEK SMALL LETTER ALPHA} % {} '\"")
    trial.set_user_attr("nested", {"list": [1, 2.5, None, True]})
    trial.set_user_attr("long", "x" * 5000)
    trial.set_user_attr("read back", sorted(trial.user_attrs))
    return suggest_x(trial)


def look_around(trial: Trial) -> float:
    study = trial.study
    x = suggest_x(trial)
    trial.set_user_attr(
        "seen",
        {
            "number": trial.number,
            "params": trial.params == {"x": x},
            "distributions": str(trial.distributions),
            "started": trial.datetime_start is not None,
            "study": study.study_name,
            "directions": [direction.name for direction in study.directions],
            "user_attrs": study.user_attrs,
            "sampler": type(study.sampler).__name__,
            "pruner": type(study.pruner).__name__,
            "states": [each.state.name for each in study.get_trials(deepcopy=False)],
            "best": study.best_value if trial.number else None,
        },
    )
    study.set_user_attr(f"from trial {trial.number}", x)
    return x


def set_constraint(trial: Trial) -> float:
    x = suggest_x(trial)
    trial.set_constraint("half", x - 0.5)
    trial.set_constraint("third", x - 0.3)
    return x


def conflicting_distributions(trial: Trial) -> float:
    trial.suggest_float("x", 0, 1)
    return trial.suggest_int("x", 0, 1) + 0.0


def enqueue_one(trial: Trial) -> float:
    if trial.number == 0:
        trial.study.enqueue_trial({"x": 0.125}, user_attrs={"from": "objective"})
    return suggest_x(trial)


def warn_of_fixed(trial: Trial) -> float:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = suggest_x(trial)
    trial.set_user_attr("warned", [str(each.message) for each in caught])
    return x


def stop_at_two(trial: Trial) -> float:
    if trial.number == 2:
        trial.study.stop()
    return suggest_x(trial)


def nest(trial: Trial) -> float:
    trial.study.optimize(suggest_x, n_trials=1)
    return 0.0


def optimize_inside(study: Study) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        study.optimize(suggest_x, n_trials=1)
        return 0.0

    return objective


def stop_captured(study: Study) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        if trial.number == 1:
            study.stop()
        return suggest_x(trial)

    return objective


def read_captured(study: Study) -> Callable[[Trial], float]:
    def objective(trial: Trial) -> float:
        trial.set_user_attr("trials", len(study.trials))
        study.enqueue_trial({"x": 0.5}, skip_if_exists=True)
        return suggest_x(trial)

    return objective


class Scaled:
    """An objective that is an object, or one's method."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, trial: Trial) -> float:
        return suggest_x(trial) * self.scale

    def method(self, trial: Trial) -> float:
        return -self(trial)


def scaled(trial: Trial, *, scale: float) -> float:
    return suggest_x(trial) * scale


def sleep_long(trial: Trial) -> float:
    time.sleep(8)
    return 0.0


# Samplers that raise, stop, or count


class RaisesBefore(S.RandomSampler):
    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if trial.number == 1:
            raise MyError("before the trial")


class RaisesAfter(S.RandomSampler):
    def after_trial(self, study: Study, *arguments: Any) -> None:
        raise MyError("after the trial")


class StopsAfterTwo(S.RandomSampler):
    def after_trial(self, study: Study, trial: FrozenTrial, *arguments: Any) -> None:
        if trial.number == 1:
            study.stop()


class Counts(S.RandomSampler):
    """Of a module that executors do not have, with a state of its own."""

    suggested = 0

    def sample_independent(self, *arguments: Any) -> float:
        self.suggested += 1
        return self.suggested / 10


# Callbacks


def enqueue_after(study: Study, trial: FrozenTrial) -> None:
    if trial.number == 0:
        study.enqueue_trial({"x": 0.25}, user_attrs={"from": "callback"})


def stop_after_one(study: Study, trial: FrozenTrial) -> None:
    if trial.number == 1:
        study.stop()


def optimize_after(study: Study, trial: FrozenTrial) -> None:
    study.optimize(suggest_x, n_trials=1)


def raise_after(study: Study, trial: FrozenTrial) -> None:
    if trial.number == 1:
        raise MyError(f"callback of trial {trial.number}")


def note_best(study: Study, trial: FrozenTrial) -> None:
    study.set_user_attr(f"best after {trial.number}", study.best_value)


def optimize_before(study: Study) -> None:
    study.optimize(suggest_x, n_trials=2, n_jobs=1)


# What a study looks like when the call has ended


@dataclass
class Case:
    """One behaviour: what is run, and what Optuna makes of it."""

    objective: Callable[[Trial], Any] = suggest_x
    states: str = "CC"  # initials of the trials' states, in order
    raises: type[BaseException] | None = None
    n_trials: int | None = 2
    directions: Iterable[str] = ("minimize",)
    sampler: Callable[[], S.BaseSampler] = lambda: S.RandomSampler(seed=1)
    pruner: Callable[[], P.BasePruner] = P.NopPruner
    catch: Callable[[], Any] = tuple
    callbacks: tuple[Callable[[Study, FrozenTrial], None], ...] | None = None
    prepare: Callable[[Study], Any] = bool
    capture: Callable[[Study], Callable[[Trial], Any]] | None = None  # makes the objective
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Seen:
    """What a call of `optimize` left in the database and told its caller."""

    raised: tuple[type[BaseException], str] | None
    trials: list[dict[str, Any]]
    reasons: list[str]
    user_attrs: dict[str, Any]
    system_attrs: dict[str, Any]

    @property
    def states(self) -> str:
        return "".join(trial["state"][0] for trial in self.trials)


def see(study: Study, url: str, call: Callable[[], None]) -> Seen:
    raised = None
    with bare_reasons() as reasons:
        try:
            call()
        except BaseException as error:
            raised = (type(error), str(error))
    stored = optuna.load_study(study_name=study.study_name, storage=url)
    trials = stored.trials
    for trial in trials:
        started = trial.datetime_start is not None or trial.state == TrialState.WAITING
        ended = trial.datetime_complete is not None or not trial.state.is_finished()
        assert started, trial
        assert ended, trial
        if FAILURE in trial.system_attrs:
            reasons.append(trial.system_attrs[FAILURE]["reason"])
    return Seen(
        raised,
        [what_matters(trial) for trial in trials],
        reasons,
        stored.user_attrs,
        theirs(stored._storage.get_study_system_attrs(stored._study_id)),
    )


def what_matters(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": trial.distributions,
        "intermediate": {step: repr(v) for step, v in trial.intermediate_values.items()},
        "user_attrs": trial.user_attrs,
        "system_attrs": theirs(trial.system_attrs),
    }


def theirs(attributes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attributes.items() if not key.startswith(OURS)}


@contextmanager
def bare_reasons() -> Any:
    """Why trials failed: Optuna only logs it."""
    reasons: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found = re.search(r"following error: (.*)\.$", record.getMessage(), re.DOTALL)
            if record.exc_info and record.exc_info[1] is not None:
                error = record.exc_info[1]
                reasons.append("".join(traceback.format_exception_only(error)).strip())
            elif found:
                reasons.append(found[1])

    logger, handler = logging.getLogger("optuna"), Handler()
    logger.addHandler(handler)
    try:
        yield reasons
    finally:
        logger.removeHandler(handler)


@dataclass
class Both:
    """Makes a study twice: on bare Optuna and on Spark, each in a database of its own."""

    folder: Path
    spark: SparkSession

    def __post_init__(self) -> None:
        self.bare_url = f"sqlite:///{self.folder / 'bare.db'}"
        self.url = f"sqlite:///{self.folder / 'spark.db'}"

    def bare(self, name: str, **arguments: Any) -> Study:
        return optuna.create_study(storage=self.bare_url, study_name=name, **arguments)

    def ours(self, name: str, **arguments: Any) -> optuna_spark.SparkStudy:
        place = {"storage": self.url, "study_name": name, "spark": self.spark}
        return optuna_spark.create_study(**place, **arguments)

    def each(self, name: str, **arguments: Any) -> tuple[Study, Study]:
        """The two studies; neither shares a sampler or a pruner with the other."""
        return self.bare(name, **copy.deepcopy(arguments)), self.ours(name, **arguments)


@pytest.fixture(scope="module")
def both(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("parity"), spark)


def compare(case: Case, name: str, both: Both) -> tuple[Seen, Seen]:
    """What bare Optuna and what Spark makes of a case."""
    arguments = {
        "sampler": case.sampler(),
        "pruner": case.pruner(),
        "directions": list(case.directions),
    }
    bare, ours = both.each(name, **arguments)
    return run(case, bare, both.bare_url), run(case, ours, both.url)


def run(case: Case, study: Study, url: str) -> Seen:
    """Run a case, one trial after the other, so that all there is can be compared."""
    case.prepare(study)
    sampler, pruner = pickle.dumps(study.sampler), pickle.dumps(study.pruner)
    seen = see(
        study,
        url,
        lambda: study.optimize(
            case.capture(study) if case.capture else case.objective,
            n_trials=case.n_trials,
            n_jobs=1,
            catch=case.catch(),
            callbacks=case.callbacks,
            **case.options,
        ),
    )
    if isinstance(study, optuna_spark.SparkStudy):
        assert pickle.dumps(study.sampler) == sampler
        assert pickle.dumps(study.pruner) == pruner
    return seen


GRID = {"x": [0.0, 0.5, 1.0], "y": [1, 2]}


def on_grid(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1) + trial.suggest_int("y", 1, 2)


def on_finite_space(trial: Trial) -> float:
    if trial.suggest_categorical("deep", [True, False]):
        return float(trial.suggest_int("n", 1, 3))
    return trial.suggest_float("x", 0, 1, step=0.5)


def experimental(make: Callable[[], Any]) -> Callable[[], Any]:
    """Without Optuna's warning that the class is new."""

    def quiet() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return make()

    return quiet


def value(returned: Any, state: str = "C", **more: Any) -> Case:
    return Case(returning(returned), state, n_trials=1, **more)


TWO = ("minimize", "maximize")

CASES: dict[str, Case] = {
    # what an objective returns
    "a float": value(0.5),
    "an int": value(3),
    "a bool": value(True),
    "a numpy float": value(np.float32(0.5)),
    "a numpy int": value(np.int64(7)),
    "a numpy scalar array": value(np.array(2.5)),
    "infinity": value(math.inf),
    "minus infinity": value(-math.inf),
    "a list of one": value([0.5]),
    "None": value(None, "F"),
    "None, and the run goes on": Case(returning(None), "FF"),
    "NaN": value(math.nan, "F"),
    "a numpy NaN": value(np.float64("nan"), "F"),
    "text": value("good", "F"),
    "a dict": value({"loss": 1.0}, "F"),
    "a complex number": value(1j, "F"),
    "two values for one objective": value([1.0, 2.0], "F"),
    "an empty list": value([], "F"),
    "a list for two objectives": value([1.0, 2], directions=TWO),
    "a tuple for two objectives": Case(two_values, directions=TWO),
    "one value for two objectives": value(1.0, "F", directions=TWO),
    "three values for two objectives": value([1.0, 2.0, 3.0], "F", directions=TWO),
    "NaN among two values": value([1.0, math.nan], "F", directions=TWO),
    "None among two values": value([None, 1.0], "F", directions=TWO),
    "a numpy array for two objectives": value(np.array([1.0, 2.0]), "F", directions=TWO),
    # what an objective is
    "an object as objective": Case(Scaled(2.0)),
    "a method as objective": Case(Scaled(2.0).method),
    "a partial as objective": Case(functools.partial(scaled, scale=3.0)),
    "a lambda as objective": Case(lambda trial: trial.suggest_float("x", 0, 1) ** 2),
    # exceptions
    "an exception": Case(raising(ValueError, "bad"), "CF", ValueError, n_trials=4),
    "an exception of the user's": Case(raising(MyError, "bad"), "CF", MyError, n_trials=4),
    "an exception without text": Case(raising(MyError), "CF", MyError, n_trials=4),
    "an exception with a cause": Case(raise_from, "F", MyError),
    "an exception that pickle cannot make": Case(
        raising(TwoArguments, 7, "bad"), "CF", TwoArguments, n_trials=4
    ),
    "an exception that holds a lock": Case(raising(HoldsLock, "x"), "CF", HoldsLock, n_trials=4),
    "a StopIteration": Case(raising(StopIteration, 1), "CF", StopIteration, n_trials=4),
    "a KeyboardInterrupt": Case(raising(KeyboardInterrupt), "CF", KeyboardInterrupt, n_trials=4),
    "a KeyboardInterrupt despite catch": Case(
        raising(KeyboardInterrupt), "CF", KeyboardInterrupt, n_trials=4, catch=lambda: Exception
    ),
    "catch as class": Case(raising(ValueError, "bad", number=0), "FC", catch=lambda: ValueError),
    "catch as tuple": Case(
        raising(ValueError, "bad", number=0), "FC", catch=lambda: (KeyError, ValueError)
    ),
    "catch as list": Case(
        raising(ValueError, "bad", number=0), "FC", catch=lambda: [KeyError, ValueError]
    ),
    "catch as set": Case(
        raising(ValueError, "bad", number=0), "FC", catch=lambda: {KeyError, ValueError}
    ),
    "catch as generator": Case(
        raising(ValueError, "bad", number=0),
        "FC",
        catch=lambda: (kind for kind in (KeyError, ValueError)),
    ),
    "catch of a base class": Case(
        raising(KeyError, "bad", number=0), "FC", catch=lambda: LookupError
    ),
    "catch of the user's exception": Case(
        raising(MyError, "bad", number=0), "FC", catch=lambda: (MyError,)
    ),
    "catch of another exception": Case(
        raising(ValueError, "bad"), "CF", ValueError, n_trials=3, catch=lambda: KeyError
    ),
    "every trial fails": Case(raise_from, "FFF", n_trials=3, catch=lambda: Exception),
    # reports and pruning
    "pruned without a report": Case(raising(TrialPruned, number=0), "PC"),
    "pruned with reports": Case(report_then_prune(2.0), "PP"),
    "pruned with NaN at last": Case(report_then_prune(math.nan), "PP"),
    "pruned of two objectives": Case(two_values_or_prune, "CPC", n_trials=3, directions=TWO),
    "a report of two objectives": Case(report(1.0, 0), "F", NotImplementedError, directions=TWO),
    "a report of text": Case(report("bad", 0), "F", TypeError),
    "a report at a negative step": Case(report(1.0, -1), "F", ValueError),
    "two reports of a step": Case(report_twice),
    # attributes
    "user attributes": Case(set_attributes),
    "what a trial sees": Case(
        look_around, "CCC", n_trials=3, prepare=lambda study: study.set_user_attr("data", "v1")
    ),
    "every kind of parameter": Case(suggest_all, "CCC", n_trials=3),
    "two distributions of a name": Case(conflicting_distributions, "F", ValueError),
    # trials that the user made
    "an enqueued trial": Case(
        suggest_x,
        "CC",
        prepare=lambda study: study.enqueue_trial({"x": 0.75}, user_attrs={"mine": 1}),
    ),
    "more enqueued than run": Case(
        suggest_x,
        "CCW",
        prepare=lambda study: [study.enqueue_trial({"x": x}) for x in (0.1, 0.2, 0.3)],
    ),
    "enqueued from a callback": Case(suggest_x, "CCC", n_trials=3, callbacks=(enqueue_after,)),
    "enqueued from the objective": Case(enqueue_one, "CCC", n_trials=3),
    "an enqueued value out of range": Case(
        warn_of_fixed, prepare=lambda study: study.enqueue_trial({"x": 2.0})
    ),
    "an added trial": Case(
        look_around,
        "CCC",
        prepare=lambda study: study.add_trial(
            create_trial(
                params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)}, value=0.5
            )
        ),
    ),
    "an added trial that waits": Case(
        suggest_x,
        "CC",
        prepare=lambda study: study.add_trial(
            create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": 0.5}})
        ),
    ),
    # how a run ends
    "no trials": Case(suggest_x, "", n_trials=0),
    "stopped from a callback": Case(suggest_x, "CC", n_trials=9, callbacks=(stop_after_one,)),
    "stopped from the objective": Case(stop_at_two, "CCC", n_trials=9),
    "stopped without a limit": Case(stop_at_two, "CCC", n_trials=None),
    "stopped through a captured study": Case(None, "CC", n_trials=9, capture=stop_captured),
    "stopped by the sampler": Case(
        suggest_x, "CC", n_trials=9, sampler=lambda: StopsAfterTwo(seed=1)
    ),
    "stopped by Optuna's callback": Case(
        suggest_x,
        "CCC",
        n_trials=9,
        callbacks=(optuna.study.MaxTrialsCallback(3, states=(TrialState.COMPLETE,)),),
    ),
    "a captured study": Case(None, "CC", capture=read_captured),
    "optimize inside the objective": Case(nest, "F", RuntimeError),
    "optimize of a captured study": Case(None, "F", RuntimeError, capture=optimize_inside),
    "optimize inside a callback": Case(suggest_x, "C", RuntimeError, callbacks=(optimize_after,)),
    "an exception in a callback": Case(
        suggest_x, "CC", MyError, n_trials=4, callbacks=(raise_after,)
    ),
    "a callback that uses the study": Case(
        suggest_x, "CCC", n_trials=3, callbacks=(note_best, note_best)
    ),
    "an exception after the trial": Case(
        suggest_x, "C", MyError, sampler=lambda: RaisesAfter(seed=1)
    ),
    # samplers
    "TPE": Case(
        suggest_all, "C" * 8, n_trials=8, sampler=lambda: S.TPESampler(seed=1, n_startup_trials=3)
    ),
    "TPE as of old": Case(
        suggest_all,
        "C" * 8,
        n_trials=8,
        sampler=lambda: S.TPESampler(
            seed=1, n_startup_trials=3, multivariate=False, constant_liar=False
        ),
    ),
    "TPE of two objectives": Case(
        two_values,
        "C" * 6,
        n_trials=6,
        sampler=lambda: S.TPESampler(seed=1, n_startup_trials=3),
        directions=TWO,
    ),
    "random": Case(suggest_all, "C" * 4, n_trials=4),
    "grid, exhausted": Case(on_grid, "C" * 6, n_trials=None, sampler=lambda: S.GridSampler(GRID)),
    "grid and Hyperband": Case(
        on_grid,
        "C" * 6,
        n_trials=None,
        sampler=lambda: S.GridSampler(GRID, seed=2),
        pruner=lambda: P.HyperbandPruner(max_resource=4),
    ),
    "quasi-Monte Carlo": Case(
        suggest_all,
        "C" * 5,
        n_trials=5,
        sampler=experimental(lambda: S.QMCSampler(seed=1, warn_independent_sampling=False)),
    ),
    "NSGA-II": Case(
        two_values,
        "C" * 9,
        n_trials=9,
        sampler=lambda: S.NSGAIISampler(seed=1, population_size=3),
        directions=TWO,
    ),
    "a sampler of the user's": Case(suggest_x, "C" * 4, n_trials=4, sampler=Counts),
    "a second call": Case(suggest_x, "CCCC", prepare=optimize_before),
    "brute force, exhausted": Case(
        on_finite_space,
        "C" * 6,
        n_trials=None,
        sampler=experimental(lambda: S.BruteForceSampler(seed=1)),
    ),
    "partially fixed": Case(
        suggest_all,
        "C" * 4,
        n_trials=4,
        sampler=experimental(lambda: S.PartialFixedSampler({"x": 0.5}, S.RandomSampler(seed=1))),
    ),
    # pruners
    "median": Case(
        report_and_prune,
        "CCPP",
        n_trials=4,
        pruner=lambda: P.MedianPruner(n_startup_trials=2, n_warmup_steps=1),
    ),
    "percentile": Case(
        report_and_prune, "CPP", n_trials=3, pruner=lambda: P.PercentilePruner(50, 1)
    ),
    "threshold": Case(
        report_and_prune, "CPP", n_trials=3, pruner=lambda: P.ThresholdPruner(upper=12)
    ),
    "successive halving": Case(
        report_and_prune,
        "CPPP",
        n_trials=4,
        pruner=lambda: P.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
    ),
    "Hyperband": Case(
        report_and_prune,
        "CCPPPP",
        n_trials=6,
        pruner=lambda: P.HyperbandPruner(min_resource=1, max_resource=5, reduction_factor=2),
    ),
    "patient": Case(
        report_and_prune,
        "PPP",
        n_trials=3,
        pruner=experimental(lambda: P.PatientPruner(None, patience=1)),
    ),
    "no pruner": Case(report_and_prune, "CCC", n_trials=3),
    # further arguments
    "a timeout that is far off": Case(suggest_x, options={"timeout": 600}),
    "a timeout as whole number": Case(suggest_x, options={"timeout": np.int64(600)}),
    "a progress bar": Case(suggest_x, options={"show_progress_bar": True}),
    "no callbacks": Case(suggest_x, callbacks=()),
}

if hasattr(Trial, "set_constraint"):  # Optuna 5
    CASES["constraints"] = Case(
        set_constraint,
        "C" * 6,
        n_trials=6,
        sampler=lambda: S.TPESampler(seed=1, n_startup_trials=2),
    )
if importlib.util.find_spec("cmaes"):
    CASES["CMA-ES"] = Case(
        suggest_all, "C" * 6, n_trials=6, sampler=lambda: S.CmaEsSampler(seed=1)
    )
if importlib.util.find_spec("scipy"):
    CASES["Wilcoxon"] = Case(
        report_and_prune,
        "CPP",
        n_trials=3,
        pruner=experimental(lambda: P.WilcoxonPruner(p_threshold=0.2, n_startup_steps=2)),
    )


@pytest.mark.parametrize("name", CASES)
def test_does_what_optuna_does(name: str, both: Both) -> None:
    case = CASES[name]
    expected, seen = compare(case, name, both)
    raised = expected.raised[0] if expected.raised else None
    assert (expected.states, raised) == (case.states, case.raises), "the case itself is wrong"
    assert seen == expected


# What differs on purpose


@dataclass
class Difference:
    """A behaviour that is not Optuna's; `case` holds what Optuna makes of it."""

    why: str
    case: Case
    states: str
    raises: type[BaseException] | None = None
    reason: str | None = None  # a part of it, in the last trial that failed


NO_ZOMBIE = "no trial is left RUNNING when the call has ended"

DIFFERENCES: dict[str, Difference] = {
    "SystemExit": Difference(
        NO_ZOMBIE,
        Case(raising(SystemExit, 3), "CR", SystemExit, n_trials=4),
        "CF",
        SystemExit,
        "SystemExit: 3",
    ),
    "SystemExit despite catch": Difference(
        NO_ZOMBIE,
        Case(raising(SystemExit, 3), "CR", SystemExit, n_trials=4, catch=lambda: Exception),
        "CF",
        SystemExit,
        "SystemExit: 3",
    ),
    "digits as text": Difference(
        "text is no value, as other text; Optuna's `tell` trips over it",
        Case(returning("12"), "R", AssertionError),
        "FF",
        reason="must be real number",
    ),
    "too large an int": Difference(
        "it is no float, as None is none; Optuna's `tell` trips over it",
        Case(returning(10**400), "R", AssertionError),
        "FF",
        reason="too large",
    ),
    "an exception before the trial": Difference(
        NO_ZOMBIE,
        Case(suggest_x, "CR", MyError, n_trials=4, sampler=lambda: RaisesBefore(seed=1)),
        "CF",
        MyError,
        "before the trial",
    ),
    "an exception before the trial despite catch": Difference(
        NO_ZOMBIE,
        Case(
            suggest_x,
            "CR",
            MyError,
            n_trials=4,
            sampler=lambda: RaisesBefore(seed=1),
            catch=lambda: Exception,
        ),
        "CF",
        MyError,
        "before the trial",
    ),
    "the timeout": Difference(
        "trials that run at the timeout are stopped, so that the call ends in time",
        Case(sleep_long, "C", n_trials=None, options={"timeout": 0.5}),
        "F",
        reason="the timeout of 0.5 s",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differs_on_purpose(name: str, both: Both) -> None:
    difference = DIFFERENCES[name]
    case = difference.case
    bare, seen = compare(case, name, both)
    bare_raised = bare.raised[0] if bare.raised else None
    assert (bare.states, bare_raised) == (case.states, case.raises), "Optuna has changed"
    raised = seen.raised[0] if seen.raised else None
    assert (seen.states, raised) == (difference.states, difference.raises), difference.why
    if bare.raised and seen.raised:
        assert seen.raised == bare.raised
    if difference.reason:
        assert difference.reason in seen.reasons[-1]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"n_trials": -1}, "n_trials"),
        ({"n_trials": 1.5}, "n_trials"),
        ({"n_trials": "3"}, "n_trials"),
        ({"n_trials": 1, "n_jobs": 0}, "n_jobs"),
        ({"n_trials": 1, "n_jobs": -2}, "n_jobs"),
        ({"n_trials": 1, "timeout": 0}, "timeout"),
        ({"n_trials": 1, "timeout": -1}, "timeout"),
        ({"n_trials": 1, "timeout": math.nan}, "timeout"),
        ({"n_trials": 1, "timeout": "1"}, "timeout"),
    ],
    ids=str,
)
def test_arguments_that_optuna_takes_for_something_are_refused(
    arguments: dict[str, Any], named: str, both: Both
) -> None:
    study = both.ours(f"refused {arguments}")
    with pytest.raises(ValueError, match=f"`{named}` is") as caught:
        study.optimize(suggest_x, **arguments)
    assert "\n" not in str(caught.value)
    assert study.trials == []


def test_parameters_of_optimize_are_optunas() -> None:
    theirs = list(inspect.signature(Study.optimize).parameters.values())
    ours = list(inspect.signature(optuna_spark.SparkStudy.optimize).parameters.values())
    assert [each.name for each in ours[: len(theirs)]] == [each.name for each in theirs]
    defaults = {each.name: each.default for each in theirs}
    defaults["n_jobs"] = -1  # every task slot: that is what a cluster is for
    assert {each.name: each.default for each in ours[: len(theirs)]} == defaults
    assert all(each.kind == each.KEYWORD_ONLY for each in ours[len(theirs) :])


# Callbacks


def test_callbacks_run_on_the_driver_one_at_a_time(both: Both) -> None:
    study = both.ours("callbacks")
    seen: list[tuple[int, TrialState]] = []
    inside = threading.Lock()

    def callback(given: Study, trial: FrozenTrial) -> None:
        assert inside.acquire(blocking=False), "two callbacks at once"
        assert given is study
        assert type(trial) is FrozenTrial
        assert threading.current_thread() is threading.main_thread()
        assert given.trials[trial.number] == trial
        seen.append((trial.number, trial.state))
        trial.user_attrs["a copy's"] = True
        inside.release()

    study.optimize(raising(ValueError, number=3), 8, None, 4, ValueError, [callback, callback])
    trials = study.trials
    assert sorted(seen) == sorted(2 * [(trial.number, trial.state) for trial in trials])
    assert seen[::2] == seen[1::2]
    assert all(trial.user_attrs == {} for trial in trials)


def test_callback_sees_a_trial_before_the_next_one_begins(both: Both) -> None:
    numbers: dict[str, list[Any]] = {}
    for study in both.each("callbacks in order"):
        log = numbers.setdefault(type(study).__name__, [])

        def callback(study: Study, trial: FrozenTrial, log: list[Any] = log) -> None:
            log.append((trial.number, len(study.trials), study.best_trial.number))

        study.optimize(suggest_all, n_trials=4, n_jobs=1, callbacks=[callback])
        assert [entry[:2] for entry in log] == [(0, 1), (1, 2), (2, 3), (3, 4)]


# The objective's process


def test_objective_runs_in_another_process(both: Both) -> None:
    seen: list[int] = []

    def objective(trial: Trial) -> float:
        seen.append(trial.number)
        trial.set_user_attr("pid", os.getpid())
        return 0.0

    bare, ours = both.each("process")
    bare.optimize(objective, n_trials=2)
    assert seen == [0, 1]
    assert bare.trials[0].user_attrs["pid"] == os.getpid()
    ours.optimize(objective, n_trials=2)
    assert seen == [0, 1], "it changes a copy"
    assert ours.trials[0].user_attrs["pid"] != os.getpid()


class Cycle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


def append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


@pytest.mark.parametrize("wanted", [True, False])
def test_gc_after_trial(wanted: bool, both: Both, tmp_path: Path) -> None:
    def objective(trial: Trial) -> float:
        gc.disable()  # no collection but the one that is asked for
        cycle = Cycle()
        weakref.finalize(cycle, append, collected, str(trial.number))
        return 0.0

    def callback(study: Study, trial: FrozenTrial) -> None:
        in_time.append(collected.exists() and str(trial.number) in collected.read_text().split())

    try:
        for study in both.each(f"gc_after_trial={wanted}"):
            collected, in_time = tmp_path / type(study).__name__, list[bool]()
            options = {"gc_after_trial": wanted, "callbacks": [callback]}
            study.optimize(objective, n_trials=3, n_jobs=1, **options)
            assert in_time == [wanted] * 3
    finally:
        gc.enable()
        both.spark.sparkContext.parallelize(range(16), 16).foreach(lambda _: gc.enable())


# The study on the driver


def test_stop_outside_of_optimize_is_refused(both: Both) -> None:
    messages = set()
    for study in both.each("stop outside"):
        study.optimize(suggest_x, n_trials=1, n_jobs=1)
        with pytest.raises(RuntimeError, match="inside an objective") as caught:
            study.stop()
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_ask_and_tell(both: Both) -> None:
    for study in both.each("ask and tell", sampler=S.RandomSampler(seed=1)):
        study.optimize(suggest_x, n_trials=1, n_jobs=1)
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        assert study.tell(trial, x).state == TrialState.COMPLETE
        fixed = study.ask({"x": FloatDistribution(0, 1)})
        study.tell(fixed, state=TrialState.FAIL)
        assert [each.state.name for each in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
        study.optimize(suggest_x, n_trials=1, n_jobs=1)
        assert len(study.trials) == 4


def copies(study: Study) -> list[Study]:
    return [pickle.loads(pickle.dumps(study)), copy.deepcopy(study), copy.copy(study)]


def test_copies_of_a_study_are_studies_of_the_same(both: Both) -> None:
    for study in both.each("copies", sampler=S.TPESampler(seed=1), pruner=P.NopPruner()):
        study.optimize(suggest_x, n_trials=2, n_jobs=1)
        for number, other in enumerate(copies(study)):
            assert type(other) is type(study)
            assert other.trials == study.trials
            assert type(other.sampler) is S.TPESampler
            assert type(other.pruner) is P.NopPruner
            other.optimize(suggest_x, n_trials=1, n_jobs=1)
            assert len(study.trials) == 3 + number


def test_copy_study(both: Both) -> None:
    for study, url in zip(both.each("original"), (both.bare_url, both.url), strict=True):
        study.optimize(set_attributes, n_trials=2, n_jobs=1)
        optuna.copy_study(
            from_study_name="original", from_storage=url, to_storage=url, to_study_name="copy"
        )
        copied = optuna.load_study(study_name="copy", storage=url)
        assert [what_matters(each) for each in copied.trials] == [
            what_matters(each) for each in study.trials
        ]
        if url == both.url:  # and it can go on
            made = optuna_spark.load_study(study_name="copy", storage=url, spark=both.spark)
            made.optimize(suggest_x, n_trials=1)
            assert len(copied.trials) == 3


def test_trials_dataframe(both: Both) -> None:
    pytest.importorskip("pandas")
    frames = []
    for study in both.each("frame", sampler=S.RandomSampler(seed=1)):
        study.optimize(suggest_all, n_trials=3, n_jobs=1)
        frames.append(study.trials_dataframe(attrs=("number", "value", "params", "state")))
    assert frames[0].equals(frames[1])


def test_importance(both: Both) -> None:
    pytest.importorskip("sklearn")
    found = []
    for study in both.each("importance", sampler=S.RandomSampler(seed=1)):
        study.optimize(suggest_all, n_trials=6, n_jobs=1)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=1)
        found.append(optuna.importance.get_param_importances(study, evaluator=evaluator))
        assert set(optuna.importance.get_param_importances(study)) == set(found[0])
    assert found[0] == found[1]


def test_best_trials(both: Both) -> None:
    found = []
    for study in both.each("best", sampler=S.RandomSampler(seed=1), directions=["minimize"] * 2):
        study.optimize(two_values, n_trials=4, n_jobs=1)
        found.append([trial.number for trial in study.best_trials])
        with pytest.raises(RuntimeError, match="best_trials"):
            _ = study.best_value
    assert found == [[0, 1, 2, 3]] * 2


def test_another_study_of_the_same_name_is_another_study(both: Both, sqlite_url: str) -> None:
    other = optuna_spark.create_study(storage=sqlite_url, study_name="twin", spark=both.spark)
    other.add_trial(create_trial(value=7.0))
    study = both.ours("twin")

    def objective(trial: Trial) -> float:
        return other.best_value

    study.optimize(objective, n_trials=1)
    assert study.best_value == 7.0
