"""`optuna-spark check`: what a run needs, tried on the driver and on each executor's host."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from optuna.storages import BaseStorage
from pyspark.sql import SparkSession

from optuna_spark.addresses import check_shared, database_package, find_address
from optuna_spark.encryption import turned_on
from optuna_spark.exceptions import SHIP, OptunaSparkError, StorageAccessDenied
from optuna_spark.patient_storage import server_seconds
from optuna_spark.probe import Facts, Probe, versions
from optuna_spark.session import find_session, longest_silence, remote_hosts
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
from optuna_spark.survey import Survey
from optuna_spark.trial_process import TaskLost

CLOCKS_APART = 60.0  # seconds; more make the times of trials useless
_HOSTS_NAMED = 3  # in one line, at most


class Verdict(Enum):
    """What a finding means for a run."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One line of the check."""

    where: str  # driver, storage, or executors' hosts
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
    findings += [_ok("driver", name, version) for name, version in sorted(versions().items())]
    address: StorageAddress | BaseStorage | None = None
    with _recorded(findings, "storage", "address"):
        address = find_address(storage)
        findings += _database_package(address)
        findings.append(_ok("storage", "address", str(address)))
    session: SparkSession | None = None
    with _recorded(findings, "driver", "Spark"):
        session = find_session(brief=True)
    slots: int | None = None
    known: str | None = None  # what is wrong with the storage anyway
    with contextlib.nullcontext() if session is None else Survey(session) as survey:
        if session is not None and survey is not None:
            with _recorded(findings, "executors", "environment"):
                slots = survey.wait_for_slots()
                text = f"{session.version}, {session.sparkContext.master}, {slots} task slots"
                findings.append(_ok("driver", "Spark", text))
            findings += _silence(session)
        if address is not None:
            wanted = n_jobs if n_jobs > 0 else slots
            try:
                findings += _check_storage(address, wanted)
            except OptunaSparkError as error:
                known = str(error)
                findings.append(_refused(address, error))
        if session is not None and survey is not None and slots is not None:
            with _recorded(findings, "executors", "storage"):
                if address is not None:
                    check_shared(address, remote_hosts(session))
                findings += _check_executors(survey.ask(Probe(address), slots), known)
    return sorted(findings, key=lambda each: ("driver", "storage", each.where).index(each.where))


def _database_package(address: StorageAddress | BaseStorage) -> list[Finding]:
    package = database_package(address) if isinstance(address, StorageAddress) else None
    if package is None or package[1] is None:  # which opening the storage says
        return []
    return [_ok("driver", package[0], package[1])]


def _check_storage(address: StorageAddress | BaseStorage, slots: int | None) -> list[Finding]:
    storage = open_storage(address, create_schema=True, grace=0)
    findings = [_ok("storage", "connection", "it answers, and has Optuna's tables")]
    try:
        with _recorded(findings, "storage", "rights"), translated_errors(address):
            try_to_write(storage)
            findings.append(_ok("storage", "rights", "it takes writes"))
        findings += [
            *_encryption(address, storage),
            *_collation(storage),
            *_connections(storage, slots),
        ]
        before = time.time()
        findings += _clock("storage", server_seconds(storage), before, time.time())
    finally:
        close_storage(storage)
    return findings


def _refused(address: StorageAddress | BaseStorage, error: OptunaSparkError) -> Finding:
    """Why the storage cannot be used; of TLS that is missing, servers say "access denied"."""
    found = Finding("storage", "connection", Verdict.FAILED, str(error))
    encrypted = turned_on(address) if isinstance(address, StorageAddress) else None
    if encrypted is None or not isinstance(error, StorageAccessDenied):
        return found
    try:
        close_storage(open_storage(encrypted, create_schema=True, grace=0))
    except OptunaSparkError:
        return found
    text = (
        "off, and the server refuses this account without it: leave ssl_mode=DISABLED out of the "
        "storage URL"
    )
    return Finding("storage", "TLS", Verdict.FAILED, text)


def _encryption(address: StorageAddress | BaseStorage, storage: BaseStorage) -> list[Finding]:
    cipher = tls_cipher(storage)
    if cipher is None:
        return []
    if cipher:
        return [_ok("storage", "TLS", cipher)]
    turned_off = isinstance(address, StorageAddress) and turned_on(address) is not None
    remedy = "leave ssl_mode=DISABLED out of the URL" if turned_off else "set it up on the server"
    text = f"off: everyone on the way can read along; {remedy}"
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


