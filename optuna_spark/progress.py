"""The progress line: finished, running and failed trials, and the best value."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState
from tqdm.auto import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Tally:
    """Counts of one run, and the best value of the study.

    Args:
        directions: The study's.
        best: The best value so far, of a study of one objective.
    """

    def __init__(self, directions: Sequence[StudyDirection], best: float | None) -> None:
        self._single = directions[0] if len(directions) == 1 else None
        self.best = best
        self.finished = self.complete = self.pruned = self.failed = 0

    def add(self, state: TrialState, values: Sequence[float] | None) -> None:
        """Count a finished trial."""
        self.finished += 1
        self.complete += state == TrialState.COMPLETE
        self.pruned += state == TrialState.PRUNED
        self.failed += state == TrialState.FAIL
        if state == TrialState.COMPLETE and self._single is not None and values:
            value = values[0]
            better = min if self._single == StudyDirection.MINIMIZE else max
            self.best = value if self.best is None else better(self.best, value)


class Progress:
    """A bar in the terminal or the notebook.

    Args:
        total: Trials at the end; None shows a count without a bar.
        done: Trials finished before.
        shown: False for no bar at all.
    """

    def __init__(self, total: int | None, done: int, *, shown: bool) -> None:
        self._bar: Any = None
        self._live = False
        if shown:
            # In a log file a line now and then is enough.
            self._live = sys.stderr.isatty() or "ipykernel" in sys.modules
            self._bar = tqdm(
                total=total,
                initial=done,
                unit="trial",
                dynamic_ncols=True,
                mininterval=0.1 if self._live else _SECONDS_BETWEEN_LINES,
            )

    def show(self, tally: Tally, running: int, *, new: int = 0) -> None:
        """Show the counts after `new` more trials have finished."""
        if self._bar is None:
            return
        parts = [f"running {running}", f"failed {tally.failed}"]
        if tally.pruned:
            parts.append(f"pruned {tally.pruned}")
        if tally.best is not None:
            parts.append(f"best {tally.best:.6g}")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(new)
        if self._live:
            self._bar.refresh()

    def show_wait(self, seconds: float) -> None:
        """Say that the database is away, and for how long."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"waiting for the database, {seconds:.0f} s", refresh=False)
            if self._live:
                self._bar.refresh()

    def close(self) -> None:
        """Leave the last state of the bar on the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
