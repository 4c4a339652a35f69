"""The environment of the processes that tests start."""

from __future__ import annotations

import os

# A test's JVM lives for seconds, in which the second compiler costs more than it gains.
QUICK_JAVA = "-XX:TieredStopAtLevel=1"


def plain_environment(**more: str) -> dict[str, str]:
    """This process's environment without what it tells Spark, Optuna and MySQL, and `more`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SPARK", "PYSPARK", "OPTUNA", "MYSQL"))
    }
    return {**kept, **more}
