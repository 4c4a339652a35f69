"""Real database servers for the tests: found or downloaded, started, killed, stopped.

Nothing here needs root. As a command (``python tests/servers.py``) it downloads what this
machine lacks and prints one line for each server found.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from pymysql.constants import CLIENT

FLAVORS = ("mysql", "mariadb")
_TITLES = {"mysql": "MySQL", "mariadb": "MariaDB"}
# Debian's stable releases carry no Oracle MySQL, sid does (suite None: the machine's own).
_PACKAGES: dict[tuple[str, str], tuple[str, str | None]] = {
    ("mariadb", "debian"): ("mariadb-server-core", None),
    ("mariadb", "ubuntu"): ("mariadb-server-core", None),
    ("mysql", "debian"): ("mysql-server-core", "sid"),
    ("mysql", "ubuntu"): ("default-mysql-server-core", None),
}
# Small and quick to start. What a commit costs (innodb-flush-log-at-trx-commit) stays as it is.
_OPTIONS = {
    "mysql": (
        "--mysqlx=OFF",
        "--disable-log-bin",
        "--secure-file-priv=NULL",
        "--innodb-redo-log-capacity=32M",
    ),
    "mariadb": ("--skip-log-bin", "--innodb-log-file-size=32M"),
}


class ServerNotFound(Exception):
    """No server of this flavor is here and none can be downloaded; the message says what to do."""


class ServerFailed(Exception):
    """The server ended, or did not answer in time; the end of its log follows."""


@dataclass(frozen=True)
class Installation:
    """A server program that this machine can run."""

    flavor: str  # "mysql" or "mariadb"
    version: str
    command: tuple[str, ...]  # the program, behind the loader of its own tree if it has one
    prefix: Path  # its share/ and lib/ are in here


class DatabaseServer:
    """A server on 127.0.0.1 with a data directory of its own, running once made.

    Args:
        installation: The program to run.
        folder: Takes the data and the log; made if missing.
        options: Server options; they override those of this module.
    """

    def __init__(self, installation: Installation, folder: Path, options: Sequence[str]) -> None:
        self.flavor = installation.flavor
        self.port = _free_port()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = folder.resolve() / "server.log"
        # Not in the folder, whose path may exceed a socket's 107 bytes; closed to others, because
        # root has no password.
        sockets = tempfile.mkdtemp(prefix="db-")
        atexit.register(shutil.rmtree, sockets, ignore_errors=True)
        self._socket = Path(sockets) / "server.sock"
        data = folder.resolve() / "data"
        base = [
            *installation.command,
            "--no-defaults",
            f"--basedir={installation.prefix}",
            f"--datadir={data}",
            *(["--user=root"] if os.geteuid() == 0 else []),
            *_OPTIONS[self.flavor],
        ]
        if not data.exists():
            self._initialize(base, installation, data)
        self._command = [
            *base,
            f"--port={self.port}",
            f"--socket={self._socket}",
            f"--pid-file={folder.resolve() / 'server.pid'}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--performance-schema=OFF",
            *options,
        ]
        atexit.register(self.stop)
        self.restart()

    @property
    def pid(self) -> int:
        """The process id of the server, or of the last one if it is stopped."""
        return self._process.pid

    def admin_sql(self, sql: str) -> list[tuple[Any, ...]]:
        """Runs statements as root over the socket and returns the rows of the last one."""
        connection = pymysql.connect(
            unix_socket=str(self._socket),
            user="root",
            autocommit=True,
            connect_timeout=5,
            client_flag=CLIENT.MULTI_STATEMENTS,
        )
        with connection, connection.cursor() as cursor:
            cursor.execute(sql)
            rows = cursor.fetchall()
            while cursor.nextset():
                rows = cursor.fetchall()
        return list(rows)

    def admin_url(self, database: str) -> str:
        """The URL of a database for root, who finds a connection when nobody else does."""
        return f"mysql+pymysql://root@/{database}?unix_socket={self._socket}"

    def create_database(self) -> str:
        """Makes a database with an account that has all rights on it and on nothing else.

        Returns:
            Its URL, ``mysql://user:password@127.0.0.1:port/database``.
        """
        # No underscore in the name: GRANT would take it as a wildcard.
        name, password = f"optuna{secrets.token_hex(6)}", secrets.token_urlsafe(18)
        self.admin_sql(
            f"CREATE DATABASE {name} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;"
            f"CREATE USER {name}@'127.0.0.1' IDENTIFIED BY '{password}';"
            f"GRANT ALL ON {name}.* TO {name}@'127.0.0.1'"
        )
        return f"mysql://{name}:{password}@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """Ends the server, by force if it takes too long. Does nothing if it has ended."""
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends the server as a power cut does (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Starts the server on the same data and port, stopping it first if it runs.

        Raises:
            ServerFailed: If it does not answer within a minute.
        """
        if hasattr(self, "_process"):
            self.stop()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # Ctrl-C ends the tests first, which then end the server
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise self._failure("did not start")
            time.sleep(0.05)

    def _answers(self) -> bool:
        # PyMySQL leaves a socket open when it cannot connect, so a plain one goes first.
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError, pymysql.Error):
            probe.connect(str(self._socket))
            self.admin_sql("SELECT 1")
            return True
        return False

    def _initialize(self, base: Sequence[str], installation: Installation, data: Path) -> None:
        """Makes the system tables, with root as the only account, in a new data directory."""
        data.mkdir(mode=0o700)
        command, sql = [*base, "--initialize-insecure"], ""
        if self.flavor == "mariadb":
            command, sql = [*base, "--bootstrap", "--lc-messages=en_US"], _bootstrap(installation)
        with self._log.open("ab") as log:
            done = subprocess.run(
                command, input=sql.encode(), stdout=log, stderr=log, env=_environment()
            )
        if done.returncode:
            shutil.rmtree(data)
            raise self._failure("could not make its data directory")

    def _failure(self, what: str) -> ServerFailed:
        tail = self._log.read_text(errors="replace").splitlines()[-25:]
        return ServerFailed("\n".join([f"{_TITLES[self.flavor]} {what}:", *tail]))


