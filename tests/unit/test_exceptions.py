"""The error tree: drawn as it is, catchable as promised, and fit to travel."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re

import optuna
import pytest

from optuna_spark import exceptions
from optuna_spark.exceptions import OptunaSparkError, StudyNotFound

CLASSES = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and value.__module__ == exceptions.__name__
]
each_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Each name of the docstring's drawing, with its parent and what is in brackets behind it."""
    drawn: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    for line in (exceptions.__doc__ or "").splitlines():
        found = re.fullmatch(r"([ │]*(?:[├└]── )?)([A-Z]\w+)(?: +\(([\w.]+)\))?(?:  .*)?", line)
        if found is None:
            continue
        depth, name = len(found[1]), found[2]
        while path and path[-1][0] >= depth:
            path.pop()
        drawn[name] = (path[-1][1] if path else None, found[3])
        path.append((depth, name))
    return drawn


def resolve(name: str) -> type[BaseException]:
    place, _, attribute = name.rpartition(".")
    assert place in ("", "optuna.exceptions")
    kind: type[BaseException] = getattr(optuna.exceptions if place else builtins, attribute)
    return kind


def test_the_drawing_holds_each_class_once_and_no_other() -> None:
    drawn = drawn_tree()
    assert sorted(drawn) == sorted(kind.__name__ for kind in CLASSES)
    assert (exceptions.__doc__ or "").count("── ") == len(CLASSES) - 1


@each_class
def test_the_drawing_shows_the_bases(kind: type[OptunaSparkError]) -> None:
    parent, promised = drawn_tree()[kind.__name__]
    bases = [base for base in kind.__bases__ if base is not Exception]
    ours = [base.__name__ for base in bases if issubclass(base, OptunaSparkError)]
    foreign = [base for base in bases if not issubclass(base, OptunaSparkError)]
    assert ours == ([] if parent is None else [parent])
    assert foreign == ([] if promised is None else [resolve(promised)])


@each_class
def test_an_error_is_what_was_promised_to_those_who_catch_it(kind: type[OptunaSparkError]) -> None:
    name: str | None = kind.__name__
    while name is not None:
        name, promised = drawn_tree()[name]
        if promised is not None:
            with pytest.raises(resolve(promised)):
                raise kind("message")
    with pytest.raises(OptunaSparkError):
        raise kind("message")


@each_class
def test_an_error_travels_and_prints_its_message_alone(kind: type[OptunaSparkError]) -> None:
    message = "There is no study named 'wine': create it."
    copy = pickle.loads(pickle.dumps(kind(message)))
    assert type(copy) is kind
    assert copy.args == (message,)
    assert str(copy) == message


@each_class
def test_an_error_says_what_it_means(kind: type[OptunaSparkError]) -> None:
    text = inspect.getdoc(kind)
    assert text is not None
    assert text != inspect.getdoc(kind.__mro__[1])
    assert re.fullmatch(r"[A-Z][^\n]*\.", text)


def test_study_not_found_is_a_key_error_without_its_quotes() -> None:
    assert str(KeyError("no study")) == "'no study'"
    assert str(StudyNotFound("no study")) == "no study"
    assert str(StudyNotFound()) == ""
