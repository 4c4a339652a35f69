"""A driver that stays: one Spark application for the studies of many rows, one after the other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

PROGRAM = """
import json, os, sys
from pathlib import Path
from optuna_spark import cli
from optuna_spark.session import find_session

if __name__ == "__main__":
    session = find_session()  # the command ends none that it has not begun
    for line in sys.stdin:
        command = json.loads(line)
        os.environ["OPTUNA_STORAGE"] = command["storage"]
        code = cli.main(command["arguments"])
        sys.stdout.flush()
        draft = Path(command["end"] + ".draft")
        draft.write_text(str(code))
        draft.rename(command["end"])
    session.stop()
"""


class WarmDriver:
    """The process, with the studies it is given.

    Args:
        folder: Takes its program and its output.
        env: Its environment, which says where its Spark is.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "program.py"
        program.write_text(PROGRAM)
        self.folder, self.log = folder, folder / "output.log"
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(program)],
                cwd=folder,
                env=env,
                stdout=file,
                stderr=file,
                stdin=subprocess.PIPE,
            )

    def optimize(self, arguments: list[str], storage: str, end: Path) -> WarmStudy:
        """Have it run one command, whose exit code goes to a file."""
        begin = self.log.stat().st_size
        command = {"arguments": arguments, "storage": storage, "end": str(end)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()
        return WarmStudy(self, end, begin)

    def is_free(self) -> bool:
        """Whether it can take another study."""
        return self.process.poll() is None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()


class WarmStudy:
    """One study of a warm driver, seen as if it were a driver of its own."""

    def __init__(self, driver: WarmDriver, end: Path, begin: int) -> None:
        self._driver, self._end, self._begin = driver, end, begin

    @property
    def pid(self) -> int:
        """Process id of the driver."""
        return self._driver.process.pid

    @property
    def output(self) -> str:
        """What has been printed for this study so far."""
        return self._driver.log.read_bytes()[self._begin :].decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send the driver a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End the driver, unless the study has ended."""
        if not self.has_ended():
            self._driver.end()

    def has_ended(self) -> bool:
        """Whether the study's command has ended."""
        return self._end.exists() or self._driver.process.poll() is not None

    def wait(self, seconds: float = 150.0) -> int:
        """Wait for the command's end, and return its exit code."""
        deadline = time.monotonic() + seconds
        while not self.has_ended():
            if time.monotonic() > deadline:
                raise AssertionError(f"the study still runs after {seconds:g} s")
            time.sleep(0.05)
        return int(self._end.read_text())