def start_mysql(folder: Path, *, options: Sequence[str] = ()) -> DatabaseServer:
    """Starts Oracle's MySQL in a folder."""
    return DatabaseServer(find_server("mysql"), folder, options)


def start_mariadb(folder: Path, *, options: Sequence[str] = ()) -> DatabaseServer:
    """Starts MariaDB in a folder."""
    return DatabaseServer(find_server("mariadb"), folder, options)


def find_server(flavor: str) -> Installation:
    """Finds a server program, downloading it where none is installed.

    Raises:
        ServerNotFound: If there is none to be had.
    """
    search_path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    for name in ("mariadbd", "mysqld"):
        program = shutil.which(name, path=search_path)
        installed = program and _probe((program,), Path(program).resolve().parents[1])
        if installed and installed.flavor == flavor:
            return installed
    tree = _cache() / flavor
    if not (tree / ".complete").exists():
        _download(flavor, tree)
    libraries = [path for path in tree.glob("**/*-linux-gnu*") if path.is_dir()]
    loader = next(path for folder in libraries for path in folder.glob("ld-linux*.so.*"))
    program = str(tree / "usr/sbin" / ("mariadbd" if flavor == "mariadb" else "mysqld"))
    search = ":".join(map(str, libraries))
    command = (str(loader), "--inhibit-cache", "--library-path", search, program)
    found = _probe(command, tree / "usr")
    if found is None:
        raise ServerNotFound(f"{program} does not run here: delete {tree} to download it again.")
    return found


def _probe(command: tuple[str, ...], prefix: Path) -> Installation | None:
    """Asks a program for its version and flavor; None if it does not run."""
    try:
        text = subprocess.run(
            [*command, "--no-defaults", "--version"],
            capture_output=True,
            text=True,
            check=True,
            env=_environment(),
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    version = re.search(r"Ver (\d[\d.]*)", text)
    flavor = "mariadb" if "MariaDB" in text else "mysql"
    return Installation(flavor, version.group(1) if version else "?", command, prefix)


def _download(flavor: str, tree: Path) -> None:
    """Unpacks a server and every library it needs, libc included, without installing it."""
    release: dict[str, str] = {}
    with contextlib.suppress(OSError):
        release = platform.freedesktop_os_release()
    package, suite = _PACKAGES.get((flavor, release.get("ID", "")), ("", None))
    missing = ServerNotFound(
        f"No {_TITLES[flavor]} server is here and none could be downloaded: install"
        f" {flavor}-server so that its program is on PATH."
    )
    if not package or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise missing
    print(f"Downloading {_TITLES[flavor]} ...", file=sys.stderr)
    tree.parent.mkdir(parents=True, exist_ok=True)
    (tree.parent / ".gitignore").write_text("*\n")
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="unpack-") as name:
        try:
            unpacked = _unpack(Path(name), package, release, suite)
        except (subprocess.CalledProcessError, StopIteration) as exc:
            raise missing from exc
        with contextlib.suppress(OSError):  # another process may have been first
            unpacked.rename(tree)


