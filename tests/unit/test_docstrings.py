"""The examples in docstrings are what Python answers."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import optuna_spark

MODULES = [f"optuna_spark.{module.name}" for module in pkgutil.iter_modules(optuna_spark.__path__)]


@pytest.mark.parametrize("name", ["optuna_spark", *MODULES, "benchmarks.report"])
def test_examples(name: str) -> None:
    if not name.endswith(".__main__"):
        assert doctest.testmod(importlib.import_module(name)).failed == 0
