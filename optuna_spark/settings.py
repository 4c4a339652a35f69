"""Frozen values that describe a run: where the study is, and how far the run may go."""

from __future__ import annotations

import numbers
import os
from dataclasses import dataclass, field

from optuna_spark.exceptions import UsageError

STORAGE_VARIABLE = "OPTUNA_STORAGE"
DEFAULT_STORAGE = "sqlite:///optuna-spark.db"
DEFAULT_STORAGE_GRACE = 120.0


@dataclass(frozen=True)
class StorageAddress:
    """Where a study's database is, with all that is needed to log in from any host.

    The password is in `url` alone, and `url` is in no repr.
    """

    url: str = field(repr=False)  # in SQLAlchemy's form, every part escaped
    shown: str  # the same for people: the password is `***`
    authority: str | None = field(default=None, repr=False)  # content of `ssl_ca`, in PEM
    engine_options: tuple[tuple[str, object], ...] = field(default=(), repr=False)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of this host."""
        return self.url.startswith("sqlite")

    def __str__(self) -> str:
        return self.shown


@dataclass(frozen=True)
class Limits:
    """How far one call of `optimize` may go.

    Raises:
        UsageError: a count is negative or not a whole number, a time is not positive, or
            `n_trials` and `total_trials` are both given.

    Example:
        >>> Limits(n_trials=20, n_jobs=4).n_jobs
        4
    """

    n_trials: int | None = None  # new finished trials of this call
    total_trials: int | None = None  # finished trials of the study
    n_jobs: int = -1  # cap on concurrent trials; -1: every task slot
    timeout: float | None = None  # seconds for the call
    trial_timeout: float | None = None  # seconds for one trial
    max_retries: int = 3  # further attempts of a trial whose executor was lost

    def __post_init__(self) -> None:
        for name in ("n_trials", "total_trials", "max_retries"):
            count = getattr(self, name)
            left_out = count is None and name != "max_retries"
            if not left_out and not (_is_whole(count) and count >= 0):
                raise UsageError(f"`{name}` is {count!r}: give a whole number of 0 or more.")
        if not _is_whole(self.n_jobs) or (self.n_jobs < 1 and self.n_jobs != -1):
            raise UsageError(
                f"`n_jobs` is {self.n_jobs!r}: give a whole number of 1 or more, "
                "or -1 for every task slot."
            )
        for name in ("timeout", "trial_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not (_is_real(seconds) and seconds > 0):
                raise UsageError(f"`{name}` is {seconds!r}: give seconds, more than 0.")
        if self.n_trials is not None and self.total_trials is not None:
            raise UsageError(
                "`n_trials` and `total_trials` are both given: the first counts the new trials, "
                "the second those of the whole study; leave one out."
            )


def storage_grace() -> float:
    """Seconds for which a storage may be away, from `OPTUNA_SPARK_STORAGE_GRACE`.

    Raises:
        UsageError: the variable is no number of seconds, or negative.
    """
    text = os.environ.get("OPTUNA_SPARK_STORAGE_GRACE", "")
    try:
        grace = float(text) if text else DEFAULT_STORAGE_GRACE
    except ValueError:
        grace = -1.0
    if not grace >= 0:  # NaN too
        raise UsageError(f"OPTUNA_SPARK_STORAGE_GRACE is {text!r}: give seconds, 0 or more.")
    return grace


def _is_whole(count: object) -> bool:
    return isinstance(count, numbers.Integral) and not isinstance(count, bool)


def _is_real(number: object) -> bool:
    return isinstance(number, numbers.Real) and not isinstance(number, bool)
