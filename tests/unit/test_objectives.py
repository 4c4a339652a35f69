"""Objectives: found by name, sent with their code, and blamed by name where they cannot be."""

from __future__ import annotations

import functools
import importlib
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from optuna_spark import objectives
from optuna_spark.exceptions import (
    ObjectiveNotCallable,
    ObjectiveNotFound,
    ObjectiveNotPicklable,
)
from optuna_spark.objectives import (
    check_callable,
    load_objective,
    pickle_error,
    pickle_objective,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path.parent) in str(getattr(sys.modules[name], "__path__", sys.modules[name])):
            del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    """Write modules; `package__module="..."` writes package/module.py."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        for parent in path.parents:
            if parent == folder:
                break
            (parent / "__init__.py").touch()
        path.write_text(text)


# Finding


TUNE = """
class Searches:
    @staticmethod
    def objective(trial):
        return 2

def objective(trial):
    return 1

def _helper():
    pass

SPACE = {"x": 1}
"""


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("tune.py:objective", 1),
        ("tune.py:Searches.objective", 2),
        ("./tune.py:objective", 1),
        ("tune:objective", 1),
        ("searches.deep:objective", 1),
        ("searches.deep:Searches.objective", 2),
        ("searches/deep.py:objective", 1),
    ],
)
def test_an_objective_is_found(target: str, value: int, folder: Path) -> None:
    write(folder, tune=TUNE, searches__deep=TUNE)
    objective, module = load_objective(target)
    assert objective(None) == value
    assert module.SPACE == {"x": 1}


def test_an_objective_is_found_by_an_absolute_path_and_through_a_link(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(elsewhere, tune="import beside\ndef objective(trial): return beside.VALUE", beside="")
    (elsewhere / "beside.py").write_text("VALUE = 3")
    (folder / "link.py").symlink_to(elsewhere / "tune.py")
    for target in (elsewhere / "tune.py", "link.py"):
        assert load_objective(f"{target}:objective")[0](None) == 3


def test_two_files_of_one_name_are_two_modules(folder: Path) -> None:
    write(folder, first__tune="def objective(trial): return 'first'")
    write(folder, second__tune="def objective(trial): return 'second'")
    loaded = [load_objective(f"{name}/tune.py:objective")[0] for name in ("first", "second")]
    assert [objective(None) for objective in loaded] == ["first", "second"]


def test_a_file_named_as_a_library_does_not_replace_it(folder: Path) -> None:
    write(folder, json="def objective(trial): return 4")
    assert load_objective("json.py:objective")[0](None) == 4
    assert sys.modules["json"].__spec__.origin != str(folder / "json.py")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "'' does not name an objective: write FILE.py:NAME"),
        ("tune.py", "'tune.py' does not name an objective: write FILE.py:NAME"),
        ("tune.py:", "'tune.py:' does not name an objective: write"),
        (":objective", "':objective' does not name an objective: write"),
        ("missing.py:objective", r"The file missing\.py does not exist: correct the path\."),
        (".:objective", "There is no module '.': correct the name"),
        ("searches.py:objective", r"The file searches\.py does not exist"),
        ("missing:objective", "There is no module 'missing': correct the name, or write FILE"),
        ("searches.none:objective", r"There is no module 'searches\.none': correct"),
        ("./tune:objective", "There is no module './tune': correct the name, or write FILE.py"),
        ("tune.py:goal", r"tune\.py has no 'goal': correct the name, it defines _helper, obj"),
        ("tune.py:Searches.goal", r"tune\.py has no 'Searches.goal': correct the name"),
        ("searches:objective", "searches has no 'objective': .* it defines no function"),
    ],
)
def test_an_objective_that_does_not_exist(target: str, message: str, folder: Path) -> None:
    write(folder, tune=TUNE, searches__deep=TUNE)
    with pytest.raises(ObjectiveNotFound, match=message):
        load_objective(target)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("tune.py:SPACE", "tune.py:SPACE is a dict, not a function: name a function that takes"),
        ("searches.deep:SPACE", "searches.deep:SPACE is a dict, not a function"),
        ("tune.py:Searches.__name__", "tune.py:Searches.__name__ is a str, not a function"),
    ],
)
def test_an_objective_that_is_no_function(target: str, message: str, folder: Path) -> None:
    write(folder, tune=TUNE, searches__deep=TUNE)
    with pytest.raises(ObjectiveNotCallable, match=message):
        load_objective(target)


@pytest.mark.parametrize("target", ["tune.py:objective", "tune:objective"])
def test_what_a_module_itself_raises_is_the_users(target: str, folder: Path) -> None:
    write(folder, tune="import package_that_nobody_has")
    with pytest.raises(ModuleNotFoundError, match="package_that_nobody_has"):
        load_objective(target)


@pytest.mark.parametrize(
    ("value", "kind"), [(3, "an int"), (None, "a NoneType"), ("tune", "a str"), ([len], "a list")]
)
def test_check_callable(value: Any, kind: str) -> None:
    assert check_callable(len) is len
    with pytest.raises(ObjectiveNotCallable, match=f"^The objective is {kind}, not a function: "):
        check_callable(value)


# Sending


def run_elsewhere(data: bytes, folder: Path) -> str:
    """Unpickle and call an objective in a process that cannot import what is in the folder."""
    script = (
        "import pickle, sys\n"
        f"assert not any(path.startswith({str(folder)!r}) for path in sys.path)\n"
        "print(pickle.load(sys.stdin.buffer)(None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=data,
        capture_output=True,
        cwd="/",
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


MODULES = {
    "tune": (
        "import beside, package.part\n"
        "from package import part as renamed\n"
        "from names import constant\n"
        "class Local(beside.Base):\n"
        "    pass\n"
        "def objective(trial):\n"
        "    return [beside.double(2), package.part.VALUE, renamed.VALUE, constant(),\n"
        "            Local().name(), __name__]\n"
    ),
    "beside": (
        "import deeper\n"
        "def double(number):\n"
        "    return deeper.times(number, 2)\n"
        "class Base:\n"
        "    def name(self):\n"
        "        return type(self).__name__\n"
    ),
    "deeper": "def times(first, second):\n    return first * second\n",
    "package__part": "VALUE = 5\n",
    "names": "def constant():\n    return 6\n",
}


@pytest.mark.parametrize("target", ["tune.py:objective", "tune:objective"])
def test_modules_beside_the_script_travel(target: str, folder: Path) -> None:
    write(folder, **MODULES)
    objective, _ = load_objective(target)
    data = pickle_objective(objective, objective)
    assert run_elsewhere(data, folder) == "[4, 5, 5, 6, 'Local', 'tune']"


def test_a_namespace_package_beside_the_script_travels(folder: Path) -> None:
    write(folder, tune="from space import part\ndef objective(trial): return part.VALUE")
    (folder / "space").mkdir()
    (folder / "space" / "part.py").write_text("VALUE = 7")
    objective, _ = load_objective("tune.py:objective")
    assert run_elsewhere(pickle_objective(objective, objective), folder) == "7"


def test_installed_packages_stay_where_they_are() -> None:
    import yaml  # any package that has code of its own and is not the standard library's

    def objective(trial: Any) -> Any:
        return yaml.safe_dump, optuna.samplers.TPESampler, traceback.format_exc, pickle_objective

    data = pickle_objective(objective, objective)
    assert len(data) < 5_000
    assert b"optuna_spark.objectives" in data


def test_what_was_registered_with_cloudpickle_is_as_before(folder: Path) -> None:
    write(folder, **MODULES)
    objective, _ = load_objective("tune.py:objective")
    import beside  # type: ignore[import-not-found]

    objectives.cloudpickle.register_pickle_by_value(beside)
    try:
        before = set(objectives.cloudpickle.list_registry_pickle_by_value())
        assert before == {"beside"}
        pickle_objective(objective, objective)
        assert objectives.cloudpickle.list_registry_pickle_by_value() == before
        with pytest.raises(ObjectiveNotPicklable):
            pickle_objective(lambda trial: LOCK, lambda trial: LOCK)
        assert objectives.cloudpickle.list_registry_pickle_by_value() == before
    finally:
        objectives.cloudpickle.unregister_pickle_by_value(beside)


# Naming what cannot be sent


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not here")


SparkSession = type("SparkSession", (Unpicklable,), {})
DataFrame = type("DataFrame", (Unpicklable,), {})
LOCK = threading.Lock()
SPARK = SparkSession()
SETTINGS = {"paths": ["a", "b"], "guard": [1, {"deep": threading.Lock()}]}
HELD = types.SimpleNamespace(pool=types.SimpleNamespace(lock=threading.Lock()))
CYCLE = types.SimpleNamespace(list=[], guard=threading.Lock())
CYCLE.list.append(CYCLE)
GENERATOR = (number for number in range(3))


class Objective:
    def __init__(self) -> None:
        self.data = {"guard": threading.Lock()}

    def __call__(self, trial: Any) -> float:
        return 0.0

    def method(self, trial: Any) -> float:
        return 0.0


class Slotted:
    __slots__ = ("guard",)

    def __init__(self) -> None:
        self.guard = threading.Lock()

    def __call__(self, trial: Any) -> float:
        return 0.0


class OnTheClass:
    guard = threading.Lock()

    def __call__(self, trial: Any) -> float:
        return 0.0


class InAMethod:
    def __call__(self, trial: Any) -> Any:
        return LOCK

    @classmethod
    def of_class(cls, trial: Any) -> Any:
        return LOCK

    @staticmethod
    def static(trial: Any) -> Any:
        return LOCK


def uses_lock(trial: Any) -> Any:
    return LOCK


def calls_what_uses_lock(trial: Any) -> Any:
    return uses_lock(trial)


def takes_data(trial: Any, data: Any = None) -> Any:
    return data


def lock_by_default(trial: Any, guard: Any = LOCK) -> Any:
    return guard


def lock_by_keyword(trial: Any, *, guard: Any = LOCK) -> Any:
    return guard


def holds_lock_inside(trial: Any) -> Any:
    def inner() -> Any:
        return LOCK

    return inner


def closes_over(value: Any) -> Callable[[Any], Any]:
    def objective(trial: Any) -> Any:
        return objective, value

    return objective


def in_create_or_open(name: str) -> str:
    return rf"captures {re.escape(name)}, which cannot be sent to executors: create or open it"


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        pytest.param(uses_lock, in_create_or_open("LOCK, a lock"), id="global"),
        pytest.param(closes_over(LOCK), in_create_or_open("value, a lock"), id="closure"),
        pytest.param(lambda trial: LOCK, in_create_or_open("LOCK, a lock"), id="lambda"),
        pytest.param(calls_what_uses_lock, in_create_or_open("LOCK, a lock"), id="through-a-call"),
        pytest.param(holds_lock_inside, in_create_or_open("LOCK, a lock"), id="inner-function"),
        pytest.param(
            lambda trial: [LOCK for _ in range(3)],
            in_create_or_open("LOCK, a lock"),
            id="comprehension",
        ),
        pytest.param(lock_by_default, in_create_or_open("guard, a lock"), id="default"),
        pytest.param(lock_by_keyword, in_create_or_open("guard, a lock"), id="keyword-default"),
        pytest.param(
            lambda trial: SETTINGS,
            in_create_or_open("SETTINGS['guard'][1]['deep'], a lock"),
            id="in-a-dict",
        ),
        pytest.param(
            lambda trial: HELD.pool.lock,
            in_create_or_open("HELD.pool.lock, a lock"),
            id="attribute-of-an-attribute",
        ),
        pytest.param(
            lambda trial: CYCLE, in_create_or_open("CYCLE.guard, a lock"), id="in-a-cycle"
        ),
        pytest.param(
            functools.partial(takes_data, data=LOCK),
            in_create_or_open("data, a lock"),
            id="keyword-of-a-partial",
        ),
        pytest.param(
            functools.partial(takes_data, "ignored", [LOCK]),
            in_create_or_open("argument 1[0], a lock"),
            id="argument-of-a-partial",
        ),
        pytest.param(
            functools.partial(uses_lock), in_create_or_open("LOCK, a lock"), id="partial-of-it"
        ),
        pytest.param(
            Objective().method,
            in_create_or_open("self.data['guard'], a lock"),
            id="object-of-a-method",
        ),
        pytest.param(
            Objective(), in_create_or_open("self.data['guard'], a lock"), id="instance-of-a-class"
        ),
        pytest.param(Slotted(), in_create_or_open("self.guard, a lock"), id="slot"),
        pytest.param(OnTheClass(), in_create_or_open("OnTheClass.guard, a lock"), id="class"),
        pytest.param(InAMethod(), in_create_or_open("LOCK, a lock"), id="in-a-method"),
        pytest.param(InAMethod.of_class, in_create_or_open("LOCK, a lock"), id="class-method"),
        pytest.param(InAMethod.static, in_create_or_open("LOCK, a lock"), id="static-method"),
        pytest.param(
            closes_over(GENERATOR), in_create_or_open("value, a generator"), id="generator"
        ),
        pytest.param(
            lambda trial: SPARK,
            r"captures SPARK, a SparkSession, .*: Spark objects stay on the driver\.",
            id="spark-session",
        ),
        pytest.param(
            closes_over([DataFrame()]),
            r"captures value\[0\], a DataFrame, .*: .* collect the data first\.",
            id="spark-data-frame",
        ),
        pytest.param(
            Unpicklable,
            None,
            id="a-class-travels-though-its-objects-do-not",
        ),
        pytest.param(
            type("Odd", (Unpicklable,), {"__call__": takes_data})(),
            r"objective cannot be sent to executors \(RuntimeError: not here\): create or open",
            id="the-objective-itself",
        ),
    ],
)
def test_what_cannot_be_sent_is_named(objective: Any, message: str | None) -> None:
    if message is None:
        assert pickle.loads(pickle_objective((objective,), objective))
        return
    with pytest.raises(ObjectiveNotPicklable, match=message) as caught:
        pickle_objective((objective, None), objective)
    assert str(caught.value).startswith("The objective c")
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("mode", ["wb", "rb", "w", "a"])
def test_an_open_file_is_named(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    with path.open(mode) as file:
        objective = closes_over(file)
        with pytest.raises(ObjectiveNotPicklable, match=in_create_or_open("value, an open file")):
            pickle_objective(objective, objective)


def test_a_text_file_open_for_reading_is_sent_as_its_text(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("all of it")
    with (tmp_path / "data").open() as file:
        objective = closes_over(file)
        copy = pickle.loads(pickle_objective(objective, objective))
    _, value = copy(None)
    assert isinstance(value, io.StringIO)
    assert value.read() == "all of it"


class LockedSampler(optuna.samplers.RandomSampler):
    def __init__(self) -> None:
        super().__init__()
        self.guard = threading.Lock()


def test_a_sampler_that_cannot_be_sent_is_not_blamed_on_the_objective() -> None:
    expected = "^The LockedSampler captures self.guard, a lock, which cannot be sent"
    with pytest.raises(ObjectiveNotPicklable, match=expected):
        pickle_objective((takes_data, LockedSampler(), None, ()), takes_data)


# Size


TABLE = bytes(3 << 20)


def with_default(trial: Any, table: bytes = TABLE) -> int:
    return len(table)


class Holder:
    def __init__(self, table: bytes) -> None:
        self.small, self.table = b"1", table

    def __call__(self, trial: Any) -> int:
        return len(self.table)


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (lambda trial: TABLE, "TABLE"),
        (closes_over(TABLE), "value"),
        (with_default, "table"),
        (functools.partial(takes_data, data=TABLE), "data"),
        (functools.partial(with_default), "table"),
        (Holder(TABLE), "self.table"),
        (Holder(TABLE).__call__, "self"),
    ],
)
def test_a_large_capture_is_named(
    objective: Any, name: str, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    pickle_objective(objective, objective)
    assert not recwarn.list, "3 MB are no matter"
    monkeypatch.setattr(objectives, "LARGE_CAPTURE", 1 << 20)
    expected = rf"^The objective is 3 MB, of which '{name}' is 3 MB: .* cheaper\.$"
    with pytest.warns(UserWarning, match=expected):
        data = pickle_objective(objective, objective)
    assert len(data) > len(TABLE)


# Exceptions


class Custom(ValueError):
    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text, code)
        self.text, self.code = text, code


class TwoArguments(LookupError):
    """Cannot be made again from its `args`, of which there is one."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class HoldsLock(ConnectionError):
    def __init__(self, text: object) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class MadeOfNothing(LookupError):
    """Takes no argument at all, not even where it is made."""

    def __new__(cls) -> MadeOfNothing:
        return super().__new__(cls)

    def __init__(self) -> None:
        super().__init__(7)


