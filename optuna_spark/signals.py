"""How SIGINT and SIGTERM end a run: by an exception, and then no more until it is swept up."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def signals_raise() -> Iterator[Callable[[], None]]:
    """Let SIGINT and SIGTERM end the run by an exception.

    PySpark's own SIGINT handler cancels every job of the application, not this study's alone.

    Yields:
        A function to call now and then: Python loses an exception that a signal raises in the
        middle of a `__del__` or of a callback, and the function raises it again.
    """
    came: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        came.append(number)
        check()

    def check() -> None:
        if came:
            raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + came[0])

    with _handlers({signal.SIGINT: interrupt, signal.SIGTERM: interrupt}):
        yield check


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
