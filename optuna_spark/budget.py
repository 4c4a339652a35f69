"""Decisions of a run, as functions of plain values.

The budget is the number of trials still to run, a grant is what one job may run of it, and a job
is Spark's: it costs up to 0.3 s, so that short trials share one.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable

GRANT_SECONDS = 3.0  # work that one job carries, where trials are shorter than that
_ENDLESS_GRANT_SECONDS = 1.0  # the same where a timeout will end the run, and leave unbegun trials
MAX_GRANT = 64  # trials of one job
_JOBS_AHEAD = 8  # jobs that wait for a task slot


class Verdict(enum.Enum):
    """What becomes of a trial whose task was lost."""

    AGAIN = "it starts once more"
    GIVE_UP = "it has failed too often"
    TIMED_OUT = "it took longer than `trial_timeout`"


def after_loss(attempts: int, max_retries: int, *, timed_out: bool) -> Verdict:
    """Decide about a trial that was RUNNING when its task was lost.

    Args:
        attempts: How often it has begun.
        max_retries: How often it may begin again.
        timed_out: The task was ended because the trial took too long.

    Example:
        >>> after_loss(4, 3, timed_out=False)
        <Verdict.GIVE_UP: 'it has failed too often'>
    """
    if timed_out:
        return Verdict.TIMED_OUT
    return Verdict.AGAIN if attempts <= max_retries else Verdict.GIVE_UP


def remaining(limit: int, finished: int, in_hand: int) -> int:
    """Trials that may still be taken.

    Args:
        limit: Finished trials at the end: of the call (`n_trials`) or the study (`total_trials`).
        finished: Those that there are.
        in_hand: Trials begun or about to begin that will be finished.

    Example:
        >>> remaining(10, 4, 2)
        4
    """
    return max(0, limit - finished - in_hand)


def grant_size(
    left: int | None, slots: int, seconds_per_trial: float | None, *, alone: bool
) -> int:
    """How many trials the next job carries.

    Trials share a job as long as that is some seconds of work, fewer towards the end (guided
    self-scheduling), so that all slots finish together. More would save little, and leave more
    trials created and not begun where a run is interrupted.

    Args:
        left: Trials that may still be created, None for no limit.
        slots: Trials that run at once.
        seconds_per_trial: Mean of those finished, None before the first.
        alone: Each trial needs a job of its own: the driver acts between two of them.

    Example:
        >>> grant_size(400, 4, 0.1, alone=False)
        30
        >>> grant_size(6, 4, 0.1, alone=False)
        1
    """
    if left == 0:
        return 0
    if alone or not seconds_per_trial:
        return 1
    work = _ENDLESS_GRANT_SECONDS if left is None else GRANT_SECONDS
    size = min(MAX_GRANT, math.floor(work / seconds_per_trial))
    if left is not None:
        size = min(size, math.ceil(left / (2 * slots)))
    return max(1, size)


def to_create(left: int | None, size: int, jobs: int, slots: int, *, contested: bool) -> int:
    """How many trials are created at once, where there are too few for the next job.

    One transaction costs as much for many trials as for one.

    Args:
        left: Trials that are in no job yet, None for no limit.
        size: Trials of the next job.
        jobs: Jobs that start now.
        slots: Trials that run at once.
        contested: Other drivers create trials of the same budget, and may be about to create the
            last ones: then only what the next job runs is created towards the end.

    Example:
        >>> to_create(200, 1, 4, 4, contested=True)
        4
        >>> to_create(6, 1, 2, 4, contested=True)
        1
    """
    if left is None:
        return size * jobs
    return min(left, size if contested and left < 2 * slots else size * jobs)


def jobs_wanted(n_jobs: int, slots: int, *, grows: bool) -> int:
    """How many jobs shall be in flight.

    Args:
        n_jobs: The user's cap; -1 for every task slot.
        slots: Tasks that the executors known by now run at once.
        grows: Spark adds executors while jobs wait, so that some must.

    Example:
        >>> jobs_wanted(-1, 32, grows=False)
        40
    """
    if n_jobs > 0:
        return n_jobs
    # A slot that is free takes a job that waits, and need not wait for the driver to make one.
    return max(1, 2 * slots if grows else slots + min(slots, _JOBS_AHEAD))


def mean(durations: Iterable[float]) -> float | None:
    """Mean of some seconds, None of none."""
    known = list(durations)
    return sum(known) / len(known) if known else None
