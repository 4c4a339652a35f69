"""The command line: arguments, printing, exit codes, and nothing else."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import importlib
import inspect
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import optuna
from optuna.trial import TrialState

from optuna_spark import __version__, preflight, report, study
from optuna_spark.backend import ExecutorTraceback
from optuna_spark.exceptions import (
    ObjectiveNotCallable,
    ObjectiveNotFound,
    OptunaSparkError,
    StorageUrlError,
    StudyNotFound,
    UsageError,
)
from optuna_spark.objectives import load_objective
from optuna_spark.screen import hide_argument, quiet_screen, table, without_password
from optuna_spark.settings import DEFAULT_STORAGE, STORAGE_VARIABLE, Limits

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
_WRONG_USE = (UsageError, ObjectiveNotFound, ObjectiveNotCallable, StorageUrlError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `optuna-spark`.

    Args:
        arguments: As in `sys.argv[1:]`, which is the default.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    if getattr(options, "storage", None):
        hide_argument(options.storage)
    try:
        return int(options.command(options))
    except OptunaSparkError as error:
        print(f"optuna-spark: {without_password(str(error))}", file=sys.stderr)
        return WRONG_USE if isinstance(error, _WRONG_USE) else FAILED
    except KeyboardInterrupt:
        print("optuna-spark: interrupted.", file=sys.stderr)
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Repeats what was given wrongly, but no password in it."""

    def error(self, message: str) -> NoReturn:
        super().error(without_password(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="optuna-spark", description="Optuna studies on an Apache Spark cluster.")
    parser.add_argument("--version", action="version", version=f"optuna-spark {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_optimize(commands)
    _add_check(commands)
    _add_pack(commands)
    _add_report(commands)
    return parser


def _add_optimize(commands: Any) -> None:
    parser = commands.add_parser(
        "optimize",
        help="run the trials of a study on the cluster",
        description="Run the trials of a study on the cluster. The objective's file may set "
        "DIRECTION, SAMPLER and PRUNER, which the options override.",
    )
    parser.set_defaults(command=_optimize)
    parser.add_argument(
        "objective", metavar="OBJECTIVE", help="FILE.py:NAME or package.module:NAME"
    )
    place = parser.add_argument_group("the study")
    place.add_argument("--study-name", help="default: the objective's file or module")
    place.add_argument(
        "--storage",
        help=f"database URL; default: {STORAGE_VARIABLE}, else {DEFAULT_STORAGE}",
    )
    place.add_argument(
        "--direction",
        nargs="+",
        choices=["minimize", "maximize"],
        help="one for each objective; creates the study where it is missing",
    )
    for kind in ("sampler", "pruner"):
        place.add_argument(f"--{kind}", help=f"a class of optuna.{kind}s, as TPESampler")
        place.add_argument(f"--{kind}-kwargs", type=_json_object, default={}, metavar="JSON")
    limits = parser.add_argument_group("how far, and how wide")
    limits.add_argument("--n-trials", type=int, help="new trials that this command finishes")
    limits.add_argument("--total-trials", type=int, help="finished trials of the study to stop at")
    limits.add_argument("--timeout", type=float, metavar="SECONDS", help="for the command")
    limits.add_argument(
        "--trial-timeout", type=float, metavar="SECONDS", help="for one trial; then it is stopped"
    )
    limits.add_argument("--n-jobs", type=int, default=-1, help="default: every task slot")
    limits.add_argument(
        "--max-retries", type=int, default=3, help="for a trial whose executor was lost"
    )
    limits.add_argument(
        "--catch",
        nargs="+",
        default=[],
        metavar="EXCEPTION",
        help="exceptions that fail a trial without ending the run, as ValueError or pkg.Error",
    )
    limits.add_argument("--gc-after-trial", action="store_true")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write a report of the study, at the end"
    )
    parser.add_argument("--show-progress-bar", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--verbose", action="store_true", help="show Optuna's and Spark's logs")


def _json_object(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is no JSON object: write it as '{{\"seed\": 1}}'.")


def _add_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="try what a run needs, on the driver and on executors",
        description="Try what a run needs, on the driver and on each executor's host.",
    )
    parser.set_defaults(command=_check)
    parser.add_argument("--storage", metavar="URL", help=f"default: {STORAGE_VARIABLE}")
    parser.add_argument("--n-jobs", type=int, default=-1, help="default: every task slot")
    parser.add_argument("--json", action="store_true", help="for scripts")
    parser.add_argument("--verbose", action="store_true", help="show Optuna's and Spark's logs")


def _check(options: argparse.Namespace) -> int:
    Limits(n_jobs=options.n_jobs)
    with quiet_screen(verbose=options.verbose):
        findings = preflight.check(options.storage, options.n_jobs)
    if options.json:
        lines = [{**asdict(finding), "verdict": finding.verdict.value} for finding in findings]
        print(json.dumps(lines, indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table([_row(finding) for finding in findings], width))
    failed = any(finding.verdict is preflight.Verdict.FAILED for finding in findings)
    return FAILED if failed else DONE


def _row(finding: preflight.Finding) -> tuple[str, ...]:
    well = finding.verdict is preflight.Verdict.OK
    verdict = "" if well else f"{finding.verdict.value}: "
    return finding.where, finding.what, verdict + finding.text


def _add_pack(commands: Any) -> None:
    parser = commands.add_parser(
        "pack",
        help="pack this environment for executors",
        description="Pack this environment for `spark-submit --archives FILE#environment`.",
    )
    parser.set_defaults(command=_pack)
    parser.add_argument("--output", default="env.tar.gz", metavar="FILE")
    parser.add_argument("--prefix", help="the environment to pack; default: the running one")
    parser.add_argument(
        "--if-changed", action="store_true", help="keep a FILE that is of this environment still"
    )


def _pack(options: argparse.Namespace) -> int:
    from optuna_spark import packing  # conda-pack is an extra

    output = Path(options.output)
    mark = output.with_name(output.name + ".fingerprint")
    fingerprint = packing.environment_fingerprint(options.prefix)
    current = output.exists() and mark.exists() and mark.read_text() == fingerprint
    if options.if_changed and current:
        return DONE
    output.parent.mkdir(parents=True, exist_ok=True)
    made = packing.pack_environment(output, prefix=options.prefix)
    mark.write_text(fingerprint)
    print(f"Packed {made}, {made.stat().st_size >> 20} MB.")
    return DONE


def _add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="write what a study found, and how it ran, as one HTML file",
        description="Write what a study found, and how it ran, as one HTML file that needs "
        "nothing else. The study may be running; Spark is not needed.",
    )
    parser.set_defaults(command=_report)
    parser.add_argument("--study-name", help="may be left out where the storage holds one alone")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"default: {STORAGE_VARIABLE}, else {DEFAULT_STORAGE}",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: the study's name, with .html"
    )


def _report(options: argparse.Namespace) -> int:
    if options.output is not None:
        report.check_output(options.output)
    with quiet_screen(verbose=False):
        found = report.open_study(options.study_name, options.storage)
        output = options.output or report.default_output(found.study_name)
        report.write_report(found, output)
    print(f"The report of study {found.study_name!r} is in {output}.")
    return DONE


def _optimize(options: argparse.Namespace) -> int:
    if options.n_trials is options.total_trials is options.timeout is None:
        raise UsageError("Nothing limits the run: give --n-trials, --total-trials or --timeout.")
    # What is wrong is said before a study is created.
    Limits(
        options.n_trials,
        options.total_trials,
        options.n_jobs,
        options.timeout,
        options.trial_timeout,
        options.max_retries,
    )
    if options.report is not None:
        report.check_output(options.report)
    with quiet_screen(verbose=options.verbose):
        return _optimize_quietly(options)


def _optimize_quietly(options: argparse.Namespace) -> int:
    objective, module = load_objective(options.objective)
    catch = tuple(_exception(name) for name in options.catch)
    made = _find_study(options, module)
    failed: BaseException | None = None
    try:
        made.optimize(
            objective,
            n_trials=options.n_trials,
            total_trials=options.total_trials,
            timeout=options.timeout,
            n_jobs=options.n_jobs,
            catch=catch,
            gc_after_trial=options.gc_after_trial,
            show_progress_bar=options.show_progress_bar,
            trial_timeout=options.trial_timeout,
            max_retries=options.max_retries,
        )
    except OptunaSparkError:
        raise
    except SystemExit as error:
        if error.__cause__ is None:  # SIGTERM ended this process, no objective did
            raise
        failed = error
    except Exception as error:
        failed = error
    except KeyboardInterrupt:
        print("Interrupted: the trials that ran are recorded as failed.", file=sys.stderr)
        failed = KeyboardInterrupt()
    if failed is not None:
        _print_failure(failed)
    _print_summary(made)
    if options.report is not None:
        report.write_report(made, options.report)
        print(f"The report is in {options.report}.")
    if isinstance(failed, KeyboardInterrupt):
        return INTERRUPTED
    return DONE if failed is None else FAILED


def _find_study(options: argparse.Namespace, module: Any) -> study.SparkStudy:
    sampler = _component("sampler", options) or getattr(module, "SAMPLER", None)
    pruner = _component("pruner", options) or getattr(module, "PRUNER", None)
    direction = options.direction or _directions_of(module)
    own_file = not (options.storage or os.environ.get(STORAGE_VARIABLE))
    place: dict[str, Any] = {"storage": options.storage, "sampler": sampler, "pruner": pruner}
    if options.study_name and not direction and not own_file:
        try:
            return study.load_study(study_name=options.study_name, **place)
        except StudyNotFound as error:
            raise StudyNotFound(f"{str(error)[:-1]}; --direction creates it here.") from None
    return study.create_study(
        study_name=options.study_name or module.__name__,
        directions=direction,
        load_if_exists=True,
        **place,
    )


def _directions_of(module: Any) -> list[str] | None:
    named = getattr(module, "DIRECTION", None)
    return [named] if isinstance(named, str) else named


def _component(kind: str, options: argparse.Namespace) -> Any:
    name, arguments = getattr(options, kind), getattr(options, f"{kind}_kwargs")
    if name is None:
        if arguments:
            raise UsageError(f"--{kind}-kwargs is given without --{kind}: name the class too.")
        return None
    module = getattr(optuna, f"{kind}s")
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, getattr(module, f"Base{kind.title()}"))):
        raise UsageError(f"optuna.{kind}s has no {name!r}: name one of its classes.")
    try:
        return found(**arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UsageError(
            f"--{kind} {name} cannot be made ({reason}): correct --{kind}-kwargs."
        ) from None


def _exception(name: str) -> type[BaseException]:
    place, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(place) if place else builtins
        found = getattr(module, attribute)
    except (ImportError, AttributeError, TypeError):  # TypeError: a place that begins with a dot
        found = None
    if not (isinstance(found, type) and issubclass(found, BaseException)):
        raise UsageError(f"--catch {name}: there is no such exception; write package.Name.")
    return found


def _print_failure(failed: BaseException) -> None:
    if isinstance(failed, KeyboardInterrupt):
        return
    if isinstance(failed.__cause__, ExecutorTraceback):
        print(failed.__cause__.text.rstrip(), file=sys.stderr)
    else:
        traceback.print_exception(failed)
    print("optuna-spark: the objective failed; --catch lets the run go on.", file=sys.stderr)


def _print_summary(made: study.SparkStudy) -> None:
    trials = made.get_trials(deepcopy=False)
    counts = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    shown = ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count)
    print(f"Study {made.study_name!r} holds {len(trials)} trials ({shown or 'none'}).")
    if len(made.directions) > 1:
        print(f"Best trials: {', '.join(str(trial.number) for trial in made.best_trials)}.")
    elif counts[TrialState.COMPLETE]:
        best = made.best_trial
        end = ", with" if best.params else "."
        print(f"Best trial: {best.number}, value {best.value:.6g}{end}")
        for name, value in best.params.items():
            print(f"  {name} = {value:.6g}" if isinstance(value, float) else f"  {name} = {value}")
    print(f"The study is in {made.address}.")


if __name__ == "__main__":
    sys.exit(main())
