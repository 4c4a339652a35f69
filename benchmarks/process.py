"""A contender's process, as seen from the benchmark: work goes in, results come out."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from benchmarks.contenders import Contender
from benchmarks.environments import ROOT, python_with
from benchmarks.work import Work

_START_SECONDS = 120.0
_END_SECONDS = 60.0


class ContenderFailed(Exception):
    """The contender could not do the work; the message is its own."""


class ContenderProcess:
    """A contender that is ready for work.

    Args:
        contender: Which one.
        slots: How many trials it runs at once.
        url: A database of its own.
        folder: Takes its log, and what it writes beside it.

    Raises:
        ContenderFailed: it did not start.
    """

    def __init__(self, contender: Contender, slots: int, url: str, folder: Path) -> None:
        self.contender, self.url = contender, url
        self.folder = folder / f"{contender.name}-{slots}"  # short: Ray puts sockets below it
        self._answer: dict[str, Any] | None = None
        self.folder.mkdir(parents=True)
        python = python_with(contender.name, contender.packages)
        module = f"benchmarks.contenders.{contender.module}"
        # Workers of Spark and of Ray are to find the objective too.
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder)}
        with (self.folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", module, str(slots)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder,
                env=env,
                start_new_session=True,  # so that all that it starts can be ended with it
            )
        self.versions: dict[str, str] = self.answer(_START_SECONDS)["versions"]

    @property
    def pid(self) -> int:
        """Of its first process, which leads a session of its own."""
        return self._process.pid

    def ask(self, work: Work) -> None:
        """Have some work begun."""
        message = {"work": asdict(work), "url": self.url}
        stdin = _pipe(self._process.stdin)
        stdin.write(json.dumps(message).encode() + b"\n")
        stdin.flush()

    def answer(self, seconds: float) -> dict[str, Any]:
        """Wait for the result.

        Raises:
            ContenderFailed: there was an error, the process ended, or it took too long.
        """
        if not self.is_done(seconds):
            raise ContenderFailed(f"not done within {seconds:.0f} s")
        answer, self._answer = self._answer, None
        assert answer is not None
        return answer

    def is_done(self, seconds: float = 0.0) -> bool:
        """Whether there is a result, or will be within some seconds.

        Raises:
            ContenderFailed: there was an error, or the process ended.
        """
        if self._answer is not None:
            return True
        stdout = _pipe(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return False
        line = stdout.readline()
        if not line:
            code = self._process.wait(_END_SECONDS)
            raise ContenderFailed(f"its process ended with exit code {code}: {self._last_line()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(answer["error"])
        self._answer = answer
        return True

    def end(self) -> None:
        """End the process and all that it started."""
        _pipe(self._process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # nothing of it is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _pipe(self._process.stdout).close()

    def _last_line(self) -> str:
        lines = (self.folder / "log.txt").read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def warm_up(process: ContenderProcess, slots: int) -> None:
    """Have trials run that do not count, so that every slot has its processes."""
    name = f"warm-{time.time_ns()}"
    work = Work(name, str(process.folder / f"{name}.txt"), 2 * slots, slots)
    Path(work.trace).touch()
    process.ask(work)
    process.answer(_START_SECONDS + slots)
