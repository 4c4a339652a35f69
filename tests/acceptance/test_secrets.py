"""The password stays secret: in a real run, all that others can see is searched for it."""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import secrets
import shlex
import socket
import subprocess
import sys
import traceback
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, make_url

from optuna_spark.addresses import find_address
from optuna_spark.exceptions import StorageUnreachable
from optuna_spark.storage import open_storage
from tests import servers
from tests.certificates import make_certificates
from tests.environment import plain_environment
from tests.fixtures_spark import eventually
from tests.leaks import (
    ProcessWatch,
    Secret,
    files_under,
    files_with,
    links_to_spark,
    rows_of,
    spark_pages,
)
from tests.servers import DatabaseServer

# Another one each time, because the search sees what other tests on this machine run.
PASSWORD = "p%40@/{}:#?'x9Zq\"" + secrets.token_hex(8)
SECRET = Secret(PASSWORD)
STUDY = "the study of secrets"
# Trials that fail in ways whose traces hold what the storage is made of.
OBJECTIVE = """
import os
import pathlib
import signal
import sys
import time

import sqlalchemy

FOLDER = pathlib.Path({folder!r})

def objective(trial):
    storage = trial.study._storage
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 0:
        raise ValueError("the first trial")
    if trial.number == 1:
        storage.get_trial(10**6)
    if trial.number == 2:
        shown = [trial, trial.study, storage, storage._backend, storage._backend.engine]
        shown += [storage._backend.engine.url, storage._backend.address]
        print("printed by trial 2:", *map(repr, shown), *map(str, shown))
        print(*map(str, shown), file=sys.stderr)
        trial.set_user_attr("shown", repr(shown))
    if trial.number == 3 and not (FOLDER / "killed").exists():
        (FOLDER / "killed").touch()
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if trial.number >= 4:
        (FOLDER / f"waits-{{trial.number}}").touch()
        while not (FOLDER / "go").exists():
            time.sleep(0.05)
    if trial.number == 5:
        with storage._backend.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT * FROM nowhere"))
    return x
"""


@pytest.fixture(scope="module", params=servers.FLAVORS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseServer]:
    """A server that offers TLS."""
    certificates = make_certificates(tmp_path_factory.mktemp("certificates"))
    start = getattr(servers, f"start_{request.param}")
    started = start(tmp_path_factory.mktemp("server"), options=certificates.server_options)
    yield started
    started.stop()


@pytest.fixture(params=["mysql+mysqldb", "mysql+pymysql"])
def url(request: pytest.FixtureRequest, server: DatabaseServer) -> URL:
    """The URL of a fresh database, whose account must use TLS and has that password."""
    if request.param.endswith("mysqldb") and not importlib.util.find_spec("MySQLdb"):
        pytest.skip("mysqlclient is not installed")
    made = make_url(server.create_database())
    quoted = PASSWORD.replace("'", "''")
    account = f"{made.username}@'127.0.0.1'"
    server.admin_sql(f"ALTER USER {account} IDENTIFIED BY '{quoted}'")
    server.admin_sql(f"ALTER USER {account} REQUIRE SSL")
    return made.set(drivername=request.param, password=PASSWORD)


@dataclass(frozen=True)
class Place:
    """Where everything that a run writes is."""

    folder: Path
    port: int  # of Spark's web UI

    @property
    def events(self) -> Path:
        return self.folder / "events"

    def environment(self, url: URL) -> dict[str, str]:
        settings = {
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": str(self.events),
            # What is compressed could not be searched.
            "spark.eventLog.compress": "false",
            "spark.broadcast.compress": "false",
            "spark.ui.enabled": "true",
            "spark.ui.port": str(self.port),
            "spark.ui.showConsoleProgress": "false",
            "spark.log.level": "INFO",
            "spark.local.dir": str(self.folder / "local"),
            "spark.executor.memory": "512m",
        }
        options = [word for pair in settings.items() for word in ("--conf", "=".join(pair))]
        return {
            **plain_environment(),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "temp"),
            "JAVA_TOOL_OPTIONS": f"-Djava.io.tmpdir={self.folder / 'temp'}",
            "SPARK_HOME": str(self.folder / "spark"),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_MASTER": "local-cluster[2,1,1024]",
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": shlex.join([*options, "pyspark-shell"]),
            "OPTUNA_STORAGE": url.render_as_string(hide_password=False),
        }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in ("events", "home", "local", "temp"):
        (tmp_path / name).mkdir()
    links_to_spark(tmp_path / "spark")
    with socket.create_server(("127.0.0.1", 0)) as free:
        return Place(tmp_path, int(free.getsockname()[1]))


