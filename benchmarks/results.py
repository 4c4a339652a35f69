"""What was measured, in a file that further runs add to."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.stage import Stage


@dataclass
class Row:
    """One contender in one measure: the numbers of each turn, or why there are none."""

    taken: list[dict[str, float]] = field(default_factory=list)
    error: str | None = None

    def median(self, name: str) -> float | None:
        """The median of a number over the turns, None where there is none."""
        values = [numbers[name] for numbers in self.taken if name in numbers]
        return statistics.median(values) if values else None


@dataclass
class Measured:
    """One measure: when, on what, with which sizes, and a row for each contender."""

    date: str
    machine: dict[str, Any]
    sizes: dict[str, Any]
    versions: dict[str, dict[str, str]]
    rows: dict[str, Row]


@dataclass
class Results:
    """All measures, each as it was taken last."""

    measures: dict[str, Measured] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file; there are no results where there is none."""
        if not path.exists():
            return cls()
        found = json.loads(path.read_text())
        for entry in found.values():
            entry["rows"] = {name: Row(**row) for name, row in entry["rows"].items()}
        return cls({name: Measured(**entry) for name, entry in found.items()})

    def save(self, path: Path) -> None:
        """Write a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {name: asdict(measured) for name, measured in self.measures.items()}
        path.write_text(json.dumps(found, indent=1) + "\n")

    def add(self, name: str, rows: dict[str, Row], sizes: dict[str, Any], stage: Stage) -> None:
        """Put in a measure that was taken just now."""
        date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        versions = {each: stage.versions[each] for each in rows if each in stage.versions}
        self.measures[name] = Measured(date, machine(stage), sizes, versions, rows)


def machine(stage: Stage) -> dict[str, Any]:
    """What ran it; no name of the host."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "server": f"MySQL {stage.server_version}",
        "slots": stage.slots,
    }
