"""What is measured: a function each, which has one contender do some work once."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import server as database
from benchmarks.contenders import BARE, CONTENDERS, OURS
from benchmarks.environments import ROOT
from benchmarks.process import ContenderFailed
from benchmarks.sizes import Sizes
from benchmarks.stage import Outcome, Stage

Numbers = dict[str, float]
_SHOWN = {"Questions": "statements", "Com_commit": "commits", "Com_rollback": "rollbacks"}
_ON_SPARK = (OURS, "joblibspark", "mlflow", "hyperopt")
_WITH_DATABASE = tuple(name for name, each in CONTENDERS.items() if each.database)
_MB_EACH = 60  # memory of a trial's processes
_QUALITY_SLOTS = 8
_QUALITY = {"branin": 2, "rosenbrock": 4, "rastrigin": 4}  # parameters of each function


@dataclass(frozen=True)
class Measure:
    """One row of the table of aims.

    The first of the numbers that `take` returns is the one for the plot.
    """

    name: str
    title: str
    aim: str
    take: Callable[[Stage, str, Sizes], Numbers]
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    long: bool = False  # only where it is asked for


def second(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """Trials of a second."""
    work = stage.work("second", trials=sizes.second_trials, seconds=1.0)
    return _against_ideal(stage.run(name, work))


def nothing(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """Trials that do nothing."""
    slow = CONTENDERS[name].slow
    work = stage.work("nothing", trials=sizes.slow_trials if slow else sizes.nothing_trials)
    done = stage.run(name, work)
    return {"trials/s": len(done.lines) / done.wall, "trials": len(done.lines)}


def tail(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """Durations with a heavy tail."""
    work = stage.work("tail", trials=sizes.tail_trials, seconds=sizes.tail_seconds, tail=True)
    return _against_ideal(stage.run(name, work))


def statements(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """What the server counts for one warm trial."""
    numbers: Numbers = {}
    for parameters, reports in ((2, 0), (0, 0), (20, 0), (2, 5)):
        trials = sizes.slow_counted if CONTENDERS[name].slow else sizes.counted_trials
        work = stage.work("count", trials=trials, parameters=parameters, reports=reports)
        counted = stage.run(name, work, counted=2 * stage.slots + 4).counted
        label = f"{parameters} parameters" + (f", {reports} reports" if reports else "")
        for counter, value in counted.items():
            numbers[f"{_SHOWN.get(counter, counter)} ({label})"] = value
    return numbers


def growth(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """The same in a study of many finished trials, with a sampler that reads none of them."""
    few, many = sizes.history
    numbers: Numbers = {}
    for history in (few, many):
        work = stage.work("growth", trials=sizes.growth_trials, sampler="random")
        first = 4 * stage.slots + 4
        done = stage.run(name, work, counted=first, history=history)
        numbers[f"ms a trial at {history}"] = 1000 * stage.slots * done.seconds_each(first)
        numbers[f"statements at {history}"] = done.counted["Questions"]
    times = numbers[f"ms a trial at {many}"] / numbers[f"ms a trial at {few}"]
    counts = numbers[f"statements at {many}"] / numbers[f"statements at {few}"]
    return {"time, ratio": times, "statements, ratio": counts, **numbers}


def captured(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """An objective that captures much, against one that captures nothing."""
    plain = stage.work("plain", trials=sizes.captured_trials, seconds=0.1)
    heavy = stage.work(
        "captured", trials=sizes.captured_trials, seconds=0.1, captured_mb=sizes.captured_mb
    )
    light, loaded = stage.run(name, plain), stage.run(name, heavy)
    after = stage.slots
    return {
        "ratio after first trials": loaded.seconds_each(after) / light.seconds_each(after),
        "ratio of all": loaded.wall / light.wall,
        "s captured": loaded.wall,
        "s plain": light.wall,
    }


def start(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """From the call to the first line of the first trial, in a warm Spark session."""
    work = stage.work("start", trials=stage.slots)
    done = stage.run(name, work)
    return {"s": min(line.began for line in done.lines) - done.began, "s to the end": done.wall}


def wide(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """Very many slots at once; nothing else has processes meanwhile."""
    stage.end_processes()
    slots, need = sizes.wide_slots, sizes.wide_slots * _MB_EACH
    free = _free_memory_mb()
    if free < need:
        raise ContenderFailed(f"{slots} slots need {need} MB of memory, and {free} MB are free")
    work = stage.work(
        "wide", trials=sizes.wide_trials, seconds=sizes.wide_seconds, slots=slots, parameters=2
    )
    stage.ready(name, slots)
    database.forget_peak(stage.server)
    before = stage.cpu_seconds(name, slots)
    done = stage.run(name, work)
    after = stage.cpu_seconds(name, slots)
    complete, others = database.complete_trials(stage.server, done.url, work.study)
    return {
        **_against_ideal(done),
        "lost": len(done.lines) - complete,
        "not complete": others,
        "peak connections": database.peak_connections(stage.server),
        "slots": slots,
        **{
            f"ms of CPU for each trial: {what}": 1000 * (seconds - before[what]) / work.trials
            for what, seconds in after.items()
        },
    }


def driver(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """The driver alone: its jobs sleep in the JVM."""
    size = map(str, (sizes.driver_slots, sizes.driver_trials, sizes.wide_seconds))
    command = [sys.executable, "-m", "benchmarks.simulation", *size]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise ContenderFailed(done.stderr.strip().splitlines()[-1])
    numbers: Numbers = json.loads(done.stdout)
    return {**numbers, "slots": sizes.driver_slots}


def quality(stage: Stage, name: str, sizes: Sizes) -> Numbers:
    """The best value found, as the median of several studies."""
    numbers: Numbers = {}
    for function, parameters in _QUALITY.items():
        best = []
        for _ in range(sizes.seeds):
            work = stage.work(
                function,
                trials=sizes.quality_trials,
                slots=_QUALITY_SLOTS,
                parameters=parameters,
                function=function,
            )
            done = stage.run(name, work)
            best.append(database.best_value(stage.server, done.url, work.study))
        numbers[function] = statistics.median(best)
        numbers[f"{function}, quartile 1"] = _quantile(best, 0.25)
        numbers[f"{function}, quartile 3"] = _quantile(best, 0.75)
    return numbers


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            "second",
            "Trials of 1 s: ideal time over wall time",
            "bare Optuna's, and 0.95",
            second,
        ),
        Measure("nothing", "Trials that do nothing: trials per second", "bare Optuna's", nothing),
        Measure("tail", "Heavy tail (Pareto 1.5): ideal time over wall time", "0.90", tail),
        Measure(
            "statements",
            "One warm trial, TPE: what the server counts",
            "25, and 5 commits",
            statements,
            _WITH_DATABASE,
        ),
        Measure(
            "growth",
            "10,000 finished trials against 100",
            "1.2",
            growth,
            (OURS, BARE, "joblibspark"),
        ),
        Measure("captured", "100 MB captured, against nothing", "1.1", captured, _ON_SPARK),
        Measure("start", "Start to first trial, warm Spark session", "2 s", start, _ON_SPARK),
        Measure(
            "wide", "256 slots at once, trials of 10 s", "0.90", wide, (OURS, BARE), long=True
        ),
        Measure("driver", "The driver alone, 4,096 slots", "none", driver, (OURS,), long=True),
        Measure(
            "quality",
            "Best value of 200 trials on 8 slots",
            "bare Optuna's",
            quality,
            (OURS, BARE),
            long=True,
        ),
    )
}


def _against_ideal(done: Outcome) -> Numbers:
    return {
        "ideal/wall": done.work.ideal() / done.wall,
        "wall s": done.wall,
        "ideal s": done.work.ideal(),
        "trials": len(done.lines),
    }


def _quantile(values: list[float], fraction: float) -> float:
    return sorted(values)[math.floor(fraction * (len(values) - 1) + 0.5)]


def _free_memory_mb() -> int:
    with open("/proc/meminfo") as file:
        found = next(line for line in file if line.startswith("MemAvailable"))
    return int(found.split()[1]) // 1024
