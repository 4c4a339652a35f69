"""Fixtures of all tests, and what all processes that they start have in common."""

import os

from tests.environment import QUICK_JAVA

pytest_plugins = ["tests.fixtures_servers", "tests.fixtures_spark"]

os.environ.update(QUICK_JAVA)
