"""The trials of a run in the study's database: created, adopted, counted and failed there."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Collection
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from optuna_spark import budget
from optuna_spark.liveness import Watch
from optuna_spark.patient_storage import server_seconds
from optuna_spark.settings import Limits
from optuna_spark.storage import create_trials
from optuna_spark.trial_rows import UNFINISHED
from optuna_spark.trial_task import ATTEMPT, FAILURE, RUN

_logger = logging.getLogger(__name__)

_NEW_SECONDS = 0.5  # that what was read of a study is new enough to wait with


class Ledger:
    """What the database holds of a run's budget.

    Args:
        storage: The driver's storage.
        study_id: The study's number in it.
        run_id: The run's name.
        limits: How many trials it may run.
    """

    def __init__(self, storage: BaseStorage, study_id: int, run_id: str, limits: Limits) -> None:
        self._storage, self._study_id, self._run_id = storage, study_id, run_id
        self._limits = limits
        self._watch = Watch()
        self._over: set[str] = set()  # runs that have ended, or whose driver is dead
        self._waiting: deque[int] = deque()  # trials of nobody that this run may take
        self._read_at = -math.inf
        self.finished = 0  # in the study
        self.elsewhere = 0  # trials that other runs have begun or are about to

    def refresh(self, mine: Collection[int]) -> None:
        """Read the study anew, and fail what dead drivers have left RUNNING.

        Args:
            mine: Ids of the trials that this run has in hand.
        """
        self._read_at = time.monotonic()
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        # Most of what grows with the study; `is_finished` would take three times as long.
        unfinished = [trial for trial in trials if trial.state in UNFINISHED]
        self.finished = len(trials) - len(unfinished)
        self.elsewhere = 0
        self._waiting.clear()
        others = [trial for trial in unfinished if trial._trial_id not in mine]
        if not others:
            return
        over = self._runs_over({_run_of(trial) for trial in others})
        for trial in others:
            run = _run_of(trial)
            if trial.state == TrialState.WAITING and (run is None or run in over):
                self._waiting.append(trial._trial_id)
            elif run in over:
                reason = f"the driver of its run ended without it{_where(trial)}"
                _logger.warning("Trial %d is failed: %s.", trial.number, reason)
                self.fail(trial._trial_id, reason)
                self.finished += 1
            elif run is not None:
                self.elsewhere += 1

    def left(self, finished: int, outstanding: int) -> int | None:
        """Trials that may still be taken, None for no limit.

        Args:
            finished: Trials that the run has finished.
            outstanding: Trials that it has in hand.
        """
        limits = self._limits
        if limits.n_trials is not None:
            return budget.remaining(limits.n_trials, finished, outstanding)
        if limits.total_trials is not None:
            in_hand = outstanding + self.elsewhere
            return budget.remaining(limits.total_trials, self.finished, in_hand)
        return None

    def is_contested(self) -> bool:
        """Whether other runs, too, finish trials of this run's budget."""
        return self._limits.total_trials is not None and self.elsewhere > 0

    def is_short(self) -> bool:
        """Whether the study lacks trials that other runs have in hand, and may not finish."""
        total = self._limits.total_trials
        return total is not None and self.finished < total

    def is_old(self) -> bool:
        """Whether other drivers may have done much since the study was read."""
        return time.monotonic() > self._read_at + _NEW_SECONDS

    def take(self, count: int) -> list[int]:
        """Make trials this run's, those that wait first; fewer if other drivers were quicker."""
        if count == 0:
            return []
        taken = [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
        for trial_id in taken:
            self._mark(trial_id, self._run_id)
        if missing := count - len(taken):
            study, run = self._study_id, self._run_id
            taken += create_trials(self._storage, study, missing, RUN, run)
        total = self._limits.total_trials
        if total is None:
            return taken
        # Two drivers may take the last trials at once. Each has said so by now: at least one of
        # them sees the other, and steps back.
        kept = max(0, min(count, total - self._held_beside(taken)))
        for trial_id in taken[kept:]:
            self._mark(trial_id, None)
        return taken[:kept]

    def fail(self, trial_id: int, reason: str) -> FrozenTrial:
        """Record that a trial failed, unless it is finished, and return it."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            failure = {"reason": reason, "traceback": None}
            self._storage.set_trial_system_attr(trial_id, FAILURE, failure)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        return self._storage.get_trial(trial_id)

    def _mark(self, trial_id: int, run_id: str | None) -> None:
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_system_attr(trial_id, RUN, run_id)

    def _held_beside(self, taken: Collection[int]) -> int:
        """Trials other than these that are finished or in the hands of a run."""
        return sum(
            trial.state.is_finished() or _run_of(trial) not in (None, *self._over)
            for trial in self._storage.get_all_trials(self._study_id, deepcopy=False)
            if trial._trial_id not in taken
        )

    def _runs_over(self, runs: Collection[str | None]) -> set[str]:
        asked = {run for run in runs if run is not None and run != self._run_id}
        if not asked:
            return set()
        attributes = self._storage.get_study_system_attrs(self._study_id)
        clock, now = server_seconds(self._storage), time.monotonic()
        self._over |= {run for run in asked if self._watch.over(run, attributes, clock, now)}
        return self._over


def _run_of(trial: FrozenTrial) -> str | None:
    """The run that has a trial in hand, None of what no run has touched."""
    attempt: dict[str, Any] = trial.system_attrs.get(ATTEMPT) or {}
    run: str | None = attempt.get("run") if trial.state == TrialState.RUNNING else None
    return run or trial.system_attrs.get(RUN)


def _where(trial: FrozenTrial) -> str:
    attempt = trial.system_attrs.get(ATTEMPT)
    return f"; it ran on {attempt['host']}" if attempt else ""
