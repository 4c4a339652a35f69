"""Bad input, each as a user meets it: a command that ends with one sentence, and no Spark begun.

Java is a program here that says that it was started, except where a test is about Spark itself.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import optuna
import pytest
from optuna.trial import TrialState
from pyspark.sql import SparkSession
from sqlalchemy.engine import URL, make_url

import optuna_spark
from optuna_spark.addresses import find_address
from optuna_spark.exceptions import StudyDirectionMismatch, StudyExists, StudyNotFound, UsageError
from optuna_spark.storage import close_storage, open_storage
from optuna_spark.trial_task import FAILURE
from tests.servers import DatabaseServer

ROOT = Path(optuna_spark.__file__).parents[1]

OBJECTIVES = """
import functools, threading

LOCK = threading.Lock()
LOG = open("tune.log", "w")
TABLE = bytes(101 << 20)
number = 3

class SparkSession:
    def __reduce__(self):
        raise RuntimeError("only on the driver")

spark = SparkSession()

class Held:
    def __init__(self):
        self.pool = {"guard": threading.Lock()}
    def objective(self, trial):
        return 0.0

held = Held()

def objective(trial):
    return trial.suggest_float("x", 0, 1)

def uses_lock(trial):
    with LOCK:
        return 0.0

def uses_file(trial):
    print(trial.number, file=LOG)
    return 0.0

def uses_spark(trial):
    return float(spark.range(3).count())

def uses_table(trial):
    return float(len(TABLE))
"""

# Python packages that are not there.
HIDE = """
import importlib.machinery

find_spec = importlib.machinery.PathFinder.find_spec

def find_others(name, path=None, target=None):
    return None if name.split(".")[0] in {names!r} else find_spec(name, path, target)

