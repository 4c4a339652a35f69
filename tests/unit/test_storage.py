"""Where a study is: URLs, passwords from everywhere, and errors put into one sentence."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import shutil
import string
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import optuna
import pymysql
import pytest
import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url

from optuna_spark.addresses import check_shared, find_address, installed_driver
from optuna_spark.exceptions import (
    DatabaseNotFound,
    SchemaVersionMismatch,
    StorageAccessDenied,
    StorageDriverMissing,
    StorageError,
    StorageNotShared,
    StorageUnreachable,
    StorageUrlError,
)
from optuna_spark.settings import STORAGE_VARIABLE, StorageAddress
from optuna_spark.storage import close_storage, open_storage
from optuna_spark.storage_errors import is_passing, translated_errors

EVERY_PRINTABLE = string.punctuation + " äß€漢\u00a0"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and an empty working directory, and no variable that names a storage."""
    for name in (STORAGE_VARIABLE, "MYSQL_PWD", "OPTUNA_SPARK_STORAGE_GRACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which of the packages that speak to MySQL are there."""

    def install(*names: str) -> None:
        def find_spec(name: str, package: str | None = None) -> Any:
            if name in ("MySQLdb", "pymysql"):
                return object() if name in names else None
            return real(name, package)

        monkeypatch.setattr("importlib.util.find_spec", find_spec)

    real = importlib.util.find_spec
    return install


def address_of(storage: str | BaseStorage | None) -> StorageAddress:
    address = find_address(storage)
    assert isinstance(address, StorageAddress)
    return address


# URLs


@pytest.mark.parametrize(
    ("text", "packages", "expected"),
    [
        ("mysql://u@h/d", ["MySQLdb", "pymysql"], "mysql+mysqldb://u@h/d"),
        ("mysql://u@h/d", ["MySQLdb"], "mysql+mysqldb://u@h/d"),
        ("mysql://u@h/d", ["pymysql"], "mysql+pymysql://u@h/d"),
        ("mysql+mysqldb://u@h/d", [], "mysql+mysqldb://u@h/d"),
        ("mysql+pymysql://u@h/d", [], "mysql+pymysql://u@h/d"),
        ("mariadb://u@h/d", ["MySQLdb", "pymysql"], "mariadb+mysqldb://u@h/d"),
        ("mariadb://u@h/d", ["pymysql"], "mariadb+pymysql://u@h/d"),
        ("mariadb+mysqldb://u@h/d", ["pymysql"], "mariadb+mysqldb://u@h/d"),
        ("mariadb+pymysql://u@h/d", ["MySQLdb"], "mariadb+pymysql://u@h/d"),
        ("mysql://u@h:3307/d?charset=utf8mb4", ["pymysql"], None),
        ("mysql://u@[fe80::1]:3307/d", ["pymysql"], None),
        ("mysql:///d?unix_socket=%2Frun%2Fdb.sock", ["pymysql"], None),
        ("postgresql+psycopg://u@h/d", [], "postgresql+psycopg://u@h/d"),
    ],
)
def test_spellings_of_a_url(
    text: str, packages: list[str], expected: str | None, installed: Callable[..., None]
) -> None:
    installed(*packages)
    assert address_of(text).url == (expected or text.replace("mysql:", "mysql+pymysql:"))


def test_a_note_says_that_the_second_choice_is_used(
    installed: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "optuna_spark")
    installed("MySQLdb", "pymysql")
    find_address("mysql://u@h/d")
    assert not caplog.messages
    installed("pymysql")
    find_address("mysql://u@h/d")
    assert caplog.messages == ["mysqlclient is not installed: pymysql is used instead."]


@pytest.mark.parametrize("url", ["mysql://u@h/d", "mariadb://u@h/d"])
def test_no_package_that_speaks_to_mysql(url: str, installed: Callable[..., None]) -> None:
    installed()
    expected = r"^No MySQL package for Python is installed: install mysqlclient or PyMySQL, .*\.$"
    with pytest.raises(StorageDriverMissing, match=expected):
        find_address(url)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tune.db",
        "mysql:u:s3cret@h/d",
        "u:s3cret@h/d",
        "mysql://u:s3cret@h:port/d",
        "mysql://u:s3@cret@h/d",
        "mysql+pymysql://u:@s3cret@@h/d",
        "mysql+pymysql://u:s3@/cret@h/d",
    ],
)
def test_a_url_that_cannot_be_read_is_not_repeated(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for storage in (text, None):
        monkeypatch.setenv(STORAGE_VARIABLE, text)
        if not text and storage is None:
            continue  # unset
        with pytest.raises(StorageUrlError, match=r"cannot be read: write .* %-escaped\.$") as e:
            find_address(storage)
        assert "cret" not in str(e.value)
        assert e.value.__suppress_context__


@pytest.mark.parametrize("text", ["mysql://u:s3cret@h", "mariadb+pymysql://u:s3cret@h/"])
def test_a_url_without_a_database(text: str) -> None:
    with pytest.raises(StorageUrlError, match=r"u:\*\*\*@h/? names no database: write mysql:"):
        find_address(text)


@pytest.mark.parametrize("part", ["user", "password", "both"])
def test_any_character_works_in_user_and_password(
    part: str, installed: Callable[..., None]
) -> None:
    installed("pymysql")
    for text in [*EVERY_PRINTABLE, EVERY_PRINTABLE, "%@/{}:#?'\"", "{}", "{0}", "%40", "%(x)s"]:
        user = "optuna" if part == "password" else text
        password = "plain" if part == "user" else f"s3cret{text}"
        url = f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@h/d"
        address = address_of(url)
        read = make_url(address.url)
        assert (read.username, read.password, read.host, read.database) == (
            user,
            password,
            "h",
            "d",
        )
        for shown in (address.shown, str(address), repr(address), f"{address!r:>5}"):
            assert "s3cret" not in shown
            assert "plain" not in shown
            assert "***" in shown
        assert address_of(address.url) == address, "read again, as executors do"


@pytest.mark.parametrize("char", [char for char in EVERY_PRINTABLE if char not in "@"])
def test_most_characters_of_a_password_need_no_escape(char: str) -> None:
    read = make_url(address_of(f"mysql+pymysql://u:s3{char}cret@h/d").url)
    assert (read.password, read.host) == (f"s3{char}cret", "h")


def test_user_and_password_reach_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna runs a URL through str.format, and SQLAlchemy through a parser of its own."""
    seen: list[dict[str, Any]] = []

    def connect(**arguments: Any) -> None:
        seen.append(arguments)
        raise pymysql.err.OperationalError(1045, "Access denied for user")

    monkeypatch.setattr("pymysql.connect", connect)
    user, password = "{user}%s@x", "{0}%@/{}:#?'\"{{ }}%%€"
    url = f"mysql+pymysql://{quote(user, safe='')}:{quote(password, safe='')}@h:3307/d"
    for create_schema in (True, False):
        seen.clear()
        with pytest.raises(StorageAccessDenied):
            optuna.get_all_study_names(open_storage(address_of(url), create_schema=create_schema))
        assert seen, "nothing was opened"
        sent = seen[0]
        assert (sent["user"], sent["password"], sent["port"]) == (user, password.encode(), 3307)
        assert sent["connect_timeout"] > 0


@pytest.mark.parametrize("key", ["passwd", "password", "ssl_key_password", "PassWord"])
def test_a_password_in_the_query_is_masked(key: str) -> None:
    address = address_of(f"mysql+pymysql://u:s3cret@h/d?charset=utf8mb4&{key}=0ther")
    assert "0ther" in address.url
    for shown in (address.shown, str(address), repr(address)):
        assert "0ther" not in shown
        assert "s3cret" not in shown
        assert "utf8mb4" in shown


def test_an_address_travels_with_its_password() -> None:
    address = address_of("mysql+pymysql://u:s3cret@h/d")
    assert pickle.loads(pickle.dumps(address)).url == address.url


# Where no URL is given


def test_the_environment_names_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STORAGE_VARIABLE, "mysql+pymysql://u@h/d")
    assert address_of(None).url == "mysql+pymysql://u@h/d"
    assert address_of("sqlite:////tmp/other.db").url == "sqlite:////tmp/other.db"


@pytest.mark.parametrize("text", [None, ""])
def test_the_default_is_a_file_here(
    text: str | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv(STORAGE_VARIABLE, text)
    assert address_of(None).url == f"sqlite:///{home}/optuna-spark.db"


# SQLite


@pytest.mark.parametrize("text", ["sqlite:///study.db", "sqlite:///./study.db"])
def test_a_relative_path_becomes_absolute(text: str, home: Path) -> None:
    (home / "elsewhere").mkdir()
    address = address_of(text)
    os.chdir(home / "elsewhere")  # where an executor may be
    assert address_of(address.url) == address
    close_storage(open_storage(address, create_schema=True))
    assert (home / "study.db").exists()


def test_an_absolute_path_stays() -> None:
    assert address_of("sqlite:////data/study.db").url == "sqlite:////data/study.db"


@pytest.mark.parametrize("name", ["{study}", "a b", "ü#", "it's @ home:1"])
def test_any_character_works_in_a_path(name: str, home: Path) -> None:
    (home / name).mkdir()
    url = sqlalchemy.URL.create("sqlite", database=f"{name}/study.db")
    close_storage(open_storage(address_of(url.render_as_string()), create_schema=True))
    assert (home / name / "study.db").exists()


@pytest.mark.parametrize(
    "storage",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite+pysqlite:///:memory:",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:study?mode=memory&uri=true",
        InMemoryStorage(),
    ],
)
def test_memory_is_refused(storage: Any) -> None:
    with pytest.raises(StorageNotShared, match=r" in .*memory.*: give a .*\.$"):
        find_address(storage)


# Option files


def write_option_file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("password=s3cret", "s3cret"),
        ("password = s3cret  ", "s3cret"),
        ("\tpassword=s3cret", "s3cret"),
        ('password="s3cret"', "s3cret"),
        ("password='s3cret'", "s3cret"),
        ('password=" s3cret "', " s3cret "),
        ('password="s3#cret"', "s3#cret"),
        ("password='s3#cret' # why", "s3#cret"),
        ("password=s3cret # why", "s3cret"),
        ("password=s3#cret", "s3"),
        ("password=s3;cret", "s3;cret"),
        ("password=it's", "it's"),
        (r'password="s3\"cret"', 's3"cret'),
        (r"password=s3\\cret", r"s3\cret"),
        (r"password=s3\scret", "s3 cret"),
        (r"password=s3\dcret", r"s3\dcret"),
        ("password=%@/{}:?=!", "%@/{}:?=!"),
        ("password=first\npassword=second", "second"),
        ("password=€uro", "€uro"),
        ("#password=no\n;password=no\npassword=s3cret", "s3cret"),
        ("user-x\npassword=s3cret\nskip-name", "s3cret"),
        ("!include /no/such/file\n!includedir /no/such/dir\npassword=s3cret", "s3cret"),
        ("password=s3cret\n[mysql]\npassword=no", "s3cret"),
        ("password=s3cret\n\n[ other ]\npassword=no\n[client]\nport=3307", "s3cret"),
    ],
)
def test_an_option_file_is_read_as_mysql_reads_it(written: str, password: str, home: Path) -> None:
    path = write_option_file(home / "db.cnf", f"password=before\n[client]\nuser=u\n{written}\n")
    address = address_of(f"mysql+pymysql://u@h/d?read_default_file={path}")
    assert make_url(address.url).password == password
    assert password not in repr(address)
    assert "read_default" not in address.url, "executors have no such file"
    reader = shutil.which("my_print_defaults")
    if reader:
        done = subprocess.run(
            [reader, f"--defaults-file={path}", "client"], capture_output=True, text=True
        )
        theirs = [line for line in done.stdout.splitlines() if line.startswith("--password=")]
        # Oracle's masks it; MariaDB's refuses a file that includes what is not there.
        assert not theirs or theirs[-1] in (f"--password={password}", "--password=*****")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u:s3cret@h:3307/d"),
        ("mysql+pymysql://h/d", "mysql+pymysql://u:s3cret@h:3307/d"),
        ("mysql+pymysql:///d", "mysql+pymysql://u:s3cret@db:3307/d"),
        ("mysql+pymysql://u:0wn@h:1/d", "mysql+pymysql://u:0wn@h:1/d"),
        ("mysql+pymysql://other@h/d", "mysql+pymysql://other@h:3307/d"),
    ],
)
def test_what_the_url_says_goes_before_the_option_file(
    url: str, expected: str, home: Path
) -> None:
    text = "[client]\nuser=u\npassword=s3cret\nhost=db\nport=3307\n"
    path = write_option_file(home / "db.cnf", text)
    assert address_of(f"{url}?read_default_file={path}").url == expected


def test_a_named_file_without_a_user_is_for_the_one_of_the_url(home: Path) -> None:
    path = write_option_file(home / "db.cnf", "[client]\npassword=s3cret\n")
    assert "u:s3cret@" in address_of(f"mysql+pymysql://u@h/d?read_default_file={path}").url


def test_a_group_goes_before_client(home: Path) -> None:
    text = "[study]\npassword=0ther\n[client]\nuser=u\npassword=s3cret\nport=3307\n"
    path = write_option_file(home / "db.cnf", text)
    url = f"mysql+pymysql://u@h/d?read_default_file={path}&read_default_group="
    assert address_of(url + "study").url == "mysql+pymysql://u:0ther@h:3307/d"
    assert address_of(url + "none").url == "mysql+pymysql://u:s3cret@h:3307/d"


def test_the_option_file_of_the_home_is_for_its_user_alone(home: Path) -> None:
    write_option_file(home / ".my.cnf", "[client]\nuser=u\npassword=s3cret\n")
    assert address_of("mysql+pymysql://u@h/d").url == "mysql+pymysql://u:s3cret@h/d"
    assert address_of("mysql+pymysql://h/d").url == "mysql+pymysql://u:s3cret@h/d"
    assert address_of("mysql+pymysql://root@h/d").url == "mysql+pymysql://root@h/d"
    assert address_of("sqlite:////x.db").url == "sqlite:////x.db"


def test_a_path_of_the_home_is_expanded(home: Path) -> None:
    write_option_file(home / "db.cnf", "[client]\npassword=s3cret\n")
    assert "s3cret" in address_of("mysql+pymysql://u@h/d?read_default_file=~/db.cnf").url


def test_an_option_file_that_is_missing(home: Path) -> None:
    expected = rf"^The option file {home}/no.cnf of the storage URL does not exist.*\.$"
    with pytest.raises(StorageUrlError, match=expected):
        find_address(f"mysql+pymysql://u@h/d?read_default_file={home}/no.cnf")


def test_an_option_file_that_cannot_be_read(home: Path) -> None:
    (home / "db.cnf").write_bytes(b"[client]\npassword=s3cret\xff\n")
    with pytest.raises(StorageUrlError, match=r"db\.cnf cannot be read .*: correct it\.") as e:
        find_address(f"mysql+pymysql://u@h/d?read_default_file={home}/db.cnf")
    assert "s3cret" not in str(e.value)


def test_the_password_of_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYSQL_PWD", "fr{om}@env")
    assert make_url(address_of("mysql+pymysql://u@h/d").url).password == "fr{om}@env"
    assert make_url(address_of("mysql+pymysql://u:0wn@h/d").url).password == "0wn"
    write_option_file(home / ".my.cnf", "[client]\nuser=u\npassword=s3cret\n")
    assert make_url(address_of("mysql+pymysql://u@h/d").url).password == "s3cret"
    assert make_url(address_of("postgresql+psycopg://u@h/d").url).password is None


# Storages that the user made


def test_storages_of_optuna_are_accepted(sqlite_url: str) -> None:
    storage = RDBStorage(sqlite_url, engine_kwargs={"connect_args": {"timeout": 7}})
    cached = optuna.storages.get_storage(storage)
    assert type(cached) is not type(storage)
    for given in (storage, cached):
        address = address_of(given)
        assert address.url == sqlite_url
        assert dict(address.engine_options)["connect_args"] == {"timeout": 7}
        opened = open_storage(address, create_schema=False)
        opened.create_new_study([optuna.study.StudyDirection.MINIMIZE])
        close_storage(opened)
    assert len(storage.get_all_studies()) == 2
    close_storage(storage)


def test_another_kind_of_storage_is_let_through(home: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(home / "journal.log")))
    assert find_address(storage) is storage
    assert open_storage(storage, create_schema=True) is storage
    close_storage(storage)
    check_shared(storage, ["other"])


# Other hosts


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////tmp/x.db", r"x\.db is a file of this host, .*: use a MySQL or MariaDB"),
        ("mysql+pymysql://u:s3cret@localhost/d", "names 'localhost', which .*: write the name"),
        ("mysql+pymysql://u:s3cret@127.0.0.1/d", r"names '127\.0\.0\.1', which .*: write the"),
        ("mysql+pymysql://u@127.0.1.1/d", r"names '127\.0\.1\.1', which"),
        ("mariadb+pymysql://u@[::1]:3306/d", "names '::1', which"),
        ("mysql+pymysql://u@/d", "names 'localhost', which"),
        ("mysql+pymysql:///d?unix_socket=/run/db.sock", "names 'localhost', which"),
        ("postgresql+psycopg://u@localhost/d", "names 'localhost', which"),
    ],
)
def test_what_other_hosts_cannot_reach_is_refused(url: str, expected: str) -> None:
    check_shared(address_of(url), [])
    hosts = ["node-3", "node-1", "node-2", "node-4"]
    expected = rf"{expected}.*\.$"
    with pytest.raises(StorageNotShared, match=expected) as caught:
        check_shared(address_of(url), hosts)
    message = str(caught.value)
    assert "other hosts (node-1, node-2, node-3)" in message
    assert "s3cret" not in message
    assert "\n" not in message


@pytest.mark.parametrize("url", ["mysql+pymysql://u@db/d", "postgresql+psycopg://u@db/d"])
def test_what_other_hosts_can_reach_is_accepted(url: str) -> None:
    check_shared(address_of(url), ["node-1"])


# Errors


ADDRESS = StorageAddress(
    "mysql+pymysql://optuna:s3cret@db:3307/wine", "mysql+pymysql://optuna:***@db:3307/wine"
)


@pytest.mark.parametrize(
    ("code", "text", "kind", "expected"),
    [
        (2003, "Can't connect to MySQL", StorageUnreachable, "db:3307 .*: start it, or correct"),
        (2005, "Unknown MySQL server host", StorageUnreachable, "db:3307 .*: start it, or"),
        (2013, "Lost connection", StorageUnreachable, "db:3307 "),
        (1040, "Too many connections", StorageUnreachable, "no more .*: raise its limit, or"),
        (1203, "User has already more than", StorageUnreachable, "no more connections"),
        (1130, "Host 'x' is not allowed", StorageAccessDenied, "this host .*: make an account"),
        (1045, "Access denied", StorageAccessDenied, "refuses the user 'optuna': correct the"),
        (1698, "Access denied", StorageAccessDenied, "refuses the user 'optuna': correct the"),
        (1862, "Your password has expired", StorageAccessDenied, "expired.*: unlock the account"),
        (3118, "Account is locked", StorageAccessDenied, "locked.*: unlock the account, or give"),
        (4151, "this account is locked", StorageAccessDenied, "locked.*: unlock the account"),
        (1044, "Access denied", StorageAccessDenied, "no rights on the database 'wine', if .*:"),
        (1142, "INSERT command denied", StorageAccessDenied, "lacks a right .*INSERT.*: grant"),
        (1290, "--read-only option", StorageAccessDenied, "takes no writes .*: name the one"),
        (1049, "Unknown database", DatabaseNotFound, "has no database 'wine': create it"),
        (1524, "Plugin not loaded", StorageAccessDenied, "'optuna' uses a login .*: give it"),
        (1366, "Incorrect string.", StorageError, r"used \(Incorrect string\): correct its URL"),
    ],
)
def test_an_error_of_the_server_becomes_a_sentence(
    code: int, text: str, kind: type[StorageError], expected: str
) -> None:
    original = pymysql.err.OperationalError(code, f"{text}\nand more")
    wrapped = sqlalchemy.exc.OperationalError("SELECT s3cret", {"p": "s3cret"}, original)
    with pytest.raises(kind, match=expected) as caught, translated_errors(ADDRESS):
        raise wrapped
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.endswith(".")
    assert "\n" not in message
    assert "s3cret" not in message
    assert "SELECT" not in message
    assert caught.value.__cause__ is wrapped


def test_an_error_that_optuna_wrapped_is_still_understood() -> None:
    original = pymysql.err.OperationalError(1045, "Access denied")
    error = optuna.exceptions.StorageInternalError("An exception is raised")
    error.__cause__ = sqlalchemy.exc.OperationalError("SELECT 1", {}, original)
    with pytest.raises(StorageAccessDenied), translated_errors(ADDRESS):
        raise error


def test_what_the_server_says_before_tls_is_understood() -> None:
    text = (
        "Received error packet before completion of TLS handshake. The authenticity of the "
        "following error cannot be verified: 1040 - Too many connections"
    )
    error = sqlalchemy.exc.OperationalError("x", {}, pymysql.err.OperationalError(2026, text))
    assert is_passing(error)
    expected = r"takes no more connections \(Too many connections\): raise its limit, or lower"
    with pytest.raises(StorageUnreachable, match=expected), translated_errors(ADDRESS):
        raise error


def test_the_number_of_an_error_is_mysqls_alone() -> None:
    original = pymysql.err.OperationalError(1045, "disk I/O error")
    address = StorageAddress("sqlite:////x.db", "sqlite:////x.db")
    with pytest.raises(StorageError, match="disk I/O error") as e, translated_errors(address):
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, original)
    assert type(e.value) is StorageError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, True) for code in (1020, 1205, 1213, 1684)),
        *((code, True) for code in (1040, 1053, 1203, 1226, 1317, 1927, 4031)),
        *((code, True) for code in (2002, 2003, 2006, 2013, 2026, 2055)),
        *((code, False) for code in (1044, 1045, 1049, 1062, 1142, 1146, 1366, 1406, 2005)),
    ],
)
def test_errors_that_pass_by_themselves(code: int, expected: bool) -> None:
    original = pymysql.err.OperationalError(code, "text")
    wrapped = sqlalchemy.exc.OperationalError("SELECT 1", {}, original)
    error = optuna.exceptions.StorageInternalError("An exception is raised")
    error.__cause__ = wrapped
    assert is_passing(original) is False, "it has not come through SQLAlchemy"
    assert is_passing(wrapped) is is_passing(error) is expected


def test_a_connection_that_sqlalchemy_has_given_up_passes() -> None:
    original = pymysql.err.InterfaceError("closed")
    error = sqlalchemy.exc.InterfaceError("SELECT 1", {}, original, connection_invalidated=True)
    assert is_passing(error)


def test_an_error_that_is_ours_already_does_not_pass() -> None:
    lost = sqlalchemy.exc.OperationalError("x", {}, pymysql.err.OperationalError(2013, "x"))
    with pytest.raises(StorageUnreachable) as caught, translated_errors(ADDRESS):
        raise lost
    assert is_passing(lost)
    assert not is_passing(caught.value)


def test_errors_of_others_pass() -> None:
    for error in (ValueError("x"), RuntimeError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), translated_errors(ADDRESS):
            raise error


def test_a_schema_of_another_version(sqlite_url: str) -> None:
    address = address_of(sqlite_url)
    storage = open_storage(address, create_schema=True)
    close_storage(storage)
    engine = sqlalchemy.create_engine(address.url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v0.9.0.a'"))
    engine.dispose()
    expected = r"made by another version of Optuna than .*: run `optuna storage upgrade .*\.$"
    with pytest.raises(SchemaVersionMismatch, match=expected):
        open_storage(address, create_schema=True)
    close_storage(open_storage(address, create_schema=False))  # executors do not ask


def test_a_kind_of_database_that_nobody_knows() -> None:
    with pytest.raises(StorageUrlError, match=r"^nosuch://u:\*\*\*@h/d names a kind of database"):
        open_storage(address_of("nosuch://u:s3cret@h/d"), create_schema=True)


def test_a_package_for_another_database_is_missing() -> None:
    with pytest.raises(StorageDriverMissing, match=r"connector://u@h/d is not .*: install it"):
        open_storage(address_of("mariadb+mariadbconnector://u@h/d"), create_schema=True)


def test_a_file_in_no_folder(home: Path) -> None:
    with pytest.raises(StorageUnreachable, match="cannot be opened: its folder does not exist"):
        open_storage(address_of("sqlite:///none/study.db"), create_schema=True)


def test_executors_make_no_file_and_no_tables(home: Path, sqlite_url: str) -> None:
    address = address_of(sqlite_url)
    path = Path(make_url(address.url).database or "")
    with pytest.raises(StorageNotShared, match=r"is not on this executor's: use a MySQL or"):
        open_storage(address, create_schema=False)
    assert not path.exists()
    path.touch()
    with pytest.raises(StorageError, match="no such table"):
        open_storage(address, create_schema=False)
    engine = sqlalchemy.create_engine(address.url)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "packages", "expected"),
    [
        ("mysql+mysqldb://u:p@h/d", ["MySQLdb", "pymysql"], "mysql+mysqldb://u:p@h/d"),
        ("mysql+mysqldb://u:p@h/d", ["MySQLdb"], "mysql+mysqldb://u:p@h/d"),
        ("mysql+mysqldb://u:p@h/d", ["pymysql"], "mysql+pymysql://u:p@h/d"),
        ("mariadb+mysqldb://u:p@h/d", ["pymysql"], "mariadb+pymysql://u:p@h/d"),
        ("mysql+mysqldb://u:p@h/d", [], "mysql+mysqldb://u:p@h/d"),
        ("mysql+pymysql://u:p@h/d", ["MySQLdb"], "mysql+pymysql://u:p@h/d"),
        ("sqlite:////x.db", ["pymysql"], "sqlite:////x.db"),
    ],
)
def test_an_executor_takes_the_package_that_it_has(
    url: str, packages: list[str], expected: str, installed: Callable[..., None]
) -> None:
    installed(*packages)
    assert installed_driver(make_url(url)).render_as_string(hide_password=False) == expected
