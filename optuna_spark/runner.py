"""The driver's story: hand out the budget in grants, run them as jobs, settle what comes back."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import math
import queue
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from optuna_spark import budget
from optuna_spark.backend import SparkBackend, room_for, unpickle_error
from optuna_spark.exceptions import SparkError
from optuna_spark.hand import Hand, Job, Unit
from optuna_spark.ledger import Ledger
from optuna_spark.progress import Progress, Tally
from optuna_spark.settings import Limits
from optuna_spark.signals import signals_raise, signals_wait
from optuna_spark.spark_errors import JobCancelled
from optuna_spark.storage import on_wait, patience
from optuna_spark.trial_process import TaskLost, run_grant
from optuna_spark.trial_task import ATTEMPT, FAILURE, Grant, TrialOutcome

_logger = logging.getLogger(__name__)

_FRUITLESS = 4  # jobs lost in a row with no trial begun, after which the run gives up
_REST_SECONDS = 1.0  # before the next job then, where trials run elsewhere
_LOOK_SECONDS = 1.0  # between two looks at what jobs of several trials have finished
_COUNT_SECONDS = 1.0  # between two looks at how many task slots there are
_SWEEP_SECONDS = 30.0  # for cancelled tasks to end
_LAST_PATIENCE = 5.0  # seconds for a database that is away when the run is over anyway

Callback = Callable[[Any, FrozenTrial], None]


class Runner:
    """Runs one call of `optimize`.

    Args:
        study: The driver's study; callbacks get it.
        study_id: Its number in the storage.
        storage: The driver's storage.
        backend: Where jobs go.
        payload: Spark broadcast of the `Run`.
        run_id: The run's name.
        limits: How far it may go.
        callbacks: Called on the driver, one at a time, as trials end.
        grows: Spark adds executors while jobs wait.
        show_progress_bar: Whether to draw one.
    """

    def __init__(
        self,
        study: optuna.Study,
        study_id: int,
        storage: BaseStorage,
        backend: SparkBackend,
        payload: Any,
        run_id: str,
        limits: Limits,
        callbacks: Iterable[Callback],
        *,
        grows: bool,
        show_progress_bar: bool,
    ) -> None:
        self._study, self._study_id, self._storage = study, study_id, storage
        self._backend, self._payload, self._run_id = backend, payload, run_id
        self._limits, self._callbacks, self._grows = limits, list(callbacks), grows
        alone = bool(self._callbacks) or limits.n_jobs == 1
        self.sampler_state: bytes | None = None  # where trials run one by one: for the next
        self._deadline = None if limits.timeout is None else time.monotonic() + limits.timeout
        self._jobs: dict[Future[Any], Job] = {}
        self._back: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()  # jobs that have ended
        self._grants = self._fruitless = 0
        self._rest_until = self._look_at = 0.0
        self._last_loss: TaskLost | None = None
        self._slots, self._slots_counted = 0, -math.inf
        self._stop_reason: str | None = None
        self._ledger = Ledger(storage, study_id, run_id, limits)
        self._hand = Hand(self._ledger, storage, alone=alone)
        self._units, self._again = self._hand.units, self._hand.again
        self.tally = Tally(study.directions, _best_value(study))
        total = limits.n_trials if limits.total_trials is None else limits.total_trials
        done = 0 if limits.total_trials is None else self._ledger.finished
        self._progress = Progress(total, done, shown=show_progress_bar)
        on_wait(storage, self._progress.show_wait)

    def stop(self, reason: str) -> None:
        """Begin no further trial, and stop those that run; `reason` is recorded with them."""
        self._stop_reason = self._stop_reason or reason

    def run(self) -> None:
        """Run to the end of the budget.

        Raises:
            Exception: whatever a trial raised that `catch` does not cover, or a callback raised.
            SparkError: executors are lost before they begin a trial, again and again.
        """
        with signals_wait():
            try:
                with signals_raise() as check_signals:
                    self._loop(check_signals)
            except BaseException as error:
                self.stop(f"{type(error).__name__} ended the run")
                try:
                    with patience(self._storage, _LAST_PATIENCE):
                        self._wind_up()
                except Exception as second:  # the first error is the one to raise
                    _logger.warning("The run could not be wound up: %s", second)
                raise
            self._wind_up()

    def _loop(self, check_signals: Callable[[], None]) -> None:
        while self._stop_reason is None:
            check_signals()
            self._top_up()
            if not self._jobs and not self._units and not self._ledger.is_short():
                return
            self._look()
            self._progress.show(self.tally, len(self._units))
            if self._jobs:
                for future in self._ended_jobs():
                    self._settle(future)
            else:  # trials are in the hands of other drivers, or executors are lost one by one
                time.sleep(random.uniform(0, self._patience()))
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self.stop(f"the timeout of {self._limits.timeout:g} s was reached")

    def _ended_jobs(self) -> Iterator[Future[Any]]:
        """Wait for a job to end, and take all that have by then."""
        with contextlib.suppress(queue.Empty):
            yield self._back.get(timeout=self._patience())
            for _ in range(self._back.qsize()):
                yield self._back.get_nowait()

    def _patience(self) -> float:
        patience = 1.0  # executors may come and go meanwhile
        if self._deadline is not None:
            patience = min(patience, self._deadline - time.monotonic())
        return max(0.0, patience)

    def _look(self) -> None:
        """Settle what is finished of jobs that go on with other trials."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        old = now - _LOOK_SECONDS
        if any(len(job.grant.trial_ids) > 1 and job.began < old for job in self._jobs.values()):
            for trial in self._storage.get_all_trials(self._study_id, deepcopy=False):
                if trial.state.is_finished() and trial._trial_id in self._units:
                    values = None if trial.values is None else tuple(trial.values)
                    place = (trial._trial_id, trial.state, trial.number)
                    self._finish(*place, values, _reason(trial))

    def _top_up(self) -> None:
        """Start jobs until enough are in flight or the budget is used up."""
        if self._loses_jobs() or time.monotonic() < self._rest_until:
            return
        if self._limits.n_jobs == -1 and time.monotonic() > self._slots_counted + _COUNT_SECONDS:
            self._slots, self._slots_counted = self._backend.slots(), time.monotonic()
        wanted = room_for(budget.jobs_wanted(self._limits.n_jobs, self._slots, grows=self._grows))
        while len(self._jobs) < wanted:
            jobs = self._jobs.values()
            trial_ids = self._hand.next_trials(self.tally.finished, jobs, wanted)
            if not trial_ids:
                return
            self._start(trial_ids)

    def _start(self, trial_ids: list[int]) -> None:
        units = {trial_id: self._units[trial_id] for trial_id in trial_ids}
        resumed = frozenset(trial_id for trial_id, unit in units.items() if unit.losses)
        seconds = 2 * budget.GRANT_SECONDS
        timeout = self._limits.trial_timeout
        grant = Grant(
            self._grants, tuple(trial_ids), resumed, seconds, self.sampler_state, timeout
        )
        self._grants += 1
        job = Job(grant)
        for unit in units.values():
            unit.job = job
        call = functools.partial(run_grant, self._run_id, self._payload, grant)
        count = f"{len(trial_ids)} trials" if len(trial_ids) > 1 else "1 trial"
        description = f"study {self._study.study_name}: {count}, grant {grant.grant_id}"
        future = self._backend.submit(call, description=description)
        self._jobs[future] = job
        future.add_done_callback(self._back.put)

    def _settle(self, future: Future[Any]) -> None:
        job = self._jobs.pop(future)
        try:
            outcomes = self._backend.retrieve_result_callback(future)
        except TaskLost as lost:
            self._recover(job, lost)
            return
        except JobCancelled as cancelled:
            if self._stop_reason is None:
                raise SparkError(f"Spark cancelled a job of this study: {cancelled}.") from None
            return
        self._fruitless = 0
        for outcome in outcomes:
            self.sampler_state = outcome.sampler or self.sampler_state
            self._record(job, outcome)

    def _recover(self, job: Job, lost: TaskLost) -> None:
        """Hand out once more what a lost job had; the trial that ran pays with an attempt."""
        if not lost.timed_out:  # which is said of the trial itself
            _logger.warning("A job was lost (%s); its trials go on elsewhere.", lost)
        self._fruitless += 1
        for trial_id in job.grant.trial_ids:
            unit = self._units.get(trial_id)
            if unit is None or unit.job is not job:
                continue
            trial = self._storage.get_trial(trial_id)
            if trial.state == TrialState.RUNNING and _began(job, trial):
                self._fruitless = 0
                unit.losses += 1
                trial = self._judge(unit, trial, lost)
            if trial.state.is_finished():
                self._finish(trial_id, trial.state, trial.number, trial.values, _reason(trial))
            else:
                self._again.append(trial_id)
        if self._fruitless >= _FRUITLESS:
            # One bad executor is quick to fail, and may be offered every job; others work on.
            self._rest_until = time.monotonic() + _REST_SECONDS
            self._last_loss = lost

    def _loses_jobs(self) -> bool:
        """Whether jobs are lost one after the other, and those in flight must begin a trial first.

        Raises:
            SparkError: none of them did.
        """
        if self._fruitless < _FRUITLESS or self._any_running():
            return False
        if not self._jobs:
            raise SparkError(f"Executors are lost before they begin a trial: {self._last_loss}")
        return True

    def _any_running(self) -> bool:
        return any(
            self._storage.get_trial(trial_id).state == TrialState.RUNNING
            for trial_id in self._units
        )

    def _judge(self, unit: Unit, trial: FrozenTrial, lost: TaskLost) -> FrozenTrial:
        attempts = trial.system_attrs.get(ATTEMPT, {}).get("begun", 1)
        attempts, retries = max(attempts, unit.losses), self._limits.max_retries
        verdict = budget.after_loss(attempts, retries, timed_out=lost.timed_out)
        if verdict is budget.Verdict.AGAIN:
            return trial
        reason = str(lost)
        if verdict is budget.Verdict.GIVE_UP:
            reason = f"its process was lost {attempts} times, at last: {reason}"
        return self._ledger.fail(trial._trial_id, reason)

    def _record(self, job: Job, outcome: TrialOutcome) -> None:
        unit = self._units.get(outcome.trial_id)
        if outcome.state is not None and outcome.state.is_finished():
            self._hand.observe(outcome.seconds)
            if unit is not None:
                trial = (outcome.trial_id, outcome.state, outcome.number, outcome.values)
                self._finish(*trial, outcome.reason)
            if outcome.error is not None:
                raise unpickle_error(outcome.error, outcome.traceback or "")
            if outcome.stops:
                self.stop("study.stop() was called")
        elif unit is None:
            return
        elif outcome.taken:
            others = [other for other in self._jobs.values() if other.has(outcome.trial_id)]
            if others:
                unit.job = others[0]
            elif unit.losses:  # it was this run that claimed it, in a task that is over
                self._again.append(outcome.trial_id)
            else:  # a process outside this run: the budget makes another trial of it
                del self._units[outcome.trial_id]
        elif unit.job is job:
            self._again.append(outcome.trial_id)

    def _finish(
        self,
        trial_id: int,
        state: TrialState,
        number: int,
        values: Any,
        reason: str | None = None,
    ) -> None:
        del self._units[trial_id]
        self.tally.add(state, values)
        self._progress.show(self.tally, len(self._units), new=1)
        if state == TrialState.FAIL:
            _logger.warning("Trial %d failed: %s", number, reason or "no reason is known")
        else:
            _logger.info("Trial %d is %s with values %s.", number, state.name, values)
        if self._callbacks:
            frozen = self._storage.get_trial(trial_id)
            for callback in self._callbacks:
                callback(self._study, copy.deepcopy(frozen))

    def _wind_up(self) -> None:
        """Leave nothing behind: no job, no task, no RUNNING trial."""
        try:
            if self._jobs or self._units:
                self._cancel_jobs()
                self._sweep_trials()
        finally:
            self._backend.terminate()
            self._payload.destroy()
            self._progress.close()

    def _cancel_jobs(self) -> None:
        deadline = time.monotonic() + _SWEEP_SECONDS
        pending = set(self._jobs)
        while pending and time.monotonic() < deadline:
            self._backend.cancel()  # again: a job may have started meanwhile
            _, pending = wait(pending, timeout=0.5)

    def _sweep_trials(self) -> None:
        # A cancelled task may live on for a moment, and must not claim a trial that is left.
        idle = self._backend.wait_until_idle(_SWEEP_SECONDS)
        reason = f"stopped: {self._stop_reason}"
        for trial_id in list(self._units):
            trial = self._storage.get_trial(trial_id)
            if trial.state == TrialState.RUNNING or not (idle or trial.state.is_finished()):
                trial = self._ledger.fail(trial_id, reason)
            del self._units[trial_id]
            if trial.state.is_finished():
                self.tally.add(trial.state, trial.values)
                self._progress.show(self.tally, len(self._units), new=1)


def _reason(trial: FrozenTrial) -> str | None:
    failure: dict[str, Any] = trial.system_attrs.get(FAILURE, {})
    return failure.get("reason")


def _began(job: Job, trial: FrozenTrial) -> bool:
    """Whether a task of this job began the trial, and no earlier one alone."""
    attempt: dict[str, Any] = trial.system_attrs.get(ATTEMPT, {})
    return bool(attempt.get("grant", job.grant.grant_id) == job.grant.grant_id)


def _best_value(study: optuna.Study) -> float | None:
    if len(study.directions) > 1:
        return None
    try:
        return study.best_value
    except ValueError:  # no trial is complete yet
        return None
