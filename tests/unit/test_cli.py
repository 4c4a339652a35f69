"""The command line: its options, what it makes of them, what it prints, and its exit codes."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_spark import cli
from optuna_spark.backend import ExecutorTraceback
from optuna_spark.exceptions import (
    DatabaseNotFound,
    ObjectiveNotCallable,
    ObjectiveNotFound,
    ObjectiveNotPicklable,
    OptunaSparkError,
    PackingError,
    ReportError,
    SparkUnavailable,
    StorageAccessDenied,
    StorageUnreachable,
    StorageUrlError,
    StudyDirectionMismatch,
    StudyNotFound,
    UsageError,
)
from optuna_spark.screen import table
from optuna_spark.settings import STORAGE_VARIABLE

SCRIPT = """
import optuna
class MyError(Exception): pass
def objective(trial): return 0.0
number = 3
"""


def trial(value: float | None, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    distribution = optuna.distributions.FloatDistribution(0, 1)
    return create_trial(
        state=state, value=value, params={"x": 0.25}, distributions={"x": distribution}
    )


class FakeStudy:
    """Stands in for a study on Spark: remembers how it was called, and ends as told."""

    def __init__(self) -> None:
        self.study_name, self.address = "wine", "mysql://optuna:***@db/optuna"
        self.directions = [StudyDirection.MINIMIZE]
        self.trials = [trial(0.5), trial(None, TrialState.FAIL)]
        self.ends_with: BaseException | None = None
        self.made_by = ""
        self.made_with: dict[str, Any] = {}
        self.optimized_with: dict[str, Any] | None = None

    def optimize(self, func: Callable[..., Any], **arguments: Any) -> None:
        self.optimized_with = {"func": func, **arguments}
        if self.ends_with is not None:
            raise self.ends_with

    def get_trials(self, deepcopy: bool = True) -> list[FrozenTrial]:
        return self.trials

    @property
    def best_trial(self) -> FrozenTrial:
        return self.trials[0]

    best_trials = property(lambda self: self.trials[:1])


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> FakeStudy:
    """What `create_study` and `load_study` return; `made_by` says which of them it was."""
    fake = FakeStudy()

    def make(name: str) -> Callable[..., FakeStudy]:
        def made(**arguments: Any) -> FakeStudy:
            fake.made_by, fake.made_with = name, arguments
            return fake

        return made

    for name in ("create_study", "load_study"):
        monkeypatch.setattr(cli.study, name, make(name))
    return fake


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """A folder with tune.py; no storage in the environment; the screen as it is.

    Returns:
        Whether each command so far was verbose.
    """
    verbose: list[bool] = []

    @contextlib.contextmanager
    def screen(*, verbose: bool) -> Iterator[None]:
        seen.append(verbose)
        yield

    seen = verbose
    (tmp_path / "tune.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(cli, "quiet_screen", screen)
    before = set(sys.modules)
    yield verbose
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(*options: str, trials: str | None = "--n-trials=1") -> int:
    limit = [trials] if trials else []
    return cli.main(["optimize", "tune.py:objective", *limit, *options])


# Options


def options_of(command: str) -> dict[str, argparse.Action]:
    [commands] = [
        action
        for action in cli._parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return {action.dest: action for action in commands.choices[command]._actions}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in inspect.signature(cli.study.SparkStudy.optimize).parameters
        if name not in ("self", "func", "callbacks")
    ],
)
def test_each_parameter_of_optimize_is_an_option(name: str) -> None:
    option = options_of("optimize")[name]
    assert option.option_strings[0] == "--" + name.replace("_", "-")
    default = inspect.signature(cli.study.SparkStudy.optimize).parameters[name].default
    if name == "show_progress_bar":
        assert option.default, "one who looks at a terminal wants to see something"
    elif name == "catch":
        assert option.default == list(default)
    else:
        assert option.default == default


@pytest.mark.parametrize("command", ["optimize", "pack", "report"])
def test_each_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for action in options_of(command).values():
        assert (action.option_strings or [action.metavar])[0] in shown


def test_options_reach_optimize(study: FakeStudy, place: list[bool]) -> None:
    options = (
        "--n-trials 5 --timeout 2.5 --n-jobs 4 --trial-timeout 9 --max-retries 0 --gc-after-trial"
    )
    assert run(*options.split(), "--no-show-progress-bar", "--verbose", trials=None) == 0
    assert study.optimized_with is not None
    assert study.optimized_with.pop("func")(None) == 0.0
    assert study.optimized_with == {
        "n_trials": 5,
        "total_trials": None,
        "timeout": 2.5,
        "n_jobs": 4,
        "trial_timeout": 9.0,
        "max_retries": 0,
        "catch": (),
        "gc_after_trial": True,
        "show_progress_bar": False,
    }
    assert place == [True]


def test_what_is_not_given_is_as_in_optimize(study: FakeStudy, place: list[bool]) -> None:
    assert run("--total-trials=7", trials=None) == 0
    assert study.optimized_with is not None
    parameters = inspect.signature(cli.study.SparkStudy.optimize).parameters
    for name, value in study.optimized_with.items():
        if name not in ("func", "total_trials", "show_progress_bar"):
            assert value == parameters[name].default
    assert study.optimized_with["total_trials"] == 7
    assert place == [False]


def test_exceptions_to_catch(study: FakeStudy) -> None:
    import zipfile

    names = ["ValueError", "zipfile.BadZipFile", "tune.MyError", "optuna.TrialPruned"]
    assert run("--catch", *names) == 0
    assert study.optimized_with is not None
    own = sys.modules["tune"].MyError
    expected = (ValueError, zipfile.BadZipFile, own, optuna.TrialPruned)
    assert study.optimized_with["catch"] == expected


# The study


def test_a_study_is_made_in_a_file_of_its_own(study: FakeStudy) -> None:
    assert run() == 0
    assert study.made_by == "create_study"
    assert study.made_with == {
        "study_name": "tune",
        "storage": None,
        "directions": None,
        "load_if_exists": True,
        "sampler": None,
        "pruner": None,
    }


@pytest.mark.parametrize(
    ("options", "environment", "maker"),
    [
        ("--study-name wine", None, "create_study"),
        ("--study-name wine --storage mysql://db/x", None, "load_study"),
        ("--study-name wine", "mysql://db/x", "load_study"),
        ("--study-name wine --storage mysql://db/x --direction maximize", None, "create_study"),
        ("--storage mysql://db/x", None, "create_study"),
    ],
)
def test_a_study_of_a_shared_storage_is_not_made_by_mistake(
    options: str,
    environment: str | None,
    maker: str,
    study: FakeStudy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment:
        monkeypatch.setenv(STORAGE_VARIABLE, environment)
    assert run(*options.split()) == 0
    assert study.made_by == maker
    if "wine" in options:
        assert study.made_with["study_name"] == "wine"


def test_a_missing_study_and_how_to_make_it(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_study(**_: Any) -> None:
        raise StudyNotFound("There is no study named 'wine': create it.")

    monkeypatch.setattr(cli.study, "load_study", load_study)
    assert run("--study-name=wine", "--storage=mysql://db/x") == cli.FAILED
    expected = "There is no study named 'wine': create it; --direction creates it here.\n"
    assert capsys.readouterr().err == f"optuna-spark: {expected}"
    assert study.optimized_with is None


MODULE = SCRIPT + (
    "DIRECTION = {direction}\n"
    "SAMPLER = optuna.samplers.RandomSampler(seed=1)\n"
    "PRUNER = optuna.pruners.NopPruner()\n"
)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [('"maximize"', ["maximize"]), ('["minimize", "maximize"]', ["minimize", "maximize"])],
)
def test_the_module_says_what_the_study_is(
    direction: str, expected: list[str], study: FakeStudy
) -> None:
    Path("tune.py").write_text(MODULE.format(direction=direction))
    assert run("--study-name=wine", "--storage=mysql://db/x") == 0
    assert study.made_by == "create_study"
    assert study.made_with["directions"] == expected
    module = sys.modules["tune"]
    assert study.made_with["sampler"] is module.SAMPLER
    assert study.made_with["pruner"] is module.PRUNER


def test_options_override_the_module(study: FakeStudy) -> None:
    Path("tune.py").write_text(MODULE.format(direction='"maximize"'))
    options = "--direction minimize --sampler TPESampler --pruner MedianPruner"
    assert run(*options.split()) == 0
    assert study.made_with["directions"] == ["minimize"]
    assert type(study.made_with["sampler"]) is optuna.samplers.TPESampler
    assert type(study.made_with["pruner"]) is optuna.pruners.MedianPruner


def test_arguments_of_sampler_and_pruner(study: FakeStudy) -> None:
    space = '{"search_space": {"x": [1, 2]}, "seed": 3}'
    assert run("--sampler=GridSampler", "--sampler-kwargs", space) == 0
    assert study.made_with["sampler"]._search_space == {"x": [1, 2]}
    patient = '{"n_startup_trials": 9}'
    assert run("--pruner=MedianPruner", "--pruner-kwargs", patient) == 0
    assert study.made_with["pruner"]._n_startup_trials == 9


@pytest.mark.parametrize(
    "arguments",
    [
        ["optimize", "tune.py:objective", "--stroage", "mysql://u:s3cret@h/d"],
        ["optimize", "mysql://u:s3@cret@h/d:objective"],
        ["check", "mysql://u:s3cret@h/d"],
    ],
)
def test_a_password_in_a_wrong_place_is_not_repeated(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = cli.main([*arguments, *(["--n-trials=1"] if arguments[0] == "optimize" else [])])
    except SystemExit as ended:
        code = int(str(ended.code))
    shown = capsys.readouterr().err
    assert code == cli.WRONG_USE
    assert "cret" not in shown
    assert "mysql://u:***@h/d" in shown


def test_several_objectives(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    study.directions = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    assert run("--direction", "minimize", "maximize") == 0
    assert study.made_with["directions"] == ["minimize", "maximize"]
    assert "Best trials: -1.\n" in capsys.readouterr().out


# Wrong use


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "Nothing limits the run: give --n-trials, --total-trials or --timeout."),
        (["--n-trials=-1"], "`n_trials` is -1: give a whole number of 0 or more."),
        (["--total-trials=-5"], "`total_trials` is -5: give a whole number of 0 or more."),
        (["--n-trials=1", "--total-trials=2"], "`n_trials` and `total_trials` are both given: "),
        (["--n-trials=1", "--n-jobs=0"], "`n_jobs` is 0: give a whole number of 1 or more, or"),
        (["--n-trials=1", "--max-retries=-1"], "`max_retries` is -1: give a whole number of 0"),
        (["--timeout=0"], "`timeout` is 0.0: give seconds, more than 0."),
        (["--timeout=nan"], "`timeout` is nan: give seconds, more than 0."),
        (["--n-trials=1", "--catch", "NoError"], "--catch NoError: there is no such exception; "),
        (["--n-trials=1", "--catch", "os.path"], "--catch os.path: there is no such exception; "),
        (["--n-trials=1", "--catch", "no.such.Error"], "--catch no.such.Error: there is no such"),
        (["--n-trials=1", "--catch", "..Error"], "--catch ..Error: there is no such exception;"),
        (["--n-trials=1", "--sampler=No"], "optuna.samplers has no 'No': name one of its classes"),
        (["--n-trials=1", "--sampler=NopPruner"], "optuna.samplers has no 'NopPruner': name one"),
        (["--n-trials=1", "--pruner=_nop"], "optuna.pruners has no '_nop': name one of its"),
        (["--n-trials=1", "--sampler=GridSampler"], "--sampler GridSampler cannot be made (Grid"),
        (
            ["--n-trials=1", "--pruner=NopPruner", '--pruner-kwargs={"a": 1}'],
            "--pruner NopPruner cannot be made (NopPruner() takes no arguments): correct --pruner",
        ),
        (
            ["--n-trials=1", '--sampler-kwargs={"seed": 1}'],
            "--sampler-kwargs is given without --sampler: name the class too.",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_before_a_study_is_made(
    options: list[str],
    expected: str,
    study: FakeStudy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*options, trials=None) == cli.WRONG_USE == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"optuna-spark: {expected}")
    assert shown.err.count("\n") == 1
    assert not shown.out
    assert not study.made_by


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "COMMAND"),
        (["tune"], "invalid choice: 'tune'"),
        (["optimize"], "OBJECTIVE"),
        (["optimize", "tune.py:objective", "--n-trials=many"], "--n-trials: invalid int value"),
        (["optimize", "tune.py:objective", "--n-trials=1.5"], "--n-trials: invalid int value"),
        (["optimize", "tune.py:objective", "--timeout=long"], "--timeout: invalid float value"),
        (["optimize", "tune.py:objective", "--direction=up"], "invalid choice: 'up'"),
        (["optimize", "tune.py:objective", "--no-such-option"], "--no-such-option"),
        (["optimize", "t.py:o", "--sampler-kwargs={seed}"], "'{seed}' is no JSON object: write"),
        (["optimize", "t.py:o", "--pruner-kwargs=[1]"], "'[1]' is no JSON object: write it as"),
    ],
)
def test_what_cannot_be_parsed(
    arguments: list[str], expected: str, study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err
    assert not study.made_by


@pytest.mark.parametrize("target", ["none.py:objective", "tune.py:goal", "tune.py:number", "tune"])
def test_an_objective_that_is_none(
    target: str, study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["optimize", target, "--n-trials=1"]) == cli.WRONG_USE
    assert capsys.readouterr().err.startswith("optuna-spark: ")
    assert not study.made_by


# Exit codes, and what is printed


def test_done(study: FakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == cli.DONE == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "Study 'wine' holds 2 trials (1 complete, 1 fail).\n"
        "Best trial: -1, value 0.5, with\n"
        "  x = 0.25\n"
        "The study is in mysql://optuna:***@db/optuna.\n"
    )
    assert shown.err == ""


@pytest.mark.parametrize("trials", [[], [trial(None, TrialState.FAIL)]])
def test_done_without_a_best_trial(
    trials: list[FrozenTrial], study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.trials = trials
    assert run() == 0
    shown = capsys.readouterr().out
    assert f"holds {len(trials)} trials ({'1 fail' if trials else 'none'})." in shown
    assert "Best" not in shown


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (ObjectiveNotFound, 2),
        (ObjectiveNotCallable, 2),
        (StorageUrlError, 2),
        (ObjectiveNotPicklable, 1),
        (StorageUnreachable, 1),
        (StorageAccessDenied, 1),
        (DatabaseNotFound, 1),
        (StudyDirectionMismatch, 1),
        (SparkUnavailable, 1),
        (OptunaSparkError, 1),
    ],
)
def test_an_error_of_ours_is_one_line_on_stderr(
    error: type[OptunaSparkError],
    code: int,
    study: FakeStudy,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study.ends_with = error("This is wrong: do that.")
    assert run() == code
    shown = capsys.readouterr()
    assert shown.err == "optuna-spark: This is wrong: do that.\n"
    assert shown.out == ""


@pytest.mark.parametrize("error", [ValueError("bad data"), SystemExit(3), KeyError("x")])
def test_what_the_objective_raised_is_shown_as_the_executor_saw_it(
    error: BaseException, study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    error.__cause__ = ExecutorTraceback("Traceback of the executor\nin tune.py, line 7\n")
    study.ends_with = error
    assert run() == cli.FAILED == 1
    shown = capsys.readouterr()
    assert shown.err == (
        "Traceback of the executor\nin tune.py, line 7\n"
        "optuna-spark: the objective failed; --catch lets the run go on.\n"
    )
    assert shown.out.startswith("Study 'wine' holds 2 trials"), "it says what was reached"


def test_an_error_of_the_driver_keeps_its_traceback(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.ends_with = ZeroDivisionError("here")
    assert run() == cli.FAILED
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_interrupted_while_trials_run(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    study.ends_with = KeyboardInterrupt()
    assert run() == cli.INTERRUPTED == 130
    shown = capsys.readouterr()
    assert shown.err == "Interrupted: the trials that ran are recorded as failed.\n"
    assert "Best trial: -1, value 0.5" in shown.out


def test_interrupted_before(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def create_study(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.study, "create_study", create_study)
    assert run() == cli.INTERRUPTED
    assert capsys.readouterr().err == "optuna-spark: interrupted.\n"


def test_a_signal_that_ends_the_process_ends_it(study: FakeStudy) -> None:
    study.ends_with = SystemExit(143)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143


# Packing


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, str | None]]:
    """What was packed into which file, while the environment stays as it is."""
    from optuna_spark import packing

    made: list[tuple[Path, str | None]] = []

    def pack_environment(output: Path, *, prefix: str | None = None) -> Path:
        made.append((output, prefix))
        output.write_bytes(b"x")
        return output

    monkeypatch.setattr(packing, "pack_environment", pack_environment)
    monkeypatch.setattr(packing, "environment_fingerprint", lambda prefix: f"as-is {prefix}")
    return made


def test_pack(packed: list[tuple[Path, str | None]], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pack"]) == 0
    assert packed == [(Path("env.tar.gz"), None)]
    assert capsys.readouterr().out == "Packed env.tar.gz, 0 MB.\n"


def test_pack_again_only_if_changed(packed: list[tuple[Path, str | None]]) -> None:
    command = ["pack", "--output=made/env.tar.gz", "--prefix=/other", "--if-changed"]
    for _ in range(2):
        assert cli.main(command) == 0
    assert packed == [(Path("made/env.tar.gz"), "/other")]
    assert cli.main(command[:-1]) == 0
    assert len(packed) == 2
    Path("made/env.tar.gz").unlink()
    assert cli.main(command) == 0
    assert len(packed) == 3


def test_pack_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from optuna_spark import packing

    def fail(prefix: str | None) -> str:
        raise PackingError("This is no environment: name one.")

    monkeypatch.setattr(packing, "environment_fingerprint", fail)
    assert cli.main(["pack"]) == cli.FAILED
    assert capsys.readouterr().err == "optuna-spark: This is no environment: name one.\n"


# Reports


@pytest.fixture
def wine(tmp_path: Path) -> str:
    """The URL of a database that holds one study."""
    url = f"sqlite:///{tmp_path / 'study.db'}"
    made = optuna.create_study(study_name="wine/1", storage=url)
    made.add_trial(create_trial(value=0.5))
    return url


def test_report(wine: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["report", "--study-name=wine/1", f"--storage={wine}", "--output=made/it.html"]
    assert cli.main(command) == cli.DONE
    shown = capsys.readouterr()
    assert shown.out == "The report of study 'wine/1' is in made/it.html.\n"
    assert shown.err == ""
    assert "Best trial: 0" in Path("made/it.html").read_text()


def test_a_report_of_the_one_study_of_the_storage(
    wine: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, wine)
    assert cli.main(["report"]) == cli.DONE
    assert capsys.readouterr().out == "The report of study 'wine/1' is in wine_1.html.\n"
    assert wine in Path("wine_1.html").read_text()


def test_a_report_needs_no_java(wine: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optuna_spark", "report", "--output=it.html"]
    root = str(Path(cli.__file__).parents[1])
    environment = {"JAVA_HOME": "/nowhere", STORAGE_VARIABLE: wine, "PYTHONPATH": root}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Best trial: 0" in (tmp_path / "it.html").read_text()


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        ("--study-name=none --storage={wine}", 1, "There is no study named 'none' in sqlite:///"),
        ("--storage=sqlite:///no.db", 1, "There is no study in sqlite:////"),
        ("--storage=sqlite:///empty.db", 2, "`study_name` is not given, and the storage holds 0"),
        ("--storage=db://u:s3cret@h/d", 2, "kind of database"),
        ("--storage=mysql://u:s3@cret@h/d", 2, "The storage URL cannot be read: write it as"),
        ("--storage=sqlite://", 1, "An SQLite database in memory is in this process alone: give"),
        ("--storage=mysql+pymysql://u:s3cret@127.0.0.1:1/d", 1, "No MySQL server can be reached"),
        ("--storage={wine} --output=.", 2, "The report . cannot be written (Is a directory): nam"),
        ("--storage={wine} --output=tune.py/it.html", 2, "The report tune.py/it.html cannot be"),
    ],
)
def test_a_report_that_cannot_be_made(
    options: str, code: int, expected: str, wine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty.db").touch()
    assert cli.main(["report", *options.format(wine=wine).split()]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("optuna-spark: ")
    assert expected in shown.err
    assert shown.err.endswith(".\n")
    assert shown.err.count("\n") == 1
    assert "cret" not in shown.err
    assert shown.out == ""
    assert not Path("no.db").exists()


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Path]]:
    """The studies of which reports were written, and their files."""
    made: list[tuple[Any, Path]] = []
    monkeypatch.setattr(cli.report, "write_report", lambda *given: made.append(given))
    return made


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (ValueError("bad data"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_run_ends_with_a_report_however_it_ends(
    error: BaseException | None,
    code: int,
    study: FakeStudy,
    reported: list[tuple[Any, Path]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    study.ends_with = error
    assert run("--report=made/it.html") == code
    assert reported == [(study, Path("made/it.html"))]
    assert capsys.readouterr().out.endswith(
        "The study is in mysql://optuna:***@db/optuna.\nThe report is in made/it.html.\n"
    )


def test_no_report_is_written_unasked(
    study: FakeStudy, reported: list[tuple[Any, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    assert not reported
    assert "report" not in capsys.readouterr().out


def test_a_report_that_cannot_be_written_is_refused_before_the_run(
    study: FakeStudy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--report=.") == cli.WRONG_USE
    expected = "The report . cannot be written (Is a directory): name another file.\n"
    assert capsys.readouterr().err == f"optuna-spark: {expected}"
    assert not study.made_by


def test_a_report_that_cannot_be_written_after_the_run(
    study: FakeStudy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ReportError("The report it.html cannot be written (No space): free space.")

    monkeypatch.setattr(cli.report, "write_report", fail)
    assert run("--report=it.html") == cli.FAILED
    shown = capsys.readouterr()
    assert "Best trial: -1" in shown.out, "what was found is said before"
    assert shown.err == (
        "optuna-spark: The report it.html cannot be written (No space): free space.\n"
    )


# As a program


def test_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["optuna-spark", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("optuna_spark", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"optuna-spark {cli.__version__}\n"


def test_the_exit_code_reaches_the_shell() -> None:
    root = Path(cli.__file__).parents[1]

    def shell(arguments: Sequence[str]) -> int:
        command = [sys.executable, "-m", "optuna_spark", *arguments]
        return subprocess.run(command, cwd=root, capture_output=True).returncode

    assert shell(["--version"]) == 0
    assert shell(["optimize", "none.py:objective", "--n-trials=1"]) == 2


# The screen


def test_a_table_is_folded_in_its_last_column() -> None:
    rows = [("storage", "TLS", "off: set it up"), ("driver", "Java", "17")]
    whole = ["storage  TLS   off: set it up", "driver   Java  17"]
    assert table(rows).split("\n") == whole
    folded = ["storage  TLS   off: set", "               it up", "driver   Java  17"]
    assert table(rows, 24).split("\n") == folded
    assert table(rows, 1).split("\n")[0] == "storage  TLS   off: set"  # never narrower than words
