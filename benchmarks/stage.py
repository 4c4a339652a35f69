"""Where contenders do their work: a server, their processes, and what was seen of each run."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import server as database
from benchmarks import trace, usage
from benchmarks.contenders import CONTENDERS
from benchmarks.process import ContenderFailed, ContenderProcess, warm_up
from benchmarks.work import Work
from tests.servers import find_server, start_mysql

_LIMIT = 900.0  # seconds for one piece of work
_GLANCE = 0.02  # seconds between two looks at the trace


@dataclass(frozen=True)
class Outcome:
    """One piece of work that was done."""

    work: Work
    url: str
    began: float  # seconds since the epoch
    ended: float
    lines: list[trace.Line]
    counted: dict[str, float]  # for each trial of the warm part, if that was asked for

    @property
    def wall(self) -> float:
        """Seconds that it took."""
        return self.ended - self.began

    def seconds_each(self, skip: int) -> float:
        """Seconds from one trial's end to the next, after some trials."""
        lines = self.lines[skip - 1 :]
        return (lines[-1].ended - lines[0].ended) / (len(lines) - 1)


class Stage:
    """Starts the server, and contenders as they are needed; ends them all.

    Args:
        folder: Takes all files, and is deleted at the end.
        slots: How many trials run at once where a measure does not say.
    """

    def __init__(self, folder: Path, slots: int) -> None:
        self.slots = slots
        self.versions: dict[str, dict[str, str]] = {}
        self._folder = folder
        self._processes: dict[tuple[str, int], ContenderProcess] = {}
        self._works = 0
        self.server = start_mysql(folder, options=["--max-connections=600"])
        self.server_version = find_server("mysql").version

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *error: object) -> None:
        self.end_processes()
        self.server.stop()
        shutil.rmtree(self._folder)

    def work(self, name: str, **settings: Any) -> Work:
        """Make a piece of work with a study and a trace of its own."""
        self._works += 1
        study = f"{name}-{self._works}"
        path = self._folder / f"{study}.txt"
        path.touch()
        settings.setdefault("slots", self.slots)
        return Work(study, str(path), **settings)

    def run(
        self, name: str, work: Work, *, counted: int = 0, history: int = 0, limit: float = _LIMIT
    ) -> Outcome:
        """Have a contender do some work.

        Args:
            name: The contender.
            work: What it does.
            counted: Count the server's statements from the trial of this number to the end.
            history: Finished trials that the study has before.
            limit: Seconds that it may take.

        Raises:
            ContenderFailed: it could not; its process is ended.
        """
        process = self._process(name, work.slots)
        try:
            if history:
                self._have_history(process, work, history)
            process.ask(work)
            counts = self._count(process, work, counted) if counted else {}
            answer = process.answer(limit)
        except ContenderFailed:
            del self._processes[name, work.slots]
            process.end()
            raise
        lines = trace.read(work.trace)
        if len(lines) < work.trials:
            raise ContenderFailed(f"{len(lines)} of {work.trials} trials ran")
        return Outcome(work, process.url, answer["began"], answer["ended"], lines, counts)

    def ready(self, name: str, slots: int) -> None:
        """Have a contender's process started and warm."""
        self._process(name, slots)

    def cpu_seconds(self, name: str, slots: int) -> usage.Seconds:
        """CPU time that a contender and the server have taken so far, by what took it."""
        seconds = usage.of_session(self._process(name, slots).pid)
        return {**seconds, "server": usage.of_process(self.server.pid)}

    def end_processes(self) -> None:
        """End all contenders."""
        while self._processes:
            self._processes.popitem()[1].end()

    def _process(self, name: str, slots: int) -> ContenderProcess:
        if (name, slots) not in self._processes:
            contender = CONTENDERS[name]
            # PyMySQL for all: a client in C that some have and some lack would decide.
            url = self.server.create_database().replace("mysql://", "mysql+pymysql://", 1)
            process = ContenderProcess(contender, slots, url, self._folder)
            self.versions[name] = process.versions
            self._processes[name, slots] = process
            warm_up(process, slots)
        return self._processes[name, slots]

    def _have_history(self, process: ContenderProcess, work: Work, history: int) -> None:
        """Have the contender make the study, and fill it."""
        begin = self.work("empty", trials=0, slots=work.slots)
        process.ask(Work(work.study, begin.trace, 0, work.slots))
        process.answer(_LIMIT)
        database.add_finished_trials(self.server, process.url, work.study, history)

    def _count(self, process: ContenderProcess, work: Work, first: int) -> dict[str, float]:
        counters = database.Counters(self.server)
        last = work.trials - work.slots  # the end of a run is not what a warm trial costs
        before, began = self._when(process, work, first, counters)
        after, ended = self._when(process, work, last, counters)
        return database.each(before, after, ended - began)

    def _when(
        self, process: ContenderProcess, work: Work, trials: int, counters: database.Counters
    ) -> tuple[dict[str, float], float]:
        """The counters once so many trials have run, and how many had by then."""
        deadline = time.monotonic() + _LIMIT
        while (ran := trace.count(work.trace)) < trials:
            if process.is_done(_GLANCE) or time.monotonic() > deadline:
                raise ContenderFailed(f"{ran} of {work.trials} trials ran")
        found = counters.read()
        return found, (ran + trace.count(work.trace)) / 2