importlib.machinery.PathFinder.find_spec = staticmethod(find_others)
"""

# What Java 11 says to Spark 4.
JAVA_11 = (
    "Error: LinkageError occurred while loading main class org.apache.spark.launcher.Main\n"
    "\tjava.lang.UnsupportedClassVersionError: org/apache/spark/launcher/Main has been compiled by"
    " a more recent version of the Java Runtime (class file version 61.0), this version of the"
    " Java Runtime only recognizes class file versions up to 55.0\n"
)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    errors: str
    output: str
    spark: bool  # whether it began to start Spark


@dataclass
class Command:
    """Runs `optuna-spark optimize` in a folder of its own."""

    folder: Path
    hidden: tuple[str, ...] = ()  # Python packages that it does not find
    java_says: str = "Java was started.\n"
    own: dict[str, str] = field(default_factory=dict)  # environment; an empty value removes

    def __post_init__(self) -> None:
        (self.folder / "tune.py").write_text(OBJECTIVES)
        (self.folder / "home").mkdir()

    def __call__(self, *arguments: str, **environment: str) -> Ended:
        started = self._fake_java() / "started"
        started.unlink(missing_ok=True)
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("OPTUNA", "MYSQL", "SPARK", "PYSPARK"))
        }
        places = [str(ROOT)]
        if self.hidden:
            (self.folder / "hide").mkdir(exist_ok=True)
            text = HIDE.format(names=self.hidden)
            (self.folder / "hide" / "sitecustomize.py").write_text(text)
            places.insert(0, str(self.folder / "hide"))
        given = {
            **kept,
            "PYTHONPATH": os.pathsep.join(places),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder),
            "JAVA_HOME": str(started.parent),
            "PYSPARK_PYTHON": sys.executable,
            **self.own,
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-m", "optuna_spark", "optimize", *arguments],
            cwd=self.folder,
            env={key: value for key, value in given.items() if value},
            capture_output=True,
            text=True,
            timeout=180,
        )
        return Ended(done.returncode, done.stderr, done.stdout, started.exists())

    def _fake_java(self) -> Path:
        program = self.folder / "java" / "bin" / "java"
        program.parent.mkdir(parents=True, exist_ok=True)
        (program.parent / "says").write_text(self.java_says)
        program.write_text(
            '#!/bin/sh\nhere=$(dirname "$0")\ntouch "$here/../started"\ncat "$here/says" >&2\n'
            "exit 1\n"
        )
        program.chmod(0o755)
        return program.parents[1]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def sentence_of(ended: Ended) -> str:
    """The one sentence that a command said: it names a thing and a remedy, and shows no stack."""
    assert ended.errors.count("\n") == 1, ended.errors
    said = re.fullmatch(r"optuna-spark: (\S.*: \S.*[^.])\.\n", ended.errors)
    assert said, ended.errors
    for foreign in ("Traceback", "at org.", "sqlalche", "[SQL", "Error(", "Exception"):
        assert foreign not in said[1]
    assert ended.output == ""
    return said[1]


# Without a server


@dataclass(frozen=True)
class Row:
    """What is typed, and how it ends."""

    id: str
    arguments: str
    code: int
    sentence: str
    environment: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


ONE = "tune.py:objective --n-trials=1"
MYSQL = {"OPTUNA_STORAGE": "mysql://u:s3cret@127.0.0.1:1/d"}
NO_URL = r"The storage URL cannot be read: write it as mysql://user@host:3306/database or .*%-esc"

ROWS = [
    # The objective
    Row("no-file", "none.py:objective --n-trials=1", 2, r"none\.py does not exist: correct the p"),
    Row("no-name", "tune.py:goal --n-trials=1", 2, "'goal': correct .* Held|held|objective, uses"),
    Row("number", "tune.py:number --n-trials=1", 2, "tune.py:number is an int, not a function: "),
    Row("lock", "tune.py:uses_lock --n-trials=1", 1, "captures LOCK, a lock, .*: create or open"),
    Row("file", "tune.py:uses_file --n-trials=1", 1, "captures LOG, an open file, .*: create or"),
    Row("spark", "tune.py:uses_spark --n-trials=1", 1, "spark, a SparkSession, .*: Spark objects"),
    Row("method", "tune.py:held.objective --n-trials=1", 1, r"self\.pool\['guard'\], a lock, .*:"),
    # Counts
    Row("negative-trials", "tune.py:objective --n-trials=-1", 2, "`n_trials` is -1: give a whole"),
    Row("negative-jobs", f"{ONE} --n-jobs=-2", 2, "`n_jobs` is -2: give a whole number of 1"),
    Row("both-limits", f"{ONE} --total-trials=2", 2, "both given: .*leave one out"),
    Row("no-limit", "tune.py:objective", 2, "Nothing limits the run: give --n-trials, --total-tr"),
    # Names of classes
    Row("sampler", f"{ONE} --sampler=None", 2, "optuna.samplers has no 'None': name one of its"),
    Row("sampler-arguments", f"{ONE} --sampler=GridSampler", 2, "GridSampler cannot .*: correct"),
    Row("catch", f"{ONE} --catch NoSuchError", 2, "NoSuchError: there is no such exception"),
    # The storage
    Row("url-password", ONE, 2, NO_URL, {"OPTUNA_STORAGE": "mysql://u:s3@cret@127.0.0.1/d"}),
    Row("no-database", ONE, 2, "names no database: write my", {"OPTUNA_STORAGE": "mysql://u@h"}),
    Row("kind", ONE, 2, "kind of database .*: write", {"OPTUNA_STORAGE": "db://u:s3cret@h/d"}),
    Row("memory", ONE, 1, "SQLite database in memory .*: give a file", {"OPTUNA_STORAGE": "sqlite://"}),
    Row("folder", ONE, 1, "opened: its folder does not", {"OPTUNA_STORAGE": "sqlite:///no/x.db"}),
    Row("option-file", ONE, 2, "no.cnf .* does not exist: correct its",
        {"OPTUNA_STORAGE": "mysql://h/d?read_default_file=no.cnf"}),
    Row("no-driver", ONE, 1, r"install mysqlclient or PyMySQL, for example by `pip install", MYSQL,
        ("MySQLdb", "pymysql")),
    Row("no-named-driver", ONE, 1, "package for mysql.* is not installed .*: install it",
        {"OPTUNA_STORAGE": "mysql+pymysql://u:s3cret@127.0.0.1:1/d"}, ("pymysql",)),
    Row("grace", ONE, 2, "GRACE is 'soon': give seconds", {"OPTUNA_SPARK_STORAGE_GRACE": "soon"}),
    # Spark
    Row("no-java", ONE, 1, "needs Java, and none is on the PATH: install Java 17",
        {"JAVA_HOME": "", "PATH": "/nowhere"}),
    Row("java-home", ONE, 1, "JAVA_HOME is /nowhere, which holds no bin/java: install Java 17",
        {"JAVA_HOME": "/nowhere"}),
    Row("master-away", ONE, 1, r"No Spark master answers at spark://127.0.0.1:1 .*: start it, or",
        {"PYSPARK_SUBMIT_ARGS": "--master spark://127.0.0.1:1 pyspark-shell"}),
    Row("master-host", ONE, 1, r"master answers at spark://no-such-host.invalid:7077 .*: start it",
        {"PYSPARK_SUBMIT_ARGS": "--master spark://no-such-host.invalid:7077 pyspark-shell"}),
    Row("master-port", ONE, 1, r"spark://host is no address of a Spark master: write local\[",
        {"PYSPARK_SUBMIT_ARGS": "--master spark://host pyspark-shell"}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_without_a_server(row: Row, command: Command) -> None:
    command.hidden = row.hidden
    ended = command(*row.arguments.split(), **row.environment)
    sentence = sentence_of(ended)
    assert re.search(row.sentence, sentence), sentence
    assert "cret" not in sentence
    assert ended.code == row.code
    assert not ended.spark


@pytest.mark.parametrize(
    ("arguments", "thing"),
    [
        (["tune.py:objective", "--n-trials=1.5"], "argument --n-trials: .*'1.5'"),
        (["tune.py:objective", "--n-trials=all"], "argument --n-trials: .*'all'"),
        (["tune.py:objective", "--timeout=1h"], "argument --timeout: .*'1h'"),
        (["tune.py:objective", "--direction=up"], "argument --direction: .*'up' .*minimize"),
        (["tune.py:objective", "--sampler-kwargs=seed"], "'seed' is no JSON object: write it as"),
        ([], "OBJECTIVE"),
    ],
)
def test_what_is_no_number_is_refused_by_the_parser(
    arguments: list[str], thing: str, command: Command
) -> None:
    ended = command(*arguments)
    *usage, last = ended.errors.splitlines()
    assert usage[0].startswith("usage: ")
    assert re.search(rf"^optuna-spark optimize: error: .*{thing}", last), last
    assert (ended.code, ended.spark) == (2, False)


def test_spark_itself_is_missing(command: Command) -> None:
    command.hidden = ("pyspark",)
    ended = command(*ONE.split())
    expected = "ModuleNotFoundError: Spark's Python package is not installed (No module named "
    assert ended.errors.splitlines()[-1].startswith(expected)
    assert ended.errors.count("Traceback") == 1
    assert ended.code == 1


def test_java_is_too_old(command: Command) -> None:
    command.java_says = JAVA_11
    ended = command(*ONE.split())
    assert re.match("This Java is too old for Spark: install Java 17 or later", sentence_of(ended))
    assert (ended.code, ended.spark) == (1, True)


def test_java_cannot_start(command: Command) -> None:
    command.java_says = "Error: Could not create the Java Virtual Machine.\n"
    ended = command(*ONE.split())
    found = re.search(r"Spark did not start \(.*\); its messages are in (\S+)$", ended.errors[:-2])
    assert found, ended.errors
    log = Path(found[1])
    assert "Could not create the Java Virtual Machine" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0
    log.unlink()
    assert (ended.code, ended.spark) == (1, True)


def test_a_large_capture_is_a_warning(command: Command) -> None:
    ended = command("tune.py:uses_table", "--n-trials=1")
    warning, end = ended.errors.splitlines()
    assert re.fullmatch(
        r"The objective is 101 MB, of which 'TABLE' is 101 MB: it is sent once to each executor, "
        r"but reading it inside the objective may be cheaper\.",
        warning,
    )
    assert end.startswith("optuna-spark: Spark did not start (")
    assert (ended.code, ended.spark) == (1, True), "the run goes on"


# On real servers


INSTALLED = [
    dialect
    for dialect, module in [("pymysql", "pymysql"), ("mysqldb", "MySQLdb")]
    if importlib.util.find_spec(module)
]


@pytest.fixture(params=INSTALLED)
def dialect(request: pytest.FixtureRequest) -> str:
    """Each of the packages that speak to MySQL, of those installed."""
    name: str = request.param
    return name


@pytest.fixture
def url(database_server: DatabaseServer, dialect: str) -> URL:
    """A fresh database on each of the servers, through each of the packages."""
    return make_url(database_server.create_database()).set(drivername=f"mysql+{dialect}")


def text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def create_wine(server: DatabaseServer, url: URL) -> URL:
    """A study to minimize."""
    study = optuna_spark.create_study(study_name="wine", storage=text(url))
    close_storage(study._storage)
    return url


def another_user(server: DatabaseServer, url: URL, grant: str) -> URL:
    """The same database, seen by a user of few rights."""
    name, password = f"u{secrets.token_hex(6)}", secrets.token_urlsafe(12)
    account = f"{name}@'127.0.0.1'"
    server.admin_sql(f"CREATE USER {account} IDENTIFIED BY '{password}'")
    server.admin_sql(grant.format(database=url.database, account=account))
    return url.set(username=name, password=password)


def of_version(schema: str, library: str) -> Callable[[DatabaseServer, URL], URL]:
    def prepare(server: DatabaseServer, url: URL) -> URL:
        create_wine(server, url)
        server.admin_sql(
            f"UPDATE {url.database}.alembic_version SET version_num = '{schema}';"
            f"UPDATE {url.database}.version_info SET library_version = '{library}'"
        )
        return url

    return prepare


def alter_user(change: str) -> Callable[[DatabaseServer, URL], URL]:
    def prepare(server: DatabaseServer, url: URL) -> URL:
        server.admin_sql(f"ALTER USER '{url.username}'@'127.0.0.1' {change}")
        return url

    return prepare


SELECT = "GRANT SELECT ON {database}.* TO {account}"
EVERYWHERE = "GRANT SELECT ON *.* TO {account}"
NOTHING = "GRANT USAGE ON *.* TO {account}"

DATABASE_ROWS: list[tuple[str, Callable[[DatabaseServer, URL], URL], str, str]] = [
    (
        "unknown-study",
        create_wine,
        "--study-name=none",
        r"no study named 'none' in mysql\S+: create it .*correct the name; --direction creates",
    ),
    (
        "wrong-direction",
        create_wine,
        "--study-name=wine --direction=maximize",
        "'wine' is to minimize, not to maximize: leave the direction out, or take another name",
    ),
    (
        "more-directions",
        create_wine,
        "--study-name=wine --direction minimize maximize",
        "'wine' is to minimize, not to minimize and maximize: leave the direction out",
    ),
    (
        "unreachable-port",
        lambda server, url: url.set(port=1),
        "",
        r"No MySQL server can be reached at 127.0.0.1:1 \(Can't connect .*\): start it, or",
    ),
    (
        "unknown-host",
        lambda server, url: url.set(host="no-such-host.invalid"),
        "",
        r"No MySQL server can be reached at no-such-host.invalid:\d+ \(.*\): start it, or correct",
    ),
    (
        "wrong-password",
        lambda server, url: url.set(password="wr0ng-s3cret"),
        "",
        r"server at 127.0.0.1:\d+ refuses the user 'optuna\w+': correct the password \(MYSQL_PWD",
    ),
    (
        "unknown-user",
        lambda server, url: url.set(username="nobody"),
        "",
        "refuses the user 'nobody': correct the password .*or the account",
    ),
    (
        "locked-account",
        alter_user("ACCOUNT LOCK"),
        "",
        r"does not let the user 'optuna\w+' in \(.*locked.*\): unlock the account, or give it",
    ),
    (
        "no-such-database",
        lambda server, url: another_user(server, url, EVERYWHERE).set(database="none"),
        "",
        r"server at 127.0.0.1:\d+ has no database 'none': create it, as deploy/mysql/setup.sh",
    ),
    (
        "no-rights-on-the-database",
        lambda server, url: another_user(server, url, NOTHING),
        "",
        r"'u\w+' has no rights on the database 'optuna\w+', if that exists: correct the name, or",
    ),
    (
        "reads-only-an-empty-database",
        lambda server, url: another_user(server, url, SELECT),
        "",
        r"'u\w+' lacks a right on the database 'optuna\w+' \(CREATE command denied.*\): grant it",
    ),
    (
        "reads-only-and-creates-a-study",
        lambda server, url: another_user(server, create_wine(server, url), SELECT),
        "--direction=minimize",
        r"'u\w+' lacks a right on the database 'optuna\w+' \(INSERT command denied.*\): grant it",
    ),
    (
        "reads-only-and-loads-a-study",
        lambda server, url: another_user(server, create_wine(server, url), SELECT),
        "--study-name=wine",
        r"'u\w+' lacks a right on the database 'optuna\w+' \(\w+ command denied.*\): grant it",
    ),
    (
        "older-tables",
        of_version("v0.9.0.a", "0.9.0"),
        "--study-name=wine",
        r"tables in mysql\S+ were made by another version of Optuna than \d.*: run `optuna stor",
    ),
    (
        "newer-tables",
        of_version("v99.0.0.a", "99.0.0"),
        "--study-name=wine",
        r"tables in mysql\S+ were made by another version of Optuna than \d.*: run `optuna stor",
    ),
]


@pytest.mark.parametrize(
    ("prepare", "options", "expected"),
    [pytest.param(*row, id=name) for name, *row in DATABASE_ROWS],
)
def test_on_a_real_server(
    prepare: Callable[[DatabaseServer, URL], URL],
    options: str,
    expected: str,
    database_server: DatabaseServer,
    url: URL,
    command: Command,
) -> None:
    given = prepare(database_server, url)
    ended = command(*ONE.split(), *options.split(), OPTUNA_STORAGE=text(given))
    sentence = sentence_of(ended)
    assert re.search(expected, sentence), sentence
    assert given.password is not None
    assert str(given.password) not in sentence
    assert (ended.code, ended.spark) == (1, False)


@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_bin"])
def test_a_collation_without_case_is_a_warning(
    collation: str, database_server: DatabaseServer, url: URL, command: Command
) -> None:
    database_server.admin_sql(f"ALTER DATABASE {url.database} COLLATE {collation}")
    ended = command(*ONE.split(), OPTUNA_STORAGE=text(url))
    *warnings, end = ended.errors.splitlines()
    assert end.startswith("optuna-spark: Spark did not start ("), ended.errors
    assert (ended.code, ended.spark) == (1, True), "the run goes on"
    if collation.endswith("_bin"):
        assert not warnings
        return
    [warning] = warnings
    assert re.fullmatch(
        rf"mysql\S+ compares names without case \({collation}\), so parameters 'a' and 'A' would "
        r"be one: use a database with a case-sensitive collation, .*\.",
        warning,
    )
    assert str(url.password) not in warning


def test_any_character_in_user_and_password_is_good(
    database_server: DatabaseServer, dialect: str
) -> None:
    user, password = "ü%@/{}:#?'\"{0}", "s3cret %@/{}:?#'\"{0}\\%s€"
    sql = {"'": "''", "\\": "\\\\"}
    name, word = ("".join(sql.get(char, char) for char in part) for part in (user, password))
    address = make_url(database_server.create_database())
    account = f"'{name}'@'127.0.0.1'"
    database_server.admin_sql(f"DROP USER IF EXISTS {account}")
    database_server.admin_sql(f"CREATE USER {account} IDENTIFIED BY '{word}'")
    database_server.admin_sql(f"GRANT ALL ON {address.database}.* TO {account}")
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    place = f"127.0.0.1:{address.port}/{address.database}"
    url = f"mysql+{dialect}://{login}@{place}"
    for create_schema in (True, False):  # as the driver does, and as an executor does
        storage = open_storage(find_address(url), create_schema=create_schema)
        assert storage.get_all_studies() == []
        close_storage(storage)


# In Python


def test_a_study_that_exists(sqlite_url: str) -> None:
    optuna_spark.create_study(study_name="wine", storage=sqlite_url)
    expected = r"^A study named 'wine' exists .*: load it \(`load_if_exists=True`, .*name\.$"
    with pytest.raises(StudyExists, match=expected) as caught:
        optuna_spark.create_study(study_name="wine", storage=sqlite_url)
    assert isinstance(caught.value, optuna.exceptions.DuplicatedStudyError)
    assert caught.value.__suppress_context__
    optuna_spark.create_study(study_name="wine", storage=sqlite_url, load_if_exists=True)


def test_a_study_that_does_not(sqlite_url: str) -> None:
    expected = rf"^There is no study named 'wine' in {sqlite_url}: create it with .*name\.$"
    with pytest.raises(StudyNotFound, match=expected) as caught:
        optuna_spark.load_study(study_name="wine", storage=sqlite_url)
    assert isinstance(caught.value, KeyError)
    with pytest.raises(UsageError, match="`study_name` is not given, and the storage holds 0"):
        optuna_spark.load_study(study_name=None, storage=sqlite_url)


def test_a_study_of_another_direction(sqlite_url: str) -> None:
    optuna_spark.create_study(study_name="wine", storage=sqlite_url, direction="maximize")
    for asked in ({"direction": "minimize"}, {"directions": ["maximize", "maximize"]}):
        with pytest.raises(StudyDirectionMismatch, match=r"is to maximize, not to m.*: leave"):
            optuna_spark.create_study(
                study_name="wine", storage=sqlite_url, load_if_exists=True, **asked
            )
    with pytest.raises(UsageError, match="minimize"):
        optuna_spark.create_study(storage=sqlite_url, direction="up")


# Where Spark is at work


needs_java = pytest.mark.skipif(
    not (shutil.which("java") or os.environ.get("JAVA_HOME")), reason="there is no Java"
)


@pytest.fixture
def with_spark(command: Command) -> Command:
    """A command that has the real Java, and one task slot."""
    command.own = {
        "JAVA_HOME": os.environ.get("JAVA_HOME", ""),
        "PYSPARK_SUBMIT_ARGS": "--master local[1] --conf spark.ui.enabled=false pyspark-shell",
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    return command


@needs_java
def test_a_master_that_is_none(with_spark: Command) -> None:
    ended = with_spark(*ONE.split(), PYSPARK_SUBMIT_ARGS="--master nonsense pyspark-shell")
    expected = r"nonsense is no Spark master: write local\[\*\], spark://host:7077, yarn or k8s"
    assert re.match(expected, sentence_of(ended))
    assert ended.code == 1


@needs_java
def test_a_captured_spark_session(with_spark: Command) -> None:
    (with_spark.folder / "session.py").write_text(
        textwrap.dedent(
            """
            from pyspark.sql import SparkSession
            spark = SparkSession.builder.getOrCreate()
            spark.sparkContext.setLogLevel("OFF")
            def objective(trial):
                return float(spark.range(3).count())
            """
        )
    )
    ended = with_spark("session.py:objective", "--n-trials=1")
    assert ended.errors.splitlines()[-1] == (
        "optuna-spark: The objective captures spark, a SparkSession, which cannot be sent to "
        "executors: Spark objects stay on the driver."
    )
    assert ended.code == 1


VALUES = """
VALUES = [None, float("nan"), "text", (1.0, 2.0), [], {"a": 1}, 0.5]

