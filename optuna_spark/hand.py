"""The trials that a run has in hand: which of them is in which job, and which are in none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_spark import budget
from optuna_spark.ledger import Ledger
from optuna_spark.trial_task import Grant

_STEAL_AFTER = 2.0  # seconds; then idle slots take over what a grant has not begun


@dataclass(eq=False)
class Job:
    """A Spark job of this run that has not come back."""

    grant: Grant
    began: float = field(default_factory=time.monotonic)

    def has(self, trial_id: int) -> bool:
        """Whether a trial is of its grant."""
        return trial_id in self.grant.trial_ids


@dataclass
class Unit:
    """One trial of the budget, from its creation to its end."""

    job: Job | None = None  # the last one that was told to run it
    losses: int = 0  # jobs lost while it ran, or may have run


class Hand:
    """What a run has taken of its budget and not finished.

    Args:
        ledger: Where trials are taken from.
        storage: The driver's storage.
        alone: Each trial needs a job of its own: the driver acts between two of them.
    """

    def __init__(self, ledger: Ledger, storage: BaseStorage, *, alone: bool) -> None:
        self._ledger, self._storage, self._alone = ledger, storage, alone
        self.units: dict[int, Unit] = {}
        self.again: deque[int] = deque()  # trials to hand out once more
        self._ahead: deque[int] = deque()  # trials created for jobs that start now
        self._durations: deque[float] = deque(maxlen=32)
        ledger.refresh(self.units)

    def observe(self, seconds: float) -> None:
        """Note how long a trial took."""
        if seconds:
            self._durations.append(seconds)

    def next_trials(self, finished: int, jobs: Collection[Job], wanted: int) -> list[int]:
        """Say which trials the next job runs; none where nothing is left to begin.

        Args:
            finished: Trials that the run has finished.
            jobs: Those that have not come back.
            wanted: How many jobs shall be in flight.
        """
        if self.again:
            return [self.again.popleft()]
        size = self._grant_size(finished, wanted)
        if self._must_ask(size):
            self._ledger.refresh(self.units)
            size = self._grant_size(finished, wanted)
            left, missing = self._left(finished), wanted - len(jobs)
            contested = self._ledger.is_contested()
            count = budget.to_create(left, size, missing, wanted, contested=contested)
            taken = self._ledger.take(max(0, count - len(self._ahead)))
            self.units.update((trial_id, Unit()) for trial_id in taken)
            self._ahead.extend(taken)
        granted = [self._ahead.popleft() for _ in range(min(size, len(self._ahead)))]
        return granted or self._unbegun_trials(jobs)

    def _must_ask(self, size: int) -> bool:
        """Whether what this process knows of the study is too little to go on with."""
        if size > len(self._ahead):
            return True
        # Other drivers may lose trials that they have in hand.
        return size == 0 and self._ledger.is_short() and self._ledger.is_old()

    def _left(self, finished: int) -> int | None:
        """Trials that are in no job yet, None for no limit."""
        left = self._ledger.left(finished, len(self.units))
        return None if left is None else left + len(self._ahead)

    def _grant_size(self, finished: int, wanted: int) -> int:
        seconds = budget.mean(self._durations)
        return budget.grant_size(self._left(finished), wanted, seconds, alone=self._alone)

    def _unbegun_trials(self, jobs: Collection[Job]) -> list[int]:
        """What a job with a slow trial has not come to: whoever claims it first runs it."""
        late = time.monotonic() - _STEAL_AFTER
        for job in jobs:
            if job.began < late and len(job.grant.trial_ids) > 1:
                for trial_id in job.grant.trial_ids:
                    unit = self.units.get(trial_id)
                    if unit is None or unit.job is not job:
                        continue
                    if self._storage.get_trial(trial_id).state == TrialState.WAITING:
                        return [trial_id]
        return []
