"""The results as a page: ratios first, then the numbers behind them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence

from benchmarks.contenders import BARE, CONTENDERS
from benchmarks.environments import ROOT, python_with
from benchmarks.measures import MEASURES
from benchmarks.results import Measured, Results, Row

PAGE = ROOT / "docs" / "benchmarks.md"
NUMBERS = PAGE.with_suffix(".json")
PLOT = PAGE.with_suffix(".svg")

_INTRODUCTION = """\
# Benchmarks

How fast studies run, against others that do the same work in turn, on one machine, in one run.
`scripts/bench.sh` measures and `scripts/bench.sh --report` writes this page;
[all numbers](benchmarks.json).

*Bare Optuna* is as many long-lived processes of `study.optimize` as there are slots, sharing the
budget through memory: the floor that Spark must not raise. Its processes are started and connected
before the time begins, and Spark sessions and Ray are warm. All but Hyperopt keep their trials in
the same MySQL server, through PyMySQL. Each number is the median of its turns; a contender that
takes more than a minute for its first turn has no other.
"""
_OUTRO = """\
Statements are what the server counts (`Questions`), between two moments of a run whose processes
are warm, for each trial that ended meanwhile. Ideal time is the sum of the trials' durations over
the slots, or the longest trial where that is more.
"""
_NOTES = {
    "second": """\
Bare Optuna misses the aim by as much. Of a trial's second some 40 ms more go by: to wake up after
it, the round trips and commits of a trial that ends and one that begins, and the sampler. The
start of the run, 0.2 s, is one hundredth of these 20 s.
""",
    "wide": """\
256 slots share the cores of one machine here, and what a trial takes of them, times the trials and
divided by the cores, is the least time that the run can take, however long the trials sleep. Most
of it goes into reading what the other 255 slots did since the slot's last trial, TPE, and the JVM,
which has just been started and is compiling its code. A slot's first trial takes about 90 ms: its
process is forked, connects with TLS, and compiles its statements. At 64 slots on two cores the
ratio is 0.89.
""",
    "driver": """\
Spark's scheduler, its tasks and the simulated trials share the cores: a job takes some 20 ms of
them in the JVM, and the driver's Python 2 ms. The JVM has 4 GB of heap.
""",
}


def write_docs(results: Results) -> None:
    """Write the page, its plot and the numbers."""
    results.save(NUMBERS)
    python = python_with("plot", ("matplotlib", "optuna", "pymysql"))
    command = [python, "-m", "benchmarks.plot", str(NUMBERS), str(PLOT)]
    subprocess.run(command, check=True, cwd=ROOT)
    PAGE.write_text(page(results))


def page(results: Results) -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION, summary(results)]
    parts.append(f"![The first number of each measure]({PLOT.name})\n")
    for name, measure in MEASURES.items():
        if name in results.measures:
            measured = results.measures[name]
            parts.append(f"## {measure.title}\n")
            parts.append(_circumstances(measured) + "\n")
            parts.append(details(measured))
            parts += [_NOTES[name]] if name in _NOTES else []
    parts += [_OUTRO, _versions(results.measures.values())]
    return "\n".join(parts)


def summary(results: Results) -> str:
    """One row for each measure, one column for each contender: its first number."""
    names = [name for name in CONTENDERS if any(name in each.rows for each in _all(results))]
    lines = [["measure", "aim", *(CONTENDERS[name].title for name in names)]]
    for key, measure in MEASURES.items():
        if key not in results.measures:
            continue
        rows = results.measures[key].rows
        number = next((first_number(row) for row in rows.values() if row.taken), None)
        cells = [_cell(rows.get(name), number) for name in names]
        title = f"{measure.title} ({number})" if number else measure.title
        lines.append([title, measure.aim, *cells])
        if key == "nothing" and BARE in rows:
            relative = _relative(rows, names, number)
            lines.append(["the same, relative to bare Optuna", "1.00", *relative])
    return markdown(lines)


def details(measured: Measured) -> str:
    """One row for each number, one column for each contender."""
    rows = {name: measured.rows[name] for name in CONTENDERS if name in measured.rows}
    numbers: dict[str, None] = {}
    for row in rows.values():
        for taken in row.taken:
            numbers.update(dict.fromkeys(taken))
    lines = [["", *(CONTENDERS[name].title for name in rows)]]
    lines += [[number, *(_cell(row, number) for row in rows.values())] for number in numbers]
    lines.append(["turns", *(str(len(row.taken)) for row in rows.values())])
    failed = [
        f"- {CONTENDERS[name].title} cannot run: `{row.error}`"
        for name, row in rows.items()
        if row.error
    ]
    return markdown(lines) + "".join(f"\n{line}" for line in failed) + ("\n" if failed else "")


def first_number(row: Row) -> str:
    """The name of the number that stands for the measure."""
    return next(iter(row.taken[0]))


def shown(value: float | None) -> str:
    """A number for people.

    Example:
        >>> [shown(value) for value in (None, 0.0, 0.8512, 12.34, 1234.5)]
        ['-', '0', '0.851', '12.3', '1234']
    """
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head.

    Example:
        >>> print(markdown([["a", "b"], ["1", "2"]]), end="")
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    rule = "|" + "---|" * len(lines[0])
    drawn = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([drawn[0], rule, *drawn[1:]]) + "\n"


def _cell(row: Row | None, number: str | None) -> str:
    if row is None or number is None:
        return "-"
    if row.error and not row.taken:
        return "fails"
    return shown(row.median(number))


def _relative(rows: dict[str, Row], names: Sequence[str], number: str | None) -> list[str]:
    floor = rows[BARE].median(number) if number else None
    cells = []
    for name in names:
        value = rows[name].median(number) if number and name in rows else None
        cells.append(shown(value / floor if value and floor else None))
    return cells


def _circumstances(measured: Measured) -> str:
    machine = measured.machine
    return (
        f"{measured.date}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, "
        f"{machine['system']}, {machine['server']}, {machine['slots']} slots where not said."
    )


def _versions(measured: Iterable[Measured]) -> str:
    lines = ["## Versions\n"]
    found: dict[str, dict[str, str]] = {}
    for each in measured:
        found.update(each.versions)
    for name in (name for name in CONTENDERS if name in found):
        versions = ", ".join(f"{key} {value}" for key, value in found[name].items())
        lines.append(f"- {CONTENDERS[name].title}: {versions}")
    return "\n".join(lines) + "\n"


def _all(results: Results) -> list[Measured]:
    return list(results.measures.values())
