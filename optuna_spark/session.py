"""Find or make the Spark session, and ask it where executors are."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyspark import SparkConf
from pyspark.sql import SparkSession

from optuna_spark.exceptions import SparkUnavailable

_JAVA_REMEDY = (
    "install Java 17 or later (Debian: openjdk-17-jre-headless), or set JAVA_HOME to one"
)
_JAVA_OPTIONS = "JDK_JAVA_OPTIONS"  # an environment variable of each program `java`
_QUICK_JAVA = "-XX:TieredStopAtLevel=1"  # the second compiler costs more than it gains in seconds
_MASTER_REMEDY = "write local[*], spark://host:7077, yarn or k8s://https://host:6443"

_jvm_log: Path | None = None


def write_jvm_output_to(log: Path | None) -> None:
    """Keep off the screen, from the next new session on, what Spark and Java would print there."""
    global _jvm_log
    _jvm_log = log


def find_session(spark: SparkSession | None = None, *, brief: bool = False) -> SparkSession:
    """Return the given session, else the active one, else a new one.

    Args:
        spark: A session of the caller's.
        brief: A new one is wanted for seconds: make it quick to start, if slow in the long run.

    Raises:
        SparkUnavailable: there is no Java, or the master does not answer.
    """
    session = spark or SparkSession.getActiveSession()
    if session is not None:
        if not hasattr(session, "_jsc"):
            raise SparkUnavailable(
                "This is a Spark Connect session, which cannot run trials yet: use a classic one, "
                "as SparkSession.builder.master(...) makes."
            )
        if is_local(session) and "PYSPARK_PYTHON" not in os.environ:
            # Spark took the first python3 on the PATH, which need not be the one that runs here.
            session.sparkContext.pythonExec = sys.executable
        return session
    _check_java()
    master = _master()
    if not master or master.startswith("local"):
        # Spark would take the first python3 on the PATH.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    _check_master(master)
    builder = SparkSession.builder.appName("optuna-spark")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    builder = builder.config("spark.python.daemon.module", "optuna_spark.daemon")
    if master:
        builder = builder.master(master)
    if brief:
        builder = builder.config("spark.ui.enabled", "false")
        builder = builder.config(f"spark.executorEnv.{_JAVA_OPTIONS}", _QUICK_JAVA)
    try:
        with _screen_to(_jvm_log), _quick_java() if brief else contextlib.nullcontext():
            made: SparkSession = builder.getOrCreate()
    except Exception as error:
        raise SparkUnavailable(_why_no_session(error, _jvm_log)) from error
    return made


def is_local(session: SparkSession) -> bool:
    """Whether the trials run inside the driver's own JVM."""
    master = str(session.sparkContext.master)
    return master == "local" or master.startswith("local[")


def remote_hosts(session: SparkSession) -> list[str]:
    """Names of the executors' hosts other than this one, of the executors known by now."""
    if is_local(session):
        return []
    infos = session.sparkContext._jsc.sc().statusTracker().getExecutorInfos()
    hosts = {str(info.host()) for info in infos}
    return sorted(host for host in hosts if not _is_this_host(host))


def grows(session: SparkSession) -> bool:
    """Whether Spark adds executors while jobs wait (dynamic allocation)."""
    enabled = session.sparkContext.getConf().get("spark.dynamicAllocation.enabled", "false")
    return str(enabled).lower() == "true"


def longest_silence(session: SparkSession) -> float | None:
    """Seconds after which Spark kills a Python worker that sends nothing, as during a trial."""
    conf = session.sparkContext.getConf()
    kills = str(conf.get("spark.python.worker.killOnIdleTimeout", "false")).lower() == "true"
    seconds = re.match(r"\d+", str(conf.get("spark.python.worker.idleTimeoutSeconds", "0")))
    return float(seconds[0]) or None if kills and seconds else None


def _is_this_host(name: str) -> bool:
    # Only an address of this host can be bound.
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)[
            0
        ]
    except OSError:
        return False
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.bind(address)
        except OSError:
            return False
    return True


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    if home and not Path(home, "bin", "java").exists():
        raise SparkUnavailable(f"JAVA_HOME is {home}, which holds no bin/java: {_JAVA_REMEDY}.")
    if not home and not shutil.which("java"):
        raise SparkUnavailable(f"Spark needs Java, and none is on the PATH: {_JAVA_REMEDY}.")


def _check_master(master: str) -> None:
    """Ask whether a standalone master is there, as Spark itself does for a minute."""
    if not master.startswith("spark://"):
        return
    reason: Exception | None = None
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            return
        except (OSError, ValueError) as error:  # ValueError: no port
            reason = error
    if isinstance(reason, ValueError):
        raise SparkUnavailable(f"{master} is no address of a Spark master: {_MASTER_REMEDY}.")
    raise SparkUnavailable(
        f"No Spark master answers at {master} ({reason}): start it, or correct the master."
    )


def _master() -> str:
    """The master that was asked for, as far as that can be known before Spark starts."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # spark-submit began this process, and knows
        return str(SparkConf().get("spark.master", ""))
    given = re.search(r"--master[ =](\S+)", os.environ.get("PYSPARK_SUBMIT_ARGS", ""))
    return shlex.split(given[1])[0] if given else os.environ.get("SPARK_MASTER", "")


@contextlib.contextmanager
def _quick_java() -> Iterator[None]:
    """Have a JVM that starts meanwhile be quick to start."""
    before = os.environ.get(_JAVA_OPTIONS)
    os.environ[_JAVA_OPTIONS] = " ".join(filter(None, (_QUICK_JAVA, before)))  # the last wins
    try:
        yield
    finally:
        del os.environ[_JAVA_OPTIONS]
        if before is not None:
            os.environ[_JAVA_OPTIONS] = before


@contextlib.contextmanager
def _screen_to(log: Path | None) -> Iterator[None]:
    """Let a process that starts meanwhile, and lives on, write to a file."""
    if log is None:
        yield
        return
    with log.open("ab") as file:
        kept: list[tuple[int, int]] = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in kept:
                os.dup2(file.fileno(), number)
            yield
        finally:
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)


def _why_no_session(error: Exception, log: Path | None) -> str:
    text = str(error)
    if log is not None and log.stat().st_size:
        text += log.read_text(errors="replace")
    master = _master() or "The master"
    if "UnsupportedClassVersionError" in text:
        return f"This Java is too old for Spark: {_JAVA_REMEDY}."
    if "All masters are unresponsive" in text or "stopped SparkContext" in text:
        return f"{master} does not answer: start it, or correct the master."
    if "Could not parse Master URL" in text or "Master must either be" in text:
        return f"{master} is no Spark master: {_MASTER_REMEDY}."
    where = f"; its messages are in {log}" if log is not None and log.stat().st_size else ""
    causes = re.findall(r"^(?:.*: |Exception in .*)?[\w.]+(?:Exception|Error): (.+)", text, re.M)
    reason = (causes[-1] if causes else _first_line(error)).strip().rstrip(".")
    return f"Spark did not start ({reason}){where}."


def _first_line(error: Any) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextlib.contextmanager
def session_ends() -> Iterator[None]:
    """Stop at the end the session that was made inside, and none that was there before."""
    before = SparkSession.getActiveSession()
    try:
        yield
    finally:
        active = SparkSession.getActiveSession()
        if before is None and active is not None:
            active.stop()
