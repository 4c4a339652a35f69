"""An unfinished trial in a list: most of it is read from the database only if somebody asks.

With many task slots most of what has changed since the last list are trials that run, and samplers
look at hardly more of them than that they do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from optuna.trial import FrozenTrial, TrialState

Read = Callable[[list[int]], list[FrozenTrial]]


class Rest:
    """What a list has not read of its unfinished trials; read for all of them at once.

    Args:
        read: Returns trials as they are now, by their ids.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._trials: dict[int, FrozenTrial] | None = None
        self._asked: list[int] = []

    def trial(self, number: int, state: TrialState, trial_id: int) -> FrozenTrial:
        """An unfinished trial of this list."""
        self._asked.append(trial_id)
        return _LazyTrial(number, state, trial_id, self)

    def of(self, trial_id: int) -> FrozenTrial:
        """The whole trial.

        Raises:
            KeyError: it has been deleted.
        """
        with self._lock:
            if self._trials is None:
                self._trials = {trial._trial_id: trial for trial in self._read(self._asked)}
            return self._trials[trial_id]


class _LazyTrial(FrozenTrial):
    """Becomes an ordinary trial as soon as more is asked than its number and state."""

    def __init__(self, number: int, state: TrialState, trial_id: int, rest: Rest) -> None:
        self._number, self.state, self._trial_id = number, state, trial_id
        self._rest: Rest | None = rest

    def _whole(self) -> FrozenTrial:
        rest = self.__dict__.get("_rest")
        if rest is not None:  # else another thread was quicker
            self.__dict__.update(rest.of(self._trial_id).__dict__)
            self.__dict__.pop("_rest", None)
            self.__class__ = FrozenTrial  # type: ignore[assignment]
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._whole(), name)

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, _LazyTrial):
            other._whole()
        return bool(self._whole() == other)

    def __hash__(self) -> int:
        return hash(self._whole())

    def __repr__(self) -> str:
        return repr(self._whole())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._whole().__reduce_ex__(protocol)
