"""What deploy/mysql/setup.sh has set up, for the tests of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import pymysql
import pytest
from sqlalchemy.engine import URL, make_url

from tests.environment import plain_environment

ROOT = Path(__file__).resolve().parents[1]
SETUP = ROOT / "deploy" / "mysql" / "setup.sh"
LAUNCHER = ROOT / "scripts" / "run-optuna-spark.sh"
# The underscore, because GRANT takes a bare one for any character.
DATABASE, NEIGHBOUR, USER = "deploy_test", "deployXtest", "deployer"
RIGHTS = "SELECT, INSERT, UPDATE, DELETE, CREATE, REFERENCES, INDEX, ALTER"


def run_setup(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the script; standard error comes with the output."""
    return subprocess.run(
        [SETUP, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
    )


@dataclass
class Deployment:
    """What one run of the script made."""

    options: list[str]
    option_file: Path
    arguments_log: Path  # the arguments of each client that the script ran
    environment: dict[str, str]
    admin_sql: Callable[[str], str]
    output: str = ""

    def tune(self, folder: Path, url: URL, trials: int) -> str:
        """Has the launcher run a study in the database, and returns the states of its trials."""
        (folder / "tune.py").write_text(
            "def objective(trial):\n    return trial.suggest_float('x', -1, 1) ** 2\n"
        )
        storage = url.render_as_string(hide_password=False)
        command = [LAUNCHER, "tune.py:objective", "--study-name", "printed"]
        done = subprocess.run(
            [*command, "--direction", "minimize", "--n-trials", str(trials)],
            cwd=folder,
            env=plain_environment(OPTUNA_STORAGE=storage, SPARK_MASTER="local[2]"),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert self.password not in done.stdout + done.stderr
        return self.admin_sql(f"SELECT state FROM {DATABASE}.trials")

    def run(self, *options: str) -> str:
        done = run_setup(*self.options, *options, **self.environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    @property
    def password(self) -> str:
        [password] = re.findall(r"^password=(.+)$", self.option_file.read_text(), re.MULTILINE)
        return str(password)

    @property
    def url(self) -> URL:
        [url] = re.findall(r"^export OPTUNA_STORAGE='(.+)'$", self.output, re.MULTILINE)
        return make_url(url)

    def connect(self, database: str = DATABASE) -> pymysql.Connection[pymysql.cursors.Cursor]:
        return pymysql.connect(
            host=self.url.host or "",
            port=self.url.port or 0,
            database=database,
            read_default_file=parse_qs(self.url.render_as_string().partition("?")[2])[
                "read_default_file"
            ][0],
        )

    def state(self) -> tuple[object, ...]:
        """All that a second run must leave alone."""
        accounts = [f"'{USER}'@'{host}'" for host in ("localhost", "127.0.0.1")]
        statements = ("SHOW GRANTS FOR", "SHOW CREATE USER")
        server = [self.admin_sql(f"{sql} {name}") for sql in statements for name in accounts]
        kept = self.option_file.stat()
        return (server, kept.st_mtime_ns, kept.st_ino, self.option_file.read_bytes())


@contextlib.contextmanager
def folder_for_mysql() -> Iterator[Path]:
    """A folder that the account mysql can enter, which pytest's own are not."""
    path = Path(tempfile.mkdtemp(prefix="deploy-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def recording_client(work: Path) -> dict[str, str]:
    """Puts before each client program one that writes its arguments down."""
    found = {name: shutil.which(name) for name in ("mariadb", "mysql")}
    (work / "bin").mkdir(exist_ok=True)
    for name, program in found.items():
        if program:
            script = work / "bin" / name
            script.write_text(
                f'#!/bin/sh\necho "$*" >>{work}/arguments.log\nexec {program} "$@"\n'
            )
            script.chmod(0o755)
    return {"PATH": f"{work / 'bin'}:{os.environ['PATH']}"}


def private_server(made: Deployment, work: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("setting up a server on this machine takes root")
    if not any(map(shutil.which, ("mariadbd", "/usr/sbin/mariadbd", "mysqld", "apt-get"))):
        pytest.skip("no server is here and there is no apt-get to install one")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = work / "data"
    made.options += ["--datadir", str(data), "--port", str(port)]
    made.admin_sql = lambda sql: (
        subprocess.run(
            ["mysql", "--no-defaults", f"--socket={data}/mysqld.sock", "-uroot", "-NB"],
            input=sql,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    )


def stop_private_server(data: Path) -> None:
    pid_file = data / "optuna-spark.pid"
    if not pid_file.exists():
        return
    pid, deadline = int(pid_file.read_text()), time.monotonic() + 30
    os.kill(pid, signal.SIGTERM)
    while pid_file.exists():  # the server removes it last
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"the server {pid} did not stop")
        time.sleep(0.05)
