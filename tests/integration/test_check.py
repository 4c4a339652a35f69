"""`optuna-spark check`, with each mistake made for real as far as one machine can."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from sqlalchemy.engine import make_url

from optuna_spark import preflight
from optuna_spark.preflight import Finding, Verdict, check, merge
from optuna_spark.session import session_ends
from tests.environment import plain_environment
from tests.servers import DatabaseServer

FAILED, WARNING = Verdict.FAILED, Verdict.WARNING


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: SparkSession) -> None:
    """No option file, no variable that names a storage, and a session that runs."""
    for name in ("OPTUNA_STORAGE", "MYSQL_PWD", "OPTUNA_SPARK_STORAGE_GRACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sql(mysql_server: DatabaseServer) -> Iterator[Callable[[str, str], None]]:
    """Changes a global setting of MySQL until the end of the test."""
    before: dict[str, str] = {}

    def change(name: str, value: str) -> None:
        before[name] = str(mysql_server.admin_sql(f"SELECT @@GLOBAL.{name}")[0][0])
        mysql_server.admin_sql(f"SET GLOBAL {name} = {value}")

    yield change
    for name, value in before.items():
        shown = value if value.isdigit() else f"'{value}'"
        mysql_server.admin_sql(f"SET GLOBAL {name} = {shown}")


def bad(findings: list[Finding], verdict: Verdict = FAILED) -> dict[str, str]:
    chosen = [each for each in findings if each.verdict is verdict]
    return {f"{each.where} {each.what}": each.text for each in chosen}


def test_all_is_well(mysql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JDK_JAVA_OPTIONS", "-Dno=thing")  # which Java tells before its version
    findings = check(mysql_url)
    assert bad(findings) == bad(findings, WARNING) == {}
    told = {(each.where, each.what) for each in findings}
    packages = {each.what for each in findings} & {"mysqlclient", "PyMySQL"}
    assert len(packages) == 1
    for what in ("Python", "Java", "Spark", "pyspark", "optuna", "cloudpickle", *packages):
        assert ("driver", what) in told
    assert next(each for each in findings if each.what == "Java").text.startswith(
        "openjdk version"
    )
    for what in ("address", "connection", "rights", "TLS", "collation", "connections", "clock"):
        assert ("storage", what) in told
    [executor] = {where for where, _ in told if where.startswith("executor")}
    for what in ("Python", "Java", "pyspark", "optuna", "storage", "clock", *packages):
        assert (executor, what) in told


def test_nothing_stays_of_it(mysql_url: str, mysql_server: DatabaseServer) -> None:
    check(mysql_url)
    database = make_url(mysql_url).database
    assert mysql_server.admin_sql(f"SELECT COUNT(*) FROM {database}.studies") == [(0,)]


def test_the_embedded_database() -> None:
    assert bad(check("sqlite:///here.db")) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"password": "wrong"}, "refuses the user"),
        ({"database": "nowhere"}, "has no rights on the database 'nowhere', if that exists"),
        ({"port": 1}, "No MySQL server can be reached"),
        ({"host": "no-such-host.invalid"}, "No MySQL server can be reached"),
    ],
)
def test_a_server_that_cannot_be_used(
    change: dict[str, str], expected: str, mysql_url: str
) -> None:
    url = make_url(mysql_url).set(**change)  # type: ignore[arg-type]
    [(place, text)] = bad(check(url.render_as_string(hide_password=False))).items()
    assert place == "storage connection"  # once: executors say no more than the driver
    assert expected in text
    assert str(url.password) not in text


def test_an_account_that_may_only_read(mysql_url: str, mysql_server: DatabaseServer) -> None:
    check(mysql_url)
    url = make_url(mysql_url)
    accounts = f"SELECT host FROM mysql.user WHERE user = '{url.username}'"
    for (host,) in mysql_server.admin_sql(accounts):
        account = f"'{url.username}'@'{host}'"
        mysql_server.admin_sql(f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {account}")
        mysql_server.admin_sql(f"GRANT SELECT ON {url.database}.* TO {account}")
    [(place, text)] = bad(check(mysql_url)).items()
    assert place == "storage rights"
    assert "lacks a right" in text


def test_a_collation_without_case(mysql_url: str, mysql_server: DatabaseServer) -> None:
    database = make_url(mysql_url).database
    mysql_server.admin_sql(f"ALTER DATABASE {database} COLLATE utf8mb4_0900_ai_ci")
    [(place, text)] = bad(check(mysql_url)).items()
    assert place == "storage collation"
    assert "parameters 'a' and 'A' are one" in text


def test_too_few_connections(mysql_url: str, sql: Callable[[str, str], None]) -> None:
    sql("max_connections", "70")
    assert bad(check(mysql_url, n_jobs=62)) == {}
    [(place, text)] = bad(preflight.check(mysql_url, n_jobs=63)).items()
    assert place == "storage connections"
    assert "70, too few for 63 task slots and the driver: raise max_connections to 71" in text


def test_a_clock_that_is_wrong(mysql_url: str, sql: Callable[[str, str], None]) -> None:
    sql("init_connect", "'SET timestamp = UNIX_TIMESTAMP() - 300'")
    [(place, text)] = bad(check(mysql_url)).items()
    assert place == "storage clock"
    assert text.startswith(("300 s", "301 s", "299 s"))


def test_a_server_without_tls(mariadb_url: str) -> None:
    findings = check(mariadb_url)
    assert bad(findings) == {}
    assert list(bad(findings, WARNING)) == ["storage TLS"]


def test_other_hosts_cannot_reach_this_one_as_localhost(
    mysql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "remote_hosts", lambda session: ["node-1"])
    [(place, text)] = bad(check(mysql_url)).items()
    assert place == "executors storage"
    assert "executors run on other hosts (node-1)" in text


@pytest.mark.parametrize(("theirs", "verdict"), [("4.3.9", Verdict.OK), ("4.2.0", FAILED)])
def test_another_spark_on_executors(
    theirs: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "versions", lambda: {"pyspark": "4.3.0"})
    [finding] = preflight.judge_packages("node-1", {"pyspark": theirs})
    assert finding.verdict is verdict
    if verdict is FAILED:
        text = "4.2, and the driver has 4.3: install pyspark==4.2.* for the driver"
        assert finding.text == text


def test_a_spark_that_kills_long_trials(spark: SparkSession) -> None:
    conf, name = spark.sparkContext._conf, "spark.python.worker"
    conf.set(f"{name}.killOnIdleTimeout", "true").set(f"{name}.idleTimeoutSeconds", "90s")
    try:
        [(place, text)] = bad(check("sqlite:///here.db"), WARNING).items()
    finally:
        conf.set(f"{name}.killOnIdleTimeout", "false").set(f"{name}.idleTimeoutSeconds", "0s")
    assert place == "driver Spark"
    assert "kills trials that take longer than 90 s: unset" in text


def test_a_command_leaves_the_session_of_its_caller(spark: SparkSession) -> None:
    with session_ends():
        check("sqlite:///here.db")
    assert spark.sparkContext.parallelize([1, 2]).count() == 2


@pytest.mark.parametrize(
    ("by_host", "expected"),
    [
        ({"a": "1"}, {"executor a": "1"}),
        ({"a": "1", "b": "1"}, {"executors": "1"}),
        ({"a": "1", "b": "2", "c": "1"}, {"executors a, c": "1", "executor b": "2"}),
        (
            {**dict.fromkeys("abcde", "1"), "f": "2"},
            {"executors a, b, c and 2 more": "1", "executor f": "2"},
        ),
    ],
)
def test_what_is_alike_is_one_line(by_host: dict[str, str], expected: dict[str, str]) -> None:
    findings = [Finding(host, "optuna", Verdict.OK, text) for host, text in by_host.items()]
    assert {each.where: each.text for each in merge(findings + findings)} == expected


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "optuna_spark", "check", "--storage", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=plain_environment(SPARK_MASTER="local[2]"),
            check=False,
        )

    done = run("sqlite:///here.db", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    findings = json.loads(done.stdout)
    assert {finding["verdict"] for finding in findings} == {"ok"}
    done = run("mysql+pymysql://u@127.0.0.1:1/d")
    assert (done.returncode, done.stderr) == (1, "")
    words = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    [text] = [text for where, what, text in words if (where, what) == ("storage", "connection")]
    assert text.startswith("failed: No MySQL server can be reached at 127.0.0.1:1 ")
