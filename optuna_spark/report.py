"""`optuna-spark report`: what a study found and how it ran, as one page of HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from optuna_spark import charts, figures, page
from optuna_spark.addresses import database_file, find_address
from optuna_spark.charts import thinned
from optuna_spark.exceptions import ReportError, StudyNotFound, UsageError
from optuna_spark.outcomes import (
    STATES,
    UNKNOWN_HOST,
    Failures,
    Outcomes,
    attempt_of,
    failures,
    host_of,
    moment_text,
)
from optuna_spark.scales import duration_text, number_text
from optuna_spark.study import SparkStudy, load_study
from optuna_spark.timeline import MAX_ROWS, MAX_SHARED_ROWS, Bar, clock_of, rows_of, timeline

MAX_BEST = 10  # rows of the table of a Pareto front
MAX_REASONS = 20
MAX_NUMBERS = 30  # of trials that are named one by one


def open_study(study_name: str | None, storage: str | None) -> SparkStudy:
    """Load the study of a report.

    Args:
        study_name: Its name; None where the storage holds one study alone.
        storage: As for `create_study`.

    Raises:
        StudyNotFound: there is none of that name.
        StorageError: the storage cannot be used.
    """
    address = find_address(storage)
    file = database_file(address)
    if file is not None and not file.exists():  # which opening it would make
        raise StudyNotFound(
            f"There is no study in {address}, as that file does not exist: correct the storage."
        )
    return load_study(study_name=study_name, storage=storage)


def default_output(study_name: str) -> Path:
    """The file of a report that no name is given for, in the working directory."""
    name = re.sub(r"[^\w.+=@ -]+", "_", study_name).strip(". ")[:100]
    return Path(f"{name or 'report'}.html")


def check_output(output: Path) -> None:
    """Try to write a file, before the work whose result it shall hold, and make its folder.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        new = not output.exists()
        output.open("ab").close()
        if new:
            output.unlink()
    except OSError as error:
        raise UsageError(f"{_unwritable(output, error)}: name another file.") from None


def write_report(study: SparkStudy, output: Path) -> None:
    """Write the report of a study.

    Args:
        study: The study as it is, which may be running.
        output: The file, of HTML.

    Raises:
        ReportError: the file cannot be written.
        StorageError: the storage cannot be used.

    Example:
        >>> write_report(load_study(study_name="wine"), Path("wine.html"))  # doctest: +SKIP
    """
    text = render_report(study, study.address, datetime.now())
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{_unwritable(output, error)}: free space, or name another.") from None


def _unwritable(output: Path, error: OSError) -> str:
    return f"The report {output} cannot be written ({error.strerror})"


def render_report(study: optuna.Study, address: str, now: datetime) -> str:
    """The report of a study as a page of HTML.

    Args:
        study: Any study of Optuna.
        address: Where it is, without a password.
        now: When the report is made.
    """
    outcomes = Outcomes(study)
    aims = " · ".join(objective.title for objective in outcomes.objectives)
    bars = outcomes.bars()
    parts = [
        f"<header>\n<h1>{charts.escaped(study.study_name)}</h1>",
        page.paragraph(f"{aims} · {address} · {now:%Y-%m-%d %H:%M}", soft=True),
        page.facts(_facts(outcomes, bars)),
        "</header>",
        *_best(outcomes),
        figures.history(outcomes),
        *figures.front(outcomes),
        *_timeline(bars),
        figures.importances(outcomes),
        *figures.slices(outcomes),
        *figures.curves(outcomes),
        *_failures(outcomes),
        *_begun_again(outcomes),
        f"<footer>Made by optuna-spark with Optuna {optuna.__version__}. "
        "The page is complete in itself: it loads nothing.</footer>",
    ]
    return page.page(f"{study.study_name} · optuna-spark", parts)


# The top


def _facts(outcomes: Outcomes, bars: Sequence[Bar]) -> list[tuple[str, str, str]]:
    counts = [
        f"{len(found):,} {word}"
        for state, word in {**STATES, "waiting": "waiting"}.items()
        if (found := outcomes.of_state(TrialState[state.upper()]))
    ]
    told = [("Trials", f"{len(outcomes.trials):,}", ", ".join(counts))]
    best = outcomes.best
    if len(outcomes.objectives) > 1:
        told.insert(0, ("Best trials", f"{len(best):,}", "on the Pareto front" if best else ""))
    elif best:
        value = outcomes.objectives[0].of(best[0])
        assert value is not None
        told.insert(0, ("Best value", number_text(value, 6), f"trial {best[0].number}"))
    else:
        told.insert(0, ("Best value", "none", "no trial is complete"))
    if not bars:
        return told
    clock = clock_of((bar.start, bar.end) for bar in bars)
    paused = f", {_count(len(clock.pauses), 'pause')} left out" if clock.pauses else ""
    since = f"from {moment_text(clock.spans[0][0])}{paused}"
    told.append(("Time", duration_text(clock.seconds), since))
    total = sum(bar.end - bar.start for bar in bars)
    if clock.seconds:
        at_once = f"{duration_text(total)} of trials in that time"
        told.append(("Trials at once", number_text(total / clock.seconds, 3), at_once))
    hosts = {bar.host for bar in bars} - {UNKNOWN_HOST}
    processes = {(bar.host, bar.process) for bar in bars if bar.process is not None}
    if hosts:
        told.append(("Hosts", f"{len(hosts):,}", _count(len(processes), "process", "processes")))
    return told


