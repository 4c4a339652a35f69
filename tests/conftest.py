"""Fixtures of all tests, and what all processes that they start have in common."""

import os

from tests.environment import QUICK_JAVA

pytest_plugins = ["tests.fixtures_servers", "tests.fixtures_spark"]

_given = os.environ.get("JDK_JAVA_OPTIONS", "")  # has it already in a second process of pytest
if QUICK_JAVA not in _given:
    os.environ["JDK_JAVA_OPTIONS"] = f"{_given} {QUICK_JAVA}".strip()
