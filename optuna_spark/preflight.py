"""`optuna-spark check`: what a run needs, tried on the driver and on each executor's host."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from optuna.storages import BaseStorage
from pyspark.sql import SparkSession

from optuna_spark.addresses import check_shared, find_address
from optuna_spark.backend import SparkBackend
from optuna_spark.exceptions import SHIP, OptunaSparkError
from optuna_spark.patient_storage import server_seconds
from optuna_spark.session import find_session, is_local, remote_hosts
from optuna_spark.settings import StorageAddress
from optuna_spark.storage import (
    DRIVER_CONNECTIONS,
    close_storage,
    connection_limit,
    name_collation,
    open_storage,
    tls_cipher,
    try_to_write,
)
from optuna_spark.storage_errors import translated_errors
from optuna_spark.trial_task import package_versions

CLOCKS_APART = 60.0  # seconds; more make the times of trials useless
_SPREAD_SECONDS = 0.5  # that a probe keeps its slot, so that the next one takes another


class Verdict(Enum):
    """What a finding means for a run."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One line of the check."""

    where: str  # driver, storage, or an executor's host
    what: str
    verdict: Verdict
    text: str  # what was found, and the remedy where it is not well


def check(storage: str | None = None, n_jobs: int = -1) -> list[Finding]:
    """Try everything that a run needs.

    Args:
        storage: As for `create_study`.
        n_jobs: How many trials shall run at once; -1 for every task slot.

    Returns:
        One finding for each thing that was tried, the driver's first.

    Example:
        >>> [finding.text for finding in check()]  # doctest: +SKIP
        ['3.11.7', 'openjdk version "17.0.15" 2025-04-15', ...]
    """
    findings = [_ok("driver", "Python", platform.python_version()), _java()]
    findings += [
        _ok("driver", name, version) for name, version in sorted(package_versions().items())
    ]
    address: StorageAddress | BaseStorage | None = None
    with _recorded(findings, "storage", "address"):
        address = find_address(storage)
        findings.append(_ok("storage", "address", str(address)))
    session: SparkSession | None = None
    slots: int | None = None
    with _recorded(findings, "driver", "Spark"):
        session = find_session()
        slots = _count_slots(session)
        text = f"{session.version}, {session.sparkContext.master}, {slots} task slots"
        findings.append(_ok("driver", "Spark", text))
    if address is not None:
        with _recorded(findings, "storage", "connection"):
            wanted = n_jobs if n_jobs > 0 else slots
            findings += _check_storage(address, wanted)
    if session is not None and slots is not None:
        with _recorded(findings, "executors", "probe"):
            if address is not None:
                check_shared(address, remote_hosts(session))
            findings += _check_executors(session, address, slots)
    return findings


def _check_storage(address: StorageAddress | BaseStorage, slots: int | None) -> list[Finding]:
    storage = open_storage(address, create_schema=True, grace=0)
    findings = [_ok("storage", "connection", "it answers, and has Optuna's tables")]
    try:
        with _recorded(findings, "storage", "rights"), translated_errors(address):
            try_to_write(storage)
            findings.append(_ok("storage", "rights", "it takes writes"))
        findings += [*_encryption(storage), *_collation(storage), *_connections(storage, slots)]
        before = time.time()
        findings += _clock("storage", server_seconds(storage), before, time.time())
    finally:
        close_storage(storage)
    return findings


def _encryption(storage: BaseStorage) -> list[Finding]:
    cipher = tls_cipher(storage)
    if cipher is None:
        return []
    if cipher:
        return [_ok("storage", "TLS", cipher)]
    text = "off: everyone on the way can read along; set up TLS on the server"
    return [Finding("storage", "TLS", Verdict.WARNING, text)]


def _collation(storage: BaseStorage) -> list[Finding]:
    collation = name_collation(storage)
    if collation is None:
        return []
    if not collation.endswith("_ci"):
        return [_ok("storage", "collation", collation)]
    text = (
        f"{collation}: parameters 'a' and 'A' are one; use a database with a case-sensitive "
        "collation, as deploy/mysql/setup.sh makes"
    )
    return [Finding("storage", "collation", Verdict.FAILED, text)]