def _check_executors(answers: Iterable[Callable[[], Facts]], known: str | None) -> list[Finding]:
    findings: list[Finding] = []
    failed: list[Finding] = []
    began = time.time()
    for answer in answers:
        with _recorded(failed, "executors", "environment"):
            findings += _judge(answer(), known, began, time.time())
    return [*merge(findings), *dict.fromkeys(failed)]


def _judge(facts: Facts, known: str | None, began: float, ended: float) -> list[Finding]:
    where = facts.host
    findings = [_ok(where, "Python", facts.python)]
    if facts.java is not None:
        findings.append(_ok(where, "Java", facts.java))
    findings += judge_packages(where, facts.versions)
    lacks = False
    if facts.database_package is not None:
        package, version = facts.database_package
        lacks = version is None
        text = version or f"none, and the storage URL needs it: {SHIP}"
        verdict = Verdict.FAILED if lacks else Verdict.OK
        findings.append(Finding(where, package, verdict, text))
    # What the driver says of the storage need not be said twice.
    if facts.storage_error is None and not lacks:
        findings.append(_ok(where, "storage", "it is reached"))
    elif facts.storage_error is not None and facts.storage_error != known:
        findings.append(Finding(where, "storage", Verdict.FAILED, facts.storage_error))
    return findings + _clock(where, facts.seconds, began, ended)


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Make one line of what is the same on several executors.

    Args:
        findings: `where` is a host; each host may have several executors.

    Example:
        >>> ok = Finding("node-1", "optuna", Verdict.OK, "5.0.0")
        >>> merge([ok, replace(ok, where="node-2")])[0].where
        'executors'
    """
    findings = list(findings)
    everywhere = {each.where for each in findings}
    order = list(dict.fromkeys(each.what for each in findings))
    found: dict[Finding, set[str]] = {}
    for each in sorted(findings, key=lambda each: order.index(each.what)):
        found.setdefault(replace(each, where=""), set()).add(each.where)
    return [replace(each, where=_named(hosts, everywhere)) for each, hosts in found.items()]


def _named(hosts: set[str], everywhere: set[str]) -> str:
    if len(hosts) == 1:
        return f"executor {min(hosts)}"
    if hosts == everywhere:
        return "executors"
    more = f" and {len(hosts) - _HOSTS_NAMED} more" if len(hosts) > _HOSTS_NAMED else ""
    return f"executors {', '.join(sorted(hosts)[:_HOSTS_NAMED])}{more}"


def judge_packages(where: str, theirs: dict[str, str]) -> list[Finding]:
    """Compare an executor's packages with those of this process."""
    findings = []
    for name, version in sorted(versions().items()):
        found = theirs.get(name, "none")
        remedy = SHIP
        if name == "pyspark":  # it comes with the cluster's Spark, and may differ in the patch
            version, found = (".".join(each.split(".")[:2]) for each in (version, found))
            remedy = f"install pyspark=={found}.* for the driver"
        if found == version:
            findings.append(_ok(where, name, theirs.get(name, found)))
        else:
            text = f"{found}, and the driver has {version}: {remedy}"
            findings.append(Finding(where, name, Verdict.FAILED, text))
    return findings


def _silence(session: SparkSession) -> list[Finding]:
    seconds = longest_silence(session)
    if seconds is None:
        return []
    text = (
        f"it kills trials that take longer than {seconds:g} s: unset "
        "spark.python.worker.killOnIdleTimeout"
    )
    return [Finding("driver", "Spark", Verdict.WARNING, text)]


def _java() -> Finding:
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not java or not os.path.exists(java):
        text = "none: install Java 17 or later, or set JAVA_HOME to one"
        return Finding("driver", "Java", Verdict.FAILED, text)
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    # It may say before which options it took from the environment.
    lines = (done.stderr or done.stdout).splitlines()
    text = next((line for line in lines if ' version "' in line), "of an unknown version")
    return _ok("driver", "Java", text)


def _ok(where: str, what: str, text: str) -> Finding:
    return Finding(where, what, Verdict.OK, text)


@contextlib.contextmanager
def _recorded(findings: list[Finding], where: str, what: str) -> Iterator[None]:
    """Make a finding of an error, and go on."""
    try:
        yield
    except OptunaSparkError as error:
        findings.append(Finding(where, what, Verdict.FAILED, str(error)))
    except TaskLost as lost:
        text = f"a task was lost ({lost}): see the log of that executor"
        findings.append(Finding(where, what, Verdict.FAILED, text))
