"""A file with a line for each trial that has run: when, and in which process.

Each contender's objective writes it, so that all are timed in the same way.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """One trial that has run."""

    number: int
    began: float  # seconds since the epoch
    ended: float
    process: int


def write(path: str, line: Line) -> None:
    """Add a trial."""
    text = f"{line.number} {line.began:.6f} {line.ended:.6f} {line.process}\n"
    # One write to a file that is open for appending: lines of several processes do not mix.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def read(path: str | Path) -> list[Line]:
    """Return the trials in the order in which they ended."""
    lines = []
    for text in Path(path).read_text().splitlines():
        number, began, ended, process = text.split()
        lines.append(Line(int(number), float(began), float(ended), int(process)))
    return sorted(lines, key=lambda line: line.ended)


def count(path: str | Path) -> int:
    """Return how many trials have ended."""
    return Path(path).read_bytes().count(b"\n")


def next_number(path: str) -> int:
    """Number trials from 0, for those whose objective is not told its trial's number."""
    with open(f"{path}.numbers", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = file.seek(0, os.SEEK_END)
        file.write(b".")
    return number
