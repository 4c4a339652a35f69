"""What an executor finds around itself, for `optuna-spark check`."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import pyspark
from optuna.storages import BaseStorage

from optuna_spark.addresses import database_package
from optuna_spark.exceptions import OptunaSparkError
from optuna_spark.settings import StorageAddress
from optuna_spark.storage import close_storage, open_storage
from optuna_spark.trial_task import package_versions

_SPREAD_SECONDS = 0.5  # that a probe keeps its slot, so that the next one takes another


@dataclass(frozen=True)
class Facts:
    """What one executor has."""

    host: str
    python: str
    java: str | None  # None where the system does not tell
    versions: dict[str, str]  # of packages that must be as on the driver
    database_package: tuple[str, str | None] | None  # name, and version where it is installed
    storage_error: str | None  # why it cannot use the study's database
    seconds: float  # by its clock


class Probe:
    """Runs on an executor, and says what it finds there."""

    def __init__(self, address: StorageAddress | BaseStorage | None) -> None:
        self._address = address

    def __call__(self) -> Facts:
        now = time.time()
        package, error = None, None
        if isinstance(self._address, StorageAddress):
            package = database_package(self._address)
            if package is None or package[1] is not None:
                error = _storage_error(self._address)
        time.sleep(_SPREAD_SECONDS)
        return Facts(
            host=socket.gethostname(),
            python=platform.python_version(),
            java=_java_version(),
            versions=versions(),
            database_package=package,
            storage_error=error,
            seconds=now,
        )


def versions() -> dict[str, str]:
    """Versions of the packages that driver and executors must have alike, pyspark's among them."""
    return {**package_versions(), "pyspark": pyspark.__version__}


def _storage_error(address: StorageAddress) -> str | None:
    try:
        close_storage(open_storage(address, create_schema=False, grace=0))
    except OptunaSparkError as error:
        return str(error)
    return None


def _java_version() -> str | None:
    """Of the JVM that has started this Python worker, as its own folder says."""
    pid = os.getpid()
    with contextlib.suppress(OSError):  # not Linux
        while pid > 1:
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pid = int(status[1])
            program = Path(os.readlink(f"/proc/{pid}/exe"))
            if program.name == "java":
                release = (program.parents[1] / "release").read_text()
                found = re.search(r'^JAVA_VERSION="(.+)"', release, re.MULTILINE)
                return found[1] if found else None
    return None