class CannotBePrinted(MadeOfNothing):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("a"), ValueError, "a"),
        (KeyError("a"), KeyError, "'a'"),
        (OSError(2, "No such file", "data.csv"), FileNotFoundError, "[Errno 2]"),
        (SystemExit(3), SystemExit, "3"),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        (optuna.TrialPruned("late"), optuna.TrialPruned, "late"),
        (Custom("a", code=7), Custom, "('a', 7)"),
        (TwoArguments(7, "a"), TwoArguments, "7: a"),
        (HoldsLock("gone"), HoldsLock, "gone"),
        (HoldsLock(LOCK), HoldsLock, "<unlocked _thread.lock"),
        (MadeOfNothing(), LookupError, "MadeOfNothing: 7"),
        (CannotBePrinted(), LookupError, "CannotBePrinted"),
    ],
)
def test_an_exception_travels_as_near_as_can_be(
    error: BaseException, kind: type[BaseException], text: str
) -> None:
    copy = pickle.loads(pickle_error(error))
    assert type(copy) is kind
    assert str(copy).startswith(text)
    if isinstance(error, Custom):
        assert (copy.text, copy.code) == ("a", 7)


def test_an_exception_of_a_class_that_the_driver_has_not_travels(folder: Path) -> None:
    write(folder, tune="class Odd(ValueError): pass\ndef objective(trial): return Odd('here')")
    objective, module = load_objective("tune.py:objective")
    sent = pickle_objective(objective, objective)
    script = (
        "import pickle, sys\n"
        "from optuna_spark.objectives import pickle_error\n"
        "error = pickle.load(sys.stdin.buffer)(None)\n"
        "sys.stdout.buffer.write(pickle_error(error))"
    )
    root = str(Path(objectives.__file__).parents[1])
    back = subprocess.run(
        [sys.executable, "-c", script],
        input=sent,
        stdout=subprocess.PIPE,
        cwd="/",
        env={**os.environ, "PYTHONPATH": root},
        check=True,
    ).stdout
    assert type(pickle.loads(back)) is module.Odd


def test_a_cached_function_beside_the_objective_travels_by_value(folder: Path) -> None:
    (folder / "cached_tune.py").write_text(
        "import functools\n"
        "@functools.lru_cache(maxsize=7)\n"
        "def data():\n    return [21]\n"
        "def objective(trial):\n    return data()[0] * 2 if data() is data() else None\n"
    )
    objective, _ = load_objective("cached_tune.py:objective")
    sent = pickle_objective(objective, objective)
    script = (
        "import pickle, sys; f = pickle.load(sys.stdin.buffer);"
        "print(f(None), f.__globals__['data'].cache_parameters()['maxsize'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=sent,
        capture_output=True,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(Path(objectives.__file__).parents[1])},
    )
    assert done.stdout.split() == [b"42", b"7"], done.stderr
