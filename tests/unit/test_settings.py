"""Frozen values: what they accept, what they refuse in one sentence, and what they never show."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

from optuna_spark.exceptions import UsageError
from optuna_spark.settings import DEFAULT_STORAGE_GRACE, Limits, StorageAddress, storage_grace

ADDRESS = StorageAddress(
    url="mysql+pymysql://optuna:s3cret@db/optuna",
    shown="mysql+pymysql://optuna:***@db/optuna",
    engine_options=(("connect_args", {"passwd": "s3cret"}),),
)


@pytest.mark.parametrize("shown", [str, repr, "{}".format, "{0!r}".format, lambda a: f"{[a]}"])
def test_an_address_never_shows_its_password(shown: Any) -> None:
    assert "s3cret" not in shown(ADDRESS)
    assert "***" in shown(ADDRESS)


def test_an_address_travels_whole() -> None:
    copy = pickle.loads(pickle.dumps(ADDRESS))
    assert copy == ADDRESS
    assert copy.url == ADDRESS.url
    assert copy.engine_options == ADDRESS.engine_options


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////tmp/study.db", True),
        ("sqlite+pysqlite:////tmp/study.db", True),
        ("mysql+pymysql://db/sqlite", False),
        ("mariadb+pymysql://db/optuna", False),
        ("postgresql://db/optuna", False),
    ],
)
def test_is_sqlite(url: str, expected: bool) -> None:
    assert StorageAddress(url, url).is_sqlite is expected


@pytest.mark.parametrize("value", [ADDRESS, Limits()])
def test_values_are_frozen(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"n_trials": 0},
        {"n_trials": 10**9},
        {"n_trials": np.int64(20)},
        {"total_trials": 0},
        {"n_jobs": -1},
        {"n_jobs": 1},
        {"n_jobs": np.int32(4)},
        {"timeout": 0.001},
        {"timeout": 60},
        {"timeout": math.inf},
        {"timeout": np.float32(1.5)},
        {"max_retries": 0},
        {"n_trials": 20, "timeout": 60, "n_jobs": 4, "max_retries": 9},
        {"total_trials": 20, "timeout": 60.0},
    ],
)
def test_limits_that_are_right(arguments: dict[str, Any]) -> None:
    limits = Limits(**arguments)
    assert {name: getattr(limits, name) for name in arguments} == arguments


COUNTS = [-1, -100, 1.5, 2.0, "3", True, math.nan, [4], np.float64(2)]


@pytest.mark.parametrize(
    ("arguments", "thing"),
    [
        *(({"n_trials": count}, "n_trials") for count in COUNTS),
        *(({"total_trials": count}, "total_trials") for count in COUNTS),
        *(({"max_retries": count}, "max_retries") for count in [*COUNTS, None]),
        *(({"n_jobs": count}, "n_jobs") for count in [0, -2, 1.0, "4", True, None]),
        *(({"timeout": time}, "timeout") for time in [0, -1, -0.5, math.nan, "60", [1], True]),
        ({"n_trials": 1, "total_trials": 1}, "n_trials"),
        ({"n_trials": 0, "total_trials": 0}, "total_trials"),
    ],
)
def test_limits_that_are_wrong(arguments: dict[str, Any], thing: str) -> None:
    with pytest.raises(UsageError, match=rf"`{thing}`.*[:;] .*\.$") as caught:
        Limits(**arguments)
    assert isinstance(caught.value, ValueError)
    if len(arguments) == 1:
        assert repr(arguments[thing]) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, DEFAULT_STORAGE_GRACE), ("", DEFAULT_STORAGE_GRACE), ("0", 0.0), ("2.5", 2.5)],
)
def test_storage_grace(text: str | None, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTUNA_SPARK_STORAGE_GRACE", raising=False)
    if text is not None:
        monkeypatch.setenv("OPTUNA_SPARK_STORAGE_GRACE", text)
    assert storage_grace() == expected


@pytest.mark.parametrize("text", ["soon", "2 minutes", "-1", "nan"])
def test_storage_grace_that_is_wrong(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTUNA_SPARK_STORAGE_GRACE", text)
    with pytest.raises(UsageError, match=f"OPTUNA_SPARK_STORAGE_GRACE is '{text}': give "):
        storage_grace()
