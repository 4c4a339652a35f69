"""The public interface: names, parameters, docstrings; and the order of the modules behind it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import optuna_spark

PACKAGE = Path(optuna_spark.__file__).parent
ROOT = PACKAGE.parent
TREES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}

# Libraries that one room alone knows.
ALONE = {
    "sqlalchemy": {
        "addresses",
        "encryption",
        "lean_storage",
        "patient_storage",
        "storage",
        "storage_errors",
        "trial_rows",
    },
    "cloudpickle": {"objectives"},
    "joblib": {"backend"},
    "joblibspark": {"backend"},
    "argparse": {"cli"},
}

each_module = pytest.mark.parametrize("module", TREES)

# Names


def test_all_names_what_is_public() -> None:
    expected = ["OptunaSparkError", "SparkStudy", "create_study", "load_study"]
    assert optuna_spark.__all__ == expected
    space: dict[str, Any] = {}
    exec("from optuna_spark import *", space)
    assert sorted(space.keys() - {"__builtins__"}) == expected


def test_the_version_is_that_of_the_distribution() -> None:
    declared = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert optuna_spark.__version__ == declared[1]
    assert (
        f"[{declared[1]}]" in (ROOT / "CHANGELOG.md").read_text()
        or "Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


# Parameters


def defaults_of(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def test_a_spark_study_is_a_study() -> None:
    assert issubclass(optuna_spark.SparkStudy, optuna.Study)


def test_optimize_takes_what_optuna_takes() -> None:
    theirs = defaults_of(optuna.Study.optimize)
    ours = defaults_of(optuna_spark.SparkStudy.optimize)
    assert list(ours)[: len(theirs)] == list(theirs)
    assert theirs.pop("n_jobs") == 1
    assert ours.pop("n_jobs") == -1, "every task slot is why one uses Spark"
    assert {name: ours[name] for name in theirs} == theirs


def test_what_optimize_takes_besides_is_by_keyword_and_may_be_left_out() -> None:
    theirs = inspect.signature(optuna.Study.optimize).parameters
    ours = inspect.signature(optuna_spark.SparkStudy.optimize).parameters
    assert {"total_trials", "max_retries"} <= set(ours)
    for name, parameter in ours.items():
        if name in theirs:
            assert parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        else:
            assert parameter.kind is parameter.KEYWORD_ONLY
            assert parameter.default is not parameter.empty


@pytest.mark.parametrize("name", ["create_study", "load_study"])
def test_a_study_is_made_with_what_optuna_takes_and_a_session(name: str) -> None:
    theirs, ours = (defaults_of(getattr(of, name)) for of in (optuna, optuna_spark))
    assert ours.pop("spark") is None
    assert list(ours) == list(theirs)
    # What Optuna must be given may be left out here, as OPTUNA_STORAGE says it.
    given = {key: None if key == "storage" else value for key, value in theirs.items()}
    assert ours == given


# Docstrings


def public_definitions(
    tree: ast.Module,
) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef, ast.ClassDef | None]]:
    """Public classes, functions and methods, with the class that holds them."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            yield node.name, node, None
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner, node


DEFINITIONS = {
    f"{module}.{name}": (node, holder)
    for module, tree in TREES.items()
    for name, node, holder in public_definitions(tree)
}
each_definition = pytest.mark.parametrize("name", DEFINITIONS)


