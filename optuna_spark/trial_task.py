"""All that a trial process does: claim a trial, run the objective, report the result.

The driver creates a trial WAITING. A task claims it by turning it RUNNING, which the database
grants to one claimer alone. A task that Spark runs again continues the trials of its grant.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import pickle
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any

import optuna
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from pyspark import TaskContext

from optuna_spark.exceptions import SHIP, ExecutorEnvironmentError
from optuna_spark.objectives import pickle_error, pickle_sampler
from optuna_spark.patient_storage import ParameterTaken
from optuna_spark.settings import StorageAddress
from optuna_spark.storage import (
    begin_with_snapshot,
    claim_trial,
    close_storage,
    leave_unread,
    on_wait,
    open_storage,
    remember_trial,
)

# System attributes of a trial.
RUN = "optuna_spark:run"  # the run that created it
ATTEMPT = "optuna_spark:attempt"  # what runs it: host, application, task; how often it began
FAILURE = "optuna_spark:failure"  # why it failed: reason, and traceback where there is one

_CLAIMER_SECONDS = 2.0  # between a claim and its claimer's name
_TRACEBACK_LIMIT = 16_000  # characters; an attribute ends at 64 KB on MySQL

# What a trial process tells of a trial, beside its outcome.
BEGUN, WAITED, DONE = "begun", "waited", "done"
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class Grant:
    """The trials that one Spark job may run, in order."""

    grant_id: int
    trial_ids: tuple[int, ...]
    resumed: frozenset[int] = frozenset()  # of these: begun by a task that was lost
    seconds: float = math.inf  # begin no further trial after so long
    sampler: bytes | None = None  # where trials run one by one: as the one before left it
    trial_timeout: float | None = None  # seconds for each trial


@dataclass(frozen=True)
class TrialOutcome:
    """What a task has to say of one trial of its grant."""

    trial_id: int
    state: TrialState | None = None  # None: not begun here
    number: int = -1
    values: tuple[float, ...] | None = None
    seconds: float = 0.0
    reason: str | None = None  # why it failed
    traceback: str | None = None
    error: bytes | None = None  # the exception, pickled, where `catch` does not cover it
    stops: bool = False  # the objective or the sampler called study.stop()
    taken: bool = False  # another task or process runs it
    sampler: bytes | None = None  # where trials run one by one: for the next


@dataclass(frozen=True)
class Run:
    """What the tasks of one `optimize` call share; it reaches each executor once."""

    run_id: str
    address: StorageAddress | BaseStorage
    study_name: str
    body: bytes = field(repr=False)  # pickled (objective, sampler, pruner, catch)
    snapshot: bytes | None = field(default=None, repr=False)  # of the study's trials
    gc_after_trial: bool = False
    max_retries: int = 3
    storage_grace: float | None = None  # seconds, as on the driver
    keep_connections: bool = True  # the database has enough for all task slots
    reseed: bool = True  # several processes sample: each needs a random state of its own
    application: str = ""
    versions: dict[str, str] = field(default_factory=dict)  # of the driver's packages


def package_versions() -> dict[str, str]:
    """Versions of the packages that driver and executors must have alike."""
    found = {}
    for name in ("cloudpickle", "optuna", "optuna-spark"):
        with contextlib.suppress(metadata.PackageNotFoundError):  # on PYTHONPATH, not installed
            found[name] = metadata.version(name)
    return found


class ExecutorStudy(optuna.Study):
    """The study as an objective sees it: it can be stopped, but not optimized."""

    stop_requested = False

    def stop(self) -> None:
        """Ask the driver to begin no further trial."""
        self.stop_requested = True

    def optimize(self, *args: Any, **kwargs: Any) -> None:
        """Refuse, as Optuna does.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("Nested invocation of `Study.optimize` method isn't allowed.")


@dataclass
class _OpenRun:
    run: Run
    study: ExecutorStudy
    study_id: int
    storage: BaseStorage
    objective: Any = None
    catch: tuple[type[BaseException], ...] = ()


_current: _OpenRun | None = None  # the run that this process works for


