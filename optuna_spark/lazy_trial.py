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

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_whole(self), name)

    def __eq__(self, other: Any) -> bool:
        if isinstance(other, _LazyTrial):
            _whole(other)
        return bool(_whole(self) == other)

    def __hash__(self) -> int:
        return hash(_whole(self))

    def __repr__(self) -> str:
        return repr(_whole(self))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _whole(self).__reduce_ex__(protocol)


def _whole(trial: FrozenTrial) -> FrozenTrial:
    """The same trial with all that it has."""
    # No method: another thread may have made an ordinary trial of it in the meantime.
    rest = trial.__dict__.get("_rest")
    if rest is not None:
        trial.__dict__.update(rest.of(trial._trial_id).__dict__)
        trial.__dict__.pop("_rest", None)
        trial.__class__ = FrozenTrial
    return trial