def _connections(storage: BaseStorage, slots: int | None) -> list[Finding]:
    limit = connection_limit(storage)
    if limit is None or slots is None:
        return []
    if slots + DRIVER_CONNECTIONS <= limit:
        return [_ok("storage", "connections", f"{limit}, enough for {slots} task slots")]
    text = (
        f"{limit}, too few for {slots} task slots and the driver: raise max_connections to "
        f"{slots + DRIVER_CONNECTIONS}, or lower `n_jobs`"
    )
    return [Finding("storage", "connections", Verdict.FAILED, text)]


def _clock(where: str, theirs: float | None, before: float, after: float) -> list[Finding]:
    if theirs is None:
        return []
    apart = max(before - theirs, theirs - after, 0.0)
    if apart <= CLOCKS_APART:
        return [_ok(where, "clock", f"{apart:.0f} s from the driver's")]
    text = f"{apart:.0f} s from the driver's: set both by NTP"
    return [Finding(where, "clock", Verdict.FAILED, text)]


def _check_executors(
    session: SparkSession, address: StorageAddress | BaseStorage | None, slots: int
) -> list[Finding]:
    backend = SparkBackend(session, "optuna-spark-check")
    try:
        began = time.time()
        probes = [backend.submit(_Probe(address), description="check") for _ in range(slots)]
        found = [backend.retrieve_result_callback(probe) for probe in probes]
        ended = time.time()
    finally:
        backend.terminate()
    findings: list[Finding] = []
    for host in sorted({facts["host"] for facts in found}):
        facts = next(facts for facts in found if facts["host"] == host)
        where = f"executor {host}"
        findings.append(_ok(where, "Python", facts["python"]))
        findings += _packages(where, facts["versions"])
        if facts["storage"] is None:
            findings.append(_ok(where, "storage", "it is reached"))
        else:
            findings.append(Finding(where, "storage", Verdict.FAILED, facts["storage"]))
        findings += _clock(where, facts["time"], began, ended)
    return findings


def _packages(where: str, theirs: dict[str, str]) -> list[Finding]:
    findings = []
    for name, version in sorted(package_versions().items()):
        found = theirs.get(name, "none")
        if found == version:
            findings.append(_ok(where, name, found))
        else:
            text = f"{found}, and the driver has {version}: {SHIP}"
            findings.append(Finding(where, name, Verdict.FAILED, text))
    return findings


class _Probe:
    """Runs on an executor, and says what it finds there."""

    def __init__(self, address: StorageAddress | BaseStorage | None) -> None:
        self._address = address

    def __call__(self) -> dict[str, Any]:
        error = None
        now = time.time()
        if isinstance(self._address, StorageAddress):
            try:
                close_storage(open_storage(self._address, create_schema=False, grace=0))
            except OptunaSparkError as found:
                error = str(found)
        time.sleep(_SPREAD_SECONDS)
        return {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "versions": package_versions(),
            "storage": error,
            "time": now,
        }


def _count_slots(session: SparkSession) -> int:
    backend = SparkBackend(session, "optuna-spark-check")
    try:
        if not is_local(session):
            # Executors register one by one: any job waits for the first.
            backend.retrieve_result_callback(backend.submit(os.getpid, description="check"))
        return backend.slots()
    finally:
        backend.terminate()


def _java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        text = "none: install Java 17 or later, or set JAVA_HOME to one"
        return Finding("driver", "Java", Verdict.FAILED, text)
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    return _ok("driver", "Java", (done.stderr or done.stdout).splitlines()[0])


def _ok(where: str, what: str, text: str) -> Finding:
    return Finding(where, what, Verdict.OK, text)


@contextlib.contextmanager
def _recorded(findings: list[Finding], where: str, what: str) -> Iterator[None]:
    """Make a finding of an error, and go on."""
    try:
        yield
    except OptunaSparkError as error:
        findings.append(Finding(where, what, Verdict.FAILED, str(error)))