def _unpack(work: Path, package: str, release: dict[str, str], suite: str | None) -> Path:
    """Downloads a package with all it depends on, and unpacks it below a folder."""
    apt, unpacked = work / "apt", work / "tree"
    for name in ("lists/partial", "cache/archives/partial", "none"):
        (apt / name).mkdir(parents=True)
    unpacked.mkdir()
    # The mirror is the one that this machine's own apt uses for its own release.
    own = release["VERSION_CODENAME"]
    form = ["--format", "$(RELEASE) $(SITE)", "Created-By: Packages"]
    targets = _output("apt-get", "indextargets", *form).splitlines()
    mirror = next(line.split()[1] for line in targets if line.startswith(f"{own} "))
    keyring = Path(f"/usr/share/keyrings/{release['ID']}-archive-keyring.gpg")
    signed_by = f"[signed-by={keyring}] " if keyring.exists() else ""
    sections = "main universe" if release["ID"] == "ubuntu" else "main"
    (apt / "sources.list").write_text(f"deb {signed_by}{mirror} {suite or own} {sections}\n")
    # To apt nothing is installed, so that it fetches libc too; but perl, which only helper
    # scripts want, is declared to be there.
    (apt / "status").write_text(
        "Package: perl\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: allowed\n"
        "Version: 99\nMaintainer: none\nDescription: stands in for perl\n"
    )
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": apt / "none",
        "Dir::Etc::preferencesparts": apt / "none",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Log": "/dev/null",
        "APT::Sandbox::User": "",
        "APT::Keep-Downloaded-Packages": "true",
        "Acquire::Languages": "none",
        "Debug::NoLocking": "true",
    }
    get = ["apt-get", "-qq", "-y", *(f"-o{key}={value}" for key, value in settings.items())]
    _output(*get, "update")
    _output(*get, "--no-install-recommends", "--download-only", "install", package)
    for archive in (apt / "cache/archives").glob("*.deb"):
        _output("dpkg-deb", "-x", str(archive), str(unpacked))
    (unpacked / ".complete").touch()
    return unpacked


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def _bootstrap(installation: Installation) -> str:
    """The statements that make MariaDB's system tables, one a line as its bootstrap wants."""
    share = next(installation.prefix.glob("share/*/*_performance_tables.sql")).parent
    names = ("system_tables", "performance_tables", "system_tables_data")
    tables = [next(share.glob(f"*_{name}.sql")).read_text() for name in names]
    only_root = "DELETE FROM global_priv WHERE Host <> 'localhost';"
    begin = ["CREATE DATABASE mysql;", "USE mysql;", "SET @auth_root_socket = NULL;"]
    return "\n".join([*begin, *tables, only_root, ""])


def _environment() -> dict[str, str]:
    """Ours, without what would mix this machine's libraries with those of a tree."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LD_")}
    return {**kept, "OPENSSL_CONF": "/dev/null"}


def _cache() -> Path:
    default = Path(__file__).resolve().parents[1] / ".cache" / "servers"
    return Path(os.environ.get("OPTUNA_SPARK_TEST_CACHE") or default).resolve()


def _free_port() -> int:
    """A free port below those that the kernel gives to outgoing connections.

    One of those could be taken while the server is down, and then it could not come back.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def main() -> int:
    """Prepares the servers and says which there are."""
    found = 0
    for flavor in FLAVORS:
        try:
            server = find_server(flavor)
        except ServerNotFound as exc:
            print(exc, file=sys.stderr)
        else:
            found += 1
            print(f"{_TITLES[flavor]} {server.version}: {server.command[-1]}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
