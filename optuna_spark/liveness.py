"""Which runs are alive: each driver gives a pulse, and looks for that of others.

A pulse is a study attribute. Its age is taken by the database server's clock alone, so that hosts
may disagree about the time; a driver of this host is seen to be dead at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from optuna_spark.patient_storage import server_seconds
from optuna_spark.settings import storage_grace
from optuna_spark.storage import patience

_logger = logging.getLogger(__name__)

PULSE = "optuna_spark:pulse:"  # study attribute, with the run's name behind it
PULSE_SECONDS = 10.0

_LAST_PATIENCE = 5.0  # seconds for a database that is away when the run has failed anyway


class Pulse:
    """The sign of life of a run, from its beginning to its end.

    Args:
        storage: The driver's storage.
        study_id: The study's number in it.
        run_id: The run's name.

    Raises:
        StorageError: when it begins, if the storage takes no writes.

    Example:
        >>> with Pulse(storage, 1, "1f0c9a"):  # doctest: +SKIP
        ...     run_trials()
    """

    def __init__(self, storage: BaseStorage, study_id: int, run_id: str) -> None:
        self._storage, self._study_id, self._run_id = storage, study_id, run_id
        self._beat = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="optuna-spark-pulse", daemon=True)

    def __enter__(self) -> Pulse:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._over.set()
        if kind is None:
            self._thread.join()
            self._write(ended=True)
            return
        try:
            # The thread, too, may be waiting for a database that is away.
            with patience(self._storage, _LAST_PATIENCE):
                self._thread.join()
                self._write(ended=True)
        except Exception as second:  # the first error is the one to raise
            _logger.warning("The end of the run could not be written: %s", second)

    def _run(self) -> None:
        while not self._over.wait(PULSE_SECONDS):
            try:
                self._write()
            except Exception as error:  # one beat that is lost must not be the last
                _logger.warning("A sign of life could not be written: %s", error)

    def _write(self, *, ended: bool = False) -> None:
        self._beat += 1
        self._storage.set_study_system_attr(
            self._study_id,
            PULSE + self._run_id,
            {
                "beat": self._beat,
                "at": server_seconds(self._storage),
                # A driver that waits for the database gives up after the grace period.
                "dead_after": storage_grace() + 3 * PULSE_SECONDS,
                "process": this_process(),
                "ended": ended,
            },
        )


class Watch:
    """Finds the runs of a study that are over."""

    def __init__(self) -> None:
        self._over: set[str] = set()
        self._seen: dict[str, tuple[int | None, float]] = {}  # beat, and when it was given

    def over(
        self, run_id: str, attributes: Mapping[str, Any], clock: float | None, now: float
    ) -> bool:
        """Whether a run has ended or its driver is dead.

        Args:
            run_id: The run's name.
            attributes: The study's system attributes.
            clock: Seconds by the database server's clock; None where it is not known.
            now: Seconds by this process's monotonic clock.

        Example:
            >>> Watch().over("r", {"optuna_spark:pulse:r": {"ended": True}}, None, 0.0)
            True
        """
        if run_id in self._over:
            return True
        pulse = attributes.get(PULSE + run_id) or {}
        if pulse.get("ended") or process_is_gone(pulse.get("process")):
            self._over.add(run_id)
            return True
        beat, given = self._seen.get(run_id, (None, now))
        if run_id not in self._seen or beat != pulse.get("beat"):
            at = pulse.get("at")
            age = 0.0 if clock is None or at is None else max(0.0, clock - at)
            given = now - age
            self._seen[run_id] = pulse.get("beat"), given
        if now - given > pulse.get("dead_after", storage_grace() + 3 * PULSE_SECONDS):
            self._over.add(run_id)
            return True
        return False


def this_process() -> dict[str, Any]:
    """What tells this process from all others, of other hosts and of other days too."""
    host, pid = socket.gethostname(), os.getpid()
    return {"host": host, "pid": pid, "system": _system(), "started": _started(pid)}


def process_is_gone(process: Mapping[str, Any] | None) -> bool:
    """Whether a process ran on this host and does not any more; False where that is not known."""
    if not process or process["system"] is None or process["system"] != _system():
        return False
    return bool(_started(process["pid"]) != process["started"])


def _system() -> str | None:
    """This boot of this host, and in it this container."""
    with contextlib.suppress(OSError):  # not Linux
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return None


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks; None where there is none, or a dead one."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    return None
