"""The process that forks an executor's Python workers, with our modules imported beforehand.

pyspark's own daemon imports nothing, so that each Python worker would import Optuna and SQLAlchemy
for itself. Spark starts this module in its place where `spark.python.daemon.module` names it, as
in the sessions that `find_session` makes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib

from pyspark import daemon


def main() -> None:
    """Import what trials need, and do as pyspark's daemon."""
    # What is wrong with this Python says the task that needs it, and Spark tells the driver.
    with contextlib.suppress(Exception):
        importlib.import_module("pyspark.worker")
        trial_process = importlib.import_module("optuna_spark.trial_process")
        trial_process.import_late()
        trial_process.forget_archives()
    gc.collect()
    gc.freeze()  # the workers' collections leave these pages alone, so that they stay shared
    daemon.manager()


if __name__ == "__main__":
    main()