def run_trials(payload: Any, grant: Grant, tell: Tell) -> list[TrialOutcome]:
    """Run the trials of a grant, one after the other.

    Args:
        payload: Spark broadcast of a `Run`; this process works for no other run.
        grant: The trials.
        tell: Told when a trial begins, that it has waited for the database, and when its
            objective is done.

    Returns:
        One outcome for each trial of the grant, in order.
    """
    opened = _current or _open_run(payload.value)
    on_wait(opened.storage, lambda seconds: tell(WAITED, seconds))
    if grant.sampler is not None:
        opened.study.sampler = pickle.loads(grant.sampler)
    if grant.resumed and not opened.run.reseed:
        opened.study.sampler.reseed_rng()  # it must not repeat what the lost task suggested
    began = time.monotonic()
    outcomes: list[TrialOutcome] = []
    for trial_id in grant.trial_ids:
        ended = any(outcome.stops or outcome.error for outcome in outcomes)
        if ended or time.monotonic() - began > grant.seconds:
            outcomes.append(TrialOutcome(trial_id))
        else:
            outcomes.append(_run_trial(opened, grant, trial_id, tell))
    if not opened.run.reseed:
        outcomes[-1] = replace(outcomes[-1], sampler=pickle_sampler(opened.study.sampler))
    return outcomes


def current_study(address: StorageAddress | BaseStorage, name: str) -> ExecutorStudy | None:
    """The study that this process runs trials of, if it is this one."""
    if _current is None or _current.study.study_name != name:
        return None
    # Two copies of a storage that is no address are not equal, so that the name must do.
    if isinstance(address, StorageAddress) and address != _current.run.address:
        return None
    return _current.study


def close_run() -> None:
    """Give the database its connection back."""
    if _current is not None:
        close_storage(_current.storage)


def _open_run(run: Run) -> _OpenRun:
    global _current
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    here = package_versions()
    for name, version in run.versions.items():
        if here.get(name, version) != version:
            raise ExecutorEnvironmentError(
                f"Executors have {name} {here[name]}, and the driver has {version}: {SHIP}."
            )
    storage = open_storage(
        run.address,
        create_schema=False,
        keep_connections=run.keep_connections,
        grace=run.storage_grace,
    )
    begin_with_snapshot(storage, run.snapshot)
    leave_unread(storage, (RUN, ATTEMPT))  # a third of what there is to read
    study = ExecutorStudy(run.study_name, storage)
    opened = _OpenRun(run, study, study._study_id, storage)
    # Before unpickling: an objective that captured its study finds it here.
    _current = opened
    try:
        opened.objective, sampler, pruner, opened.catch = pickle.loads(run.body)
    except ImportError as error:
        _current = None
        raise ExecutorEnvironmentError(
            f"Executors lack what the objective imports ({error}): {SHIP}."
        ) from error
    except BaseException:
        _current = None
        raise
    opened.study.sampler, opened.study.pruner = sampler, pruner
    if run.reseed:
        sampler.reseed_rng()
    return opened


def _run_trial(opened: _OpenRun, grant: Grant, trial_id: int, tell: Tell) -> TrialOutcome:
    frozen = _claim(opened, grant, trial_id)
    if isinstance(frozen, TrialOutcome):
        return frozen
    began = time.monotonic()
    tell(BEGUN, trial_id)
    study, study_state = opened.study, None
    study.stop_requested = False
    value: Any = None
    failure: BaseException | None = None
    trial: optuna.Trial | int = frozen.number
    # What a sampler raises before the objective begins reaches the caller, as in Optuna.
    catch: tuple[type[BaseException], ...] = ()
    try:
        while True:
            try:
                trial = optuna.Trial(study, trial_id)
                catch = opened.catch
                value = opened.objective(trial)
                break
            except ParameterTaken:  # another attempt lives: begin anew, with what it has stored
                continue
    except TrialPruned:
        study_state = TrialState.PRUNED
    except BaseException as error:  # SystemExit too: it must not leave the trial RUNNING
        failure, study_state = error, TrialState.FAIL
    seconds = time.monotonic() - began
    tell(DONE, seconds)
    reason = None if failure is None else _one_line(failure)
    if study_state is None:
        study_state, reason = _judge(value, len(study.directions))
    text = None
    if failure is not None:
        text = "".join(traceback.format_exception(failure))[-_TRACEBACK_LIMIT:]
    raised = None if failure is None or isinstance(failure, catch) else failure
    try:
        told = _tell(opened, trial, trial_id, study_state, value, reason, text)
    except Exception as tell_error:  # a sampler's own after_trial may raise, as in Optuna
        told, raised = opened.storage.get_trial(trial_id), tell_error
        text = text or "".join(traceback.format_exception(tell_error))
    if opened.run.gc_after_trial:
        gc.collect()
    return TrialOutcome(
        trial_id=trial_id,
        state=told.state,
        number=told.number,
        values=None if told.values is None else tuple(told.values),
        seconds=seconds,
        reason=reason,
        traceback=text,
        error=None if raised is None else pickle_error(raised),
        stops=study.stop_requested,
    )