def objective(trial):
    return VALUES[trial.number]
"""
NUMBER = "The number of the values {} did not match the number of the objectives {}"


def reasons_of(study: optuna.Study) -> list[str]:
    """Why each trial but the last one failed."""
    *bad, good = study.trials
    assert good.state == TrialState.COMPLETE
    assert {trial.state for trial in bad} == {TrialState.FAIL}
    return [trial.system_attrs[FAILURE]["reason"] for trial in bad]


@needs_java
def test_values_that_are_none(with_spark: Command) -> None:
    (with_spark.folder / "values.py").write_text(VALUES)
    options = "--n-trials=7 --direction=minimize --no-show-progress-bar"
    url = f"sqlite:///{with_spark.folder / 'values.db'}"
    ended = with_spark("values.py:objective", *options.split(), OPTUNA_STORAGE=url)
    assert ended.code == 0, ended.errors
    reasons = reasons_of(optuna.load_study(study_name="values", storage=url))
    expected = [
        "The value None could not be cast to float",
        "The value nan is not acceptable",
        "The value 't' could not be cast to float",
        NUMBER.format(2, 1),
        NUMBER.format(0, 1),
        "could not be cast to float",
    ]
    for reason, part in zip(reasons, expected, strict=True):
        assert part in reason
    said = [f"Trial {number} failed: {reason}" for number, reason in enumerate(reasons)]
    assert sorted(ended.errors.splitlines()) == sorted(said)  # two slots: in any order


def test_a_wrong_number_of_values(sqlite_url: str, spark: SparkSession) -> None:
    values = [1.0, (1.0,), (1.0, 2.0, 3.0), (1.0, None), ("text", 1.0), (1.0, 2.0)]
    study = optuna_spark.create_study(
        storage=sqlite_url, directions=["minimize", "maximize"], spark=spark
    )
    study.optimize(lambda trial: values[trial.number], n_trials=len(values), n_jobs=1)
    expected = [
        "could not be cast to|number of the values",
        NUMBER.format(1, 2),
        NUMBER.format(3, 2),
        "The value None could not be cast to float",
        "The value 'text' could not be cast to float",
    ]
    for reason, part in zip(reasons_of(study), expected, strict=True):
        assert re.search(part, reason), reason