def optimize(place: Place, url: URL, *options: str) -> subprocess.Popen[bytes]:
    (place.folder / "tune.py").write_text(OBJECTIVE.format(folder=str(place.folder)))
    words = ["optimize", "tune.py:objective", "--study-name", STUDY, "--direction", "minimize"]
    with (place.folder / "output").open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "optuna_spark", *words, "--verbose", *options],
            cwd=place.folder,
            env=place.environment(url),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def test_no_one_else_sees_the_password(place: Place, url: URL, server: DatabaseServer) -> None:
    folder, database = place.folder, str(url.database)

    def states() -> list[str]:
        assert driver.poll() is None, (folder / "output").read_text()
        rows = server.admin_sql(f"SELECT state FROM {database}.trials ORDER BY number")
        return [str(state) for (state,) in rows]

    with ProcessWatch(SECRET) as watch:
        # With no job in reserve, trial 3 is run again before trial 5 takes its slot.
        limits = ["--n-trials", "6", "--n-jobs", "2", "--catch", "ValueError", "KeyError"]
        driver = optimize(place, url, *limits, "--report", "report.html")
        try:
            eventually((folder / "waits-4").exists, 180)
            ended = ["FAIL", "FAIL", "COMPLETE", "COMPLETE"]
            eventually(lambda: states()[:4] == ended, 180)
            pages = spark_pages(f"http://127.0.0.1:{place.port}")
            during = files_with(SECRET, folder, for_others=True)
            private = files_with(SECRET, folder, for_others=False)
            (folder / "go").touch()
            assert driver.wait(180) == 1
        finally:
            driver.kill()
            driver.wait()
    output = (folder / "output").read_bytes()
    rows = rows_of(server, database)

    assert [url for url, page in pages.items() if SECRET.is_in(page)] == []
    assert during == files_with(SECRET, folder, for_others=True) == []
    assert watch.found == []
    assert not SECRET.is_in(output)
    assert not SECRET.is_in(rows.encode())

    # The search went where it should have gone.
    shown = b"".join(pages.values())
    assert all(text in shown for text in (STUDY.encode(), b"printed by trial 2", b"executor 0"))
    assert len({Path(path).parent for path in private}) == 3, private  # driver's, and executors'
    events = b"".join(path.read_bytes() for path in files_under(place.events, for_others=False))
    assert STUDY.encode() in events
    assert any(b"CoarseGrainedExecutorBackend" in arguments for arguments in watch.seen)
    report = folder / "report.html"
    assert report in files_under(folder, for_others=True)
    assert "SELECT * FROM nowhere" in report.read_text()
    assert b"SELECT * FROM nowhere" in output
    assert "SELECT * FROM nowhere" in rows
    assert "Record does not exist" in rows


def test_errors_do_not_tell_it(place: Place, url: URL, server: DatabaseServer) -> None:
    """A wrong password, and a server that goes away in the middle."""
    wrong = url.set(password=f"not{PASSWORD}")
    refused = optimize(place, wrong, "--n-trials", "1")
    assert refused.wait(180) == 1
    output = (place.folder / "output").read_bytes()
    assert b"refuses the user" in output
    assert not SECRET.is_in(output)

    address = find_address(url.render_as_string(hide_password=False))
    storage = open_storage(address, create_schema=True, grace=0)
    server.stop()
    try:
        with pytest.raises(StorageUnreachable) as caught:
            storage.get_all_studies()
        with pytest.raises(StorageUnreachable) as caught_anew:
            open_storage(address, create_schema=True, grace=0)
    finally:
        server.restart()
    for error in (caught.value, caught_anew.value):
        text = "".join(traceback.format_exception(error))
        assert text.count("Traceback") > 1
        assert not SECRET.is_in(text.encode())


def test_an_argument_is_blanked(place: Place, url: URL) -> None:
    """As far as a process can: what started it has the URL in its own memory still."""
    folder = place.folder
    text = url.render_as_string(hide_password=False)
    program = "with open('/proc/self/cmdline', 'rb') as now, open('seen', 'wb') as file:\n"
    (folder / "tune.py").write_text(f"{program}    file.write(now.read())\n")
    for storage in (["--storage", text], [f"--storage={text}"]):
        words = ["optimize", "tune.py:no", *storage, "--n-trials", "1"]
        done = subprocess.run(
            [sys.executable, "-m", "optuna_spark", *words],
            cwd=folder,
            env=place.environment(url),
            capture_output=True,
            check=False,
        )
        assert b"tune.py has no 'no'" in done.stderr
        seen = (folder / "seen").read_bytes()
        assert b"--storage" in seen
        assert b"--n-trials" in seen
        assert not SECRET.is_in(seen)


FORMS = {
    "plain": PASSWORD,
    "quoted": urllib.parse.quote(PASSWORD, safe=""),
    "quoted for SQLAlchemy": URL.create("mysql", "u", PASSWORD, "h").render_as_string(False),
    "twice JSON": json.dumps(json.dumps(PASSWORD)),
    "HTML of a repr": html.escape(repr(PASSWORD)),
    "Java properties": PASSWORD.replace(":", "\\:").replace("#", "\\#"),
    "hexadecimal": PASSWORD.encode().hex(),
    **{
        f"base64 after {n}": base64.b64encode(b"x" * n + f"{PASSWORD}@h".encode()).decode()
        for n in range(3)
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_search_finds_it_in_every_form(form: str) -> None:
    data = f"before {FORMS[form]} after".encode()
    assert SECRET.is_in(data)
    assert not SECRET.is_in(data[: len(data) // 2])


def test_the_search_knows_what_others_can_read(tmp_path: Path) -> None:
    modes = {"open": (0o711, 0o604), "group": (0o710, 0o640), "own": (0o755, 0o600)}
    for name, (folder, file) in {**modes, "closed": (0o700, 0o644)}.items():
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text(f"url=mysql://u:{PASSWORD}@h/d")
        (tmp_path / name / "deep" / "file").chmod(file)
        (tmp_path / name).chmod(folder)
    found = files_with(SECRET, tmp_path, for_others=True)
    assert sorted(found) == ["group/deep/file", "open/deep/file"]
    assert len(files_with(SECRET, tmp_path, for_others=False)) == 4


def test_the_search_finds_it_among_arguments() -> None:
    program = "print(flush=True); input()"
    command = [sys.executable, "-c", program, f"--storage=mysql://u:{PASSWORD}@h/d"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        watch = ProcessWatch(SECRET)
        watch.look()
        process.communicate(b"\n")
    [found] = watch.found
    assert program.encode() in found
