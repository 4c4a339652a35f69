"""What a command shows: results, progress and mistakes, and no chatter unless asked for."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import re
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from tqdm.auto import tqdm

from optuna_spark import session
from optuna_spark.exceptions import SparkError

_NARROW = 8  # characters, which the last column of a table has at least


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
        with session.session_ends():
            yield
    except SparkError:
        keep = True
        raise
    finally:
        logger.removeHandler(handler)
        if log is not None and not (keep and log.stat().st_size):
            log.unlink()


def table(rows: Sequence[tuple[str, ...]], width: int | None = None) -> str:
    """Lines with aligned columns, of which the last is folded.

    Args:
        rows: All of the same length.
        width: Characters of a line; None for no limit, as in a file.

    Example:
        >>> print(table([("storage", "TLS", "off: set it up"), ("driver", "Java", "17")], 24))
        storage  TLS   off: set
                       it up
        driver   Java  17
    """
    wide = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    lines = []
    for row in rows:
        begin = "".join(f"{cell:{size}}  " for cell, size in zip(row, wide, strict=False))
        room = None if width is None else max(width - len(begin), _NARROW)
        folded = (
            [row[-1]]
            if room is None
            else textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        )
        lines.append(begin + f"\n{' ' * len(begin)}".join(folded))
    return "\n".join(lines)


def hide_argument(text: str) -> None:
    """Blank an argument of this process in the system's list of processes.

    Everybody on the host can read that list. MySQL's own client does the same with a password.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):  # Linux alone has it
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        begin, end = int(fields[45]), int(fields[46])  # where the kernel reads the arguments
        memory = (ctypes.c_char * (end - begin)).from_address(begin)
        hidden = os.fsencode(text)
        memory.raw = memory.raw.replace(hidden, b"*" * len(hidden))


def without_password(text: str) -> str:
    """A message in which the password of any URL is masked.

    Example:
        >>> without_password("unrecognized arguments: mysql://me:s3cret@host/db")
        'unrecognized arguments: mysql://me:***@host/db'
    """
    return re.sub(r"(://[^:/@\s]*:)\S*@", r"\1***@", text)


def _show_message(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show what a warning says, without the line of this package that gave it."""
    tqdm.write(str(message), file=sys.stderr)


class _AboveTheBar(logging.Handler):
    """Writes messages above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)