def _best(outcomes: Outcomes) -> list[str]:
    best = outcomes.best
    if not best:
        return []
    if len(outcomes.objectives) == 1:
        exact = json.dumps(best[0].params, indent=2, default=str, ensure_ascii=False)
        rows = [(name, figures.value_text(value)) for name, value in best[0].params.items()]
        title = f"Best trial: {best[0].number}"
        shown = page.table(["parameter", "value"], rows)
        if not rows:
            shown = page.paragraph("It has no parameters.", soft=True)
        return [page.section("best", title, [shown, page.folded("Exact values, as JSON", exact)])]
    names = list(outcomes.params)[:8]
    head = ["trial", *(objective.name for objective in outcomes.objectives), *names]
    rows_of_front = [
        [
            str(trial.number),
            *(number_text(value, 6) for value in trial.values),
            *(
                figures.value_text(trial.params[name]) if name in trial.params else ""
                for name in names
            ),
        ]
        for trial in thinned(best, MAX_BEST)
    ]
    shown = page.table(head, rows_of_front, numbers=1 + len(outcomes.objectives))
    parts = [shown]
    if len(rows_of_front) < len(best):
        told = f"{len(rows_of_front)} of {len(best):,} best trials are listed."
        parts.append(page.paragraph(told, soft=True))
    exact = "\n".join(
        f"{trial.number}: {json.dumps(trial.params, default=str, ensure_ascii=False)}"
        for trial in thinned(best, 10 * MAX_BEST)
    )
    parts.append(page.folded("Exact parameters, as JSON", exact))
    return [page.section("best", "Best trials", parts)]


# How it ran


def _timeline(bars: Sequence[Bar]) -> list[str]:
    if not bars:
        return []
    clock = clock_of((bar.start, bar.end) for bar in bars)
    rows = rows_of(bars)
    shown = rows[:MAX_SHARED_ROWS]
    processes = {(bar.host, bar.process) for bar in bars}
    caption = "Each line is a process on its executor's host, each bar a trial"
    if all(bar.host == UNKNOWN_HOST for bar in bars):
        caption = "Each bar is a trial"
    if len(processes) > MAX_ROWS:
        caption = "Each line is room for a process on its host, each bar a trial"
        caption += (
            f"; {len(processes):,} processes share the lines where they were not busy at once"
        )
    caption += "; above, how many trials ran at once."
    if any(bar.host == UNKNOWN_HOST for bar in bars):
        caption += " Trials that optuna-spark did not run have no host."
    if clock.pauses:
        told = ", ".join(duration_text(pause) for pause in clock.pauses[:5])
        more = ", …" if len(clock.pauses) > 5 else ""
        one = len(clock.pauses) == 1
        were = "A pause is cut" if one else f"{len(clock.pauses)} pauses are cut"
        caption += f" {were} out at the dashed line{'' if one else 's'} ({told}{more})."
    if len(shown) < len(rows):
        left = sum(len(row.bars) for row in rows[len(shown) :])
        caption += f" {len(rows) - len(shown):,} more lines, of {left:,} trials, are left out."
    kinds = {bar.state for bar in bars}
    marks = {"pruned": "filled"}
    keys = [(marks.get(kind, kind), told) for kind, told in STATES.items() if kind in kinds]
    drawn = page.figure(timeline(shown, clock), caption, keys=keys)
    return [page.section("timeline", "Timeline", [drawn])]


def _failures(outcomes: Outcomes) -> list[str]:
    groups = failures(outcomes.trials)
    if not groups:
        return []
    count = sum(len(group.trials) for group in groups)
    parts = [_failure(group) for group in groups[:MAX_REASONS]]
    if len(groups) > MAX_REASONS:
        left = sum(len(group.trials) for group in groups[MAX_REASONS:])
        told = f"{len(groups) - MAX_REASONS:,} more reasons, of {left:,} trials, are left out."
        parts.append(page.paragraph(told, soft=True))
    return [page.section("failures", f"Failures ({count:,})", parts)]


def _failure(group: Failures) -> str:
    parts = [
        f"<h3>{charts.escaped(_cut(group.reason, 500))}</h3>",
        page.paragraph(
            f"{_count(len(group.trials), 'trial')}: {_numbers(group.trials)}"
            + (f" · on {_listed(group.hosts, 8)}" if group.hosts else ""),
            soft=True,
        ),
    ]
    if group.traceback:
        parts.append(page.folded("Traceback", group.traceback))
    return f'<div class="failure">\n{"".join(parts)}\n</div>'


def _begun_again(outcomes: Outcomes) -> list[str]:
    found = [trial for trial in outcomes.trials if _times_begun(trial) > 1]
    if not found:
        return []
    rows = [
        [
            str(trial.number),
            str(_times_begun(trial)),
            trial.state.name.lower(),
            str(host_of(trial)),
        ]
        for trial in found[:MAX_NUMBERS]
    ]
    told = (
        "The executor or the process that ran these trials was lost; they began again with the "
        "same parameters."
    )
    parts = [page.paragraph(told), page.table(["trial", "begun", "state", "at last on"], rows)]
    if len(rows) < len(found):
        parts.append(page.paragraph(f"{len(rows)} of {len(found):,} are listed.", soft=True))
    return [page.section("attempts", f"Trials that began again ({len(found):,})", parts)]


def _times_begun(trial: FrozenTrial) -> int:
    begun = attempt_of(trial).get("begun")
    return begun if isinstance(begun, int) else 1


# Words


def _numbers(trials: Sequence[FrozenTrial]) -> str:
    return _listed([str(trial.number) for trial in trials], MAX_NUMBERS)


def _listed(names: Sequence[str], limit: int) -> str:
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
