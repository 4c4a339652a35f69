"""How SIGINT and SIGTERM end a run: by an exception, and then no more until it is swept up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run by an exception.

    PySpark's own SIGINT handler cancels every job of the application, not this study's alone.
    """
    with _handlers({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: _terminate}):
        yield


@contextlib.contextmanager
def signals_wait() -> Iterator[None]:
    """Let nothing interrupt the sweep, which is bounded in time."""
    with _handlers({signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}):
        yield


@contextlib.contextmanager
def _handlers(wanted: dict[signal.Signals, Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)