def sections(docstring: str) -> dict[str, list[str]]:
    """The entries of each section of a docstring in Google's style."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in docstring.splitlines():
        if re.fullmatch(r"(Args|Raises|Returns|Example):", line):
            section = line[:-1]
            found[section] = []
        elif entry := re.match(r"    (\*{0,2}[\w.]+): ", line):
            found.setdefault(section, []).append(entry[1])
    return found


def parameters_of(node: ast.ClassDef | ast.FunctionDef, holder: ast.ClassDef | None) -> list[str]:
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
                return parameters_of(inner, node)
        return []
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    names = [argument.arg for argument in given]
    static = any(getattr(mark, "id", "") == "staticmethod" for mark in node.decorator_list)
    return names[1:] if holder is not None and not static else names


@each_module
def test_each_module_says_what_it_is_for(module: str) -> None:
    assert re.match(r"[\w`][^\n]+[.:]$", ast.get_docstring(TREES[module]) or "", re.M)


@each_definition
def test_what_is_public_has_a_docstring_of_its_parameters(name: str) -> None:
    node, holder = DEFINITIONS[name]
    docstring = ast.get_docstring(node)
    assert docstring, f"{name} has no docstring"
    assert re.match(r"[A-Z`'][^\n]+\.( [A-Z][^\n]*)?$", docstring, re.M), docstring
    told = sections(docstring).get("Args")
    if told is not None:
        assert told == parameters_of(node, holder)


@each_definition
def test_what_raises_says_so(name: str) -> None:
    node, _ = DEFINITIONS[name]
    if isinstance(node, ast.ClassDef):
        return
    inner = list(ast.walk(node))
    raised = [
        ast.unparse(child.exc) for child in inner if isinstance(child, ast.Raise) and child.exc
    ]
    for_users = [text for text in raised if not text.startswith("AssertionError")]
    if for_users and not any(isinstance(child, ast.Yield) for child in inner):
        assert "Raises" in sections(ast.get_docstring(node) or ""), for_users


@pytest.mark.parametrize(
    "function",
    [
        optuna_spark.SparkStudy,
        optuna_spark.SparkStudy.optimize,
        optuna_spark.create_study,
        optuna_spark.load_study,
    ],
    ids=lambda function: function.__qualname__,
)
def test_what_users_call_is_documented_whole(function: Any) -> None:
    told = sections(inspect.getdoc(function) or "")
    expected = [name for name in inspect.signature(function).parameters if name != "self"]
    assert told["Args"] == expected
    if not inspect.isclass(function):
        assert "Example" in told
        for error in told["Raises"]:
            kind = getattr(importlib.import_module("optuna_spark.exceptions"), error, None)
            assert kind is not None or error == "Exception"


# The order of the modules


def modules_in_order() -> list[str]:
    """The house of CONTRIBUTING.md, and what is above all of it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return [*re.findall(r"^\| `(\w+)` \|", text, re.M), "__init__", "__main__"]


def imports_of(module: str) -> Iterator[str]:
    """Dotted names of all that a module imports, inside functions too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for name in node.names:
                yield f"{node.module}.{name.name}"


def test_each_module_has_its_room() -> None:
    assert sorted(modules_in_order()) == sorted(TREES)


@each_module
def test_a_module_imports_only_from_those_above_it(module: str) -> None:
    order = modules_in_order()
    for name in imports_of(module):
        if name.split(".")[0] == "optuna_spark":
            part = name.split(".")[1]
            assert part in order or part == "__version__", f"{name} is of no module"
            if part != "__version__":
                assert order.index(part) < order.index(module), f"{module} imports {name}"


@each_module
def test_a_library_has_one_module_that_knows_it(module: str) -> None:
    for name in imports_of(module):
        assert module in ALONE.get(name.split(".")[0], {module}), f"{module} imports {name}"


def test_each_of_those_libraries_is_known_to_its_module() -> None:
    for library, modules in ALONE.items():
        for module in modules:
            assert library in {name.split(".")[0] for name in imports_of(module)}


@each_module
def test_a_module_imports_nothing_that_is_not_declared(module: str) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    declared = {name.lower().replace("-", "_") for name in re.findall(r'^ *"([\w-]+)', text, re.M)}
    declared |= {name.lower().replace("-", "_") for name in re.findall(r'\["([\w-]+)', text)}
    for name in imports_of(module):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top != "optuna_spark":
            assert top.lower() in declared, f"{module} imports {name}"
