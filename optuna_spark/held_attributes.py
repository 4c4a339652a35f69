"""System attributes of a trial that wait for its next write, to share its transaction."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

_logger = logging.getLogger(__name__)

Attribute = tuple[int, str, str]  # trial, key, value in JSON


class HeldAttributes:
    """System attributes that are not written yet.

    A sampler stores what it has chosen just before the objective is told of it, and a task the
    reason of a failure just before the state: each would be a transaction of its own.

    Args:
        write: Writes what is held; called where no other write comes in time.
    """

    def __init__(self, write: Callable[[], None]) -> None:
        self.seconds = 0.0  # that an attribute may wait; 0: none does
        self._write = write
        self._held: dict[tuple[int, str], str] = {}
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()  # of the timer

    def __bool__(self) -> bool:
        return bool(self._held)

    def take(self, trial_id: int, key: str, text: str) -> bool:
        """Hold an attribute, or say that it must be written now."""
        if not self.seconds:
            return False
        self._held[trial_id, key] = text
        with self._lock:
            if self._timer is None:
                self._start_timer()
        return True

    @contextlib.contextmanager
    def handed_out(self) -> Iterator[list[Attribute]]:
        """Give what is held to a transaction; where that fails it is held on."""
        self._wait_for_timer()
        handed = dict(self._held)
        yield [(trial_id, key, text) for (trial_id, key), text in handed.items()]
        for place, text in handed.items():
            if self._held.get(place) is text:  # another thread may have given it a new value
                del self._held[place]

    def drop(self) -> None:
        """Forget what is held: its trial is over."""
        self._wait_for_timer()
        self._held.clear()

    def _wait_for_timer(self) -> None:
        # One writer at a time, or the trial might be finished before what is held is written.
        with self._lock:
            timer = self._timer
            if timer is None or timer is threading.current_thread():
                return
            self._timer = None
        timer.cancel()
        timer.join()

    def _start_timer(self) -> None:
        self._timer = threading.Timer(self.seconds, self._time_out)
        self._timer.daemon = True
        self._timer.start()

    def _time_out(self) -> None:
        try:
            self._write()
        except Exception as error:  # it is held on, and the trial's next write meets the same
            _logger.warning("An attribute of a trial could not be written yet: %s", error)
        with self._lock:
            if self._timer is threading.current_thread():
                self._timer = None
                if self._held:  # since then
                    self._start_timer()
