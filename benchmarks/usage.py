"""CPU time of processes, as Linux counts it."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")

Seconds = dict[str, float]


def of_process(pid: int) -> float:
    """Seconds of CPU that a process has taken."""
    fields = _fields(Path("/proc", str(pid), "stat"))
    return _seconds(fields[11:13])


def of_session(leader: int) -> Seconds:
    """Seconds of CPU that the processes of a session have taken, those included that have ended.

    Args:
        leader: Its first process.

    Returns:
        Seconds of the leader, of Java, and of all others.
    """
    seconds = {"driver": 0.0, "JVM": 0.0, "trials' processes": 0.0}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = _fields(folder / "stat")
            command = (folder / "cmdline").read_bytes().split(b"\0")[0]
        except OSError:  # it has just ended
            continue
        if int(fields[3]) != leader:
            continue
        kind = "driver" if int(folder.name) == leader else "trials' processes"
        if command.endswith(b"java"):
            kind = "JVM"
        seconds[kind] += _seconds(fields[11:13])
        seconds["trials' processes"] += _seconds(fields[13:15])  # of children that have ended
    return seconds


def _fields(stat: Path) -> list[str]:
    """What follows the program's name, which may hold anything."""
    return stat.read_text().rpartition(")")[2].split()


def _seconds(ticks: list[str]) -> float:
    return sum(map(int, ticks)) / _TICKS
