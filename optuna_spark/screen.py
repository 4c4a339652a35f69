"""What a command shows: results, progress and mistakes, and no chatter unless asked for."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from tqdm.auto import tqdm

from optuna_spark import session
from optuna_spark.exceptions import SparkError


@contextlib.contextmanager
def quiet_screen(*, verbose: bool = False) -> Iterator[None]:
    """Keep Optuna's, Spark's and Java's messages off the screen, in a command's main part.

    The Spark session that is made inside is stopped at the end. Its messages go to a file, which
    is kept where Spark failed.

    Args:
        verbose: Show everything after all.

    Example:
        >>> with quiet_screen():  # doctest: +SKIP
        ...     study.optimize(objective, n_trials=10, show_progress_bar=True)
    """
    handler = _AboveTheBar()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("optuna_spark")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    log = None
    if not verbose:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for category in (FutureWarning, DeprecationWarning, optuna.exceptions.ExperimentalWarning):
            warnings.simplefilter("ignore", category)
        number, name = tempfile.mkstemp(prefix="optuna-spark-", suffix=".log")
        os.close(number)
        log = Path(name)
        warnings.showwarning = _show_message
    session.write_jvm_output_to(log)
    keep = False
    try:
        yield
    except SparkError:
        keep = True
        raise
    finally:
        session.stop_session()
        logger.removeHandler(handler)
        if log is not None and not (keep and log.stat().st_size):
            log.unlink()


def _show_message(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show what a warning says, without the line of this package that gave it."""
    tqdm.write(str(message), file=sys.stderr)


class _AboveTheBar(logging.Handler):
    """Writes messages above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