def _claim(opened: _OpenRun, grant: Grant, trial_id: int) -> FrozenTrial | TrialOutcome:
    """Make this task the one that runs the trial, or say why it does not."""
    storage, run = opened.storage, opened.run
    task = TaskContext.get()
    attempt: dict[str, Any] = {
        "run": run.run_id,
        "grant": grant.grant_id,
        "begun": 1,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "application": run.application,
        "stage": task.stageId() if task else None,
        "task_attempt": task.taskAttemptId() if task else None,
    }
    try:
        claimed = claim_trial(storage, trial_id, {ATTEMPT: attempt})
    except UpdateFinishedTrialError:
        return _finished(storage.get_trial(trial_id))
    frozen = storage.get_trial(trial_id)
    if not claimed:
        frozen = _once_begun(storage, frozen)
        if frozen.state.is_finished():
            return _finished(frozen)
        if not _continues(run, grant, frozen, task):
            return TrialOutcome(trial_id, number=frozen.number, taken=True)
        before = frozen.system_attrs.get(ATTEMPT)
        begun = 1 if before is None else before["begun"] + 1
        if begun > run.max_retries + 1:
            lost = f"lost {begun - 1} times, at last on {_at(before)}"
            reason = f"The process that ran it was {lost}."
            failed = _tell(opened, frozen.number, trial_id, TrialState.FAIL, None, reason, None)
            return _finished(failed, reason)
        storage.set_trial_system_attr(trial_id, ATTEMPT, {**attempt, "begun": begun})
    # Optuna's cache knows only trials that it has created, or seen in a list.
    remember_trial(storage, opened.study_id, frozen)
    return frozen


def _once_begun(storage: BaseStorage, trial: FrozenTrial) -> FrozenTrial:
    """A trial that is claimed, with what its claimer says of itself a moment later."""
    deadline = time.monotonic() + _CLAIMER_SECONDS
    while not trial.state.is_finished() and ATTEMPT not in trial.system_attrs:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
        trial = storage.get_trial(trial._trial_id)
    return trial


def _continues(run: Run, grant: Grant, trial: FrozenTrial, task: TaskContext | None) -> bool:
    """Whether a trial that is RUNNING is this task's to go on with."""
    before, resumed = trial.system_attrs.get(ATTEMPT), trial._trial_id in grant.resumed
    if before is None:  # who claimed it was lost before it said so
        again = resumed or (task is not None and task.attemptNumber() > 0)
        return bool(again and trial.system_attrs.get(RUN) == run.run_id)
    # A grant has one task: what else began the trial for it is another attempt of this task.
    ours = resumed or before["grant"] == grant.grant_id
    return bool(ours and before["run"] == run.run_id)


def _at(attempt: dict[str, Any] | None) -> str:
    return str(attempt["host"]) if attempt else "an unknown host"


def _finished(frozen: FrozenTrial, reason: str | None = None) -> TrialOutcome:
    return TrialOutcome(
        trial_id=frozen._trial_id,
        state=frozen.state,
        number=frozen.number,
        values=None if frozen.values is None else tuple(frozen.values),
        reason=reason or frozen.system_attrs.get(FAILURE, {}).get("reason"),
    )


def _judge(value: Any, n_objectives: int) -> tuple[TrialState, str | None]:
    """Ask Optuna what it makes of an objective's value, before anything is written."""
    if n_objectives == 1 and isinstance(value, float) and not math.isnan(value):
        return TrialState.COMPLETE, None
    # Optuna says why it refuses a value in a warning of `tell` alone, after which the trial is
    # finished and can hold no reason any more: so it is told to a study in memory first.
    trial_study = optuna.create_study(
        directions=["minimize"] * n_objectives, sampler=optuna.samplers.RandomSampler()
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            told = trial_study.tell(trial_study.ask(), value)
        except Exception as error:  # of digits as text, say: Optuna leaves that trial RUNNING
            return TrialState.FAIL, _one_line(error)
    return told.state, str(caught[-1].message) if caught else None


def _tell(
    opened: _OpenRun,
    trial: optuna.Trial | int,
    trial_id: int,
    state: TrialState,
    value: Any,
    reason: str | None,
    text: str | None,
) -> FrozenTrial:
    """Finish the trial, unless somebody else has: then say how."""
    try:
        if state == TrialState.FAIL:
            failure = {"reason": reason, "traceback": text}
            opened.storage.set_trial_system_attr(trial_id, FAILURE, failure)
        values = value if state == TrialState.COMPLETE else None
        return opened.study.tell(trial, values, state, skip_if_finished=True)
    except UpdateFinishedTrialError:
        return opened.storage.get_trial(trial_id)


def _one_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
