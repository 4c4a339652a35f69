"""Search all that a run shows to others for a password: processes, pages, files, rows."""

from __future__ import annotations

import base64
import contextlib
import html
import json
import os
import stat
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark

from tests.servers import DatabaseServer

_OPEN = stat.S_IRGRP | stat.S_IROTH  # of a file: others may read it
_PASSABLE = stat.S_IXGRP | stat.S_IXOTH  # of a folder: others may go through it
_SCAN_SECONDS = 0.1  # between two looks at all processes
_PAGES = ("jobs", "stages", "storage", "environment", "executors", "SQL", "metrics/json")


class Secret:
    """A password, and all that may become of it on the way into a text.

    Args:
        text: The password. Its end, the `core`, must be letters and digits, which no escaping
            changes, so that no way of escaping can be forgotten.
        core: So many characters at its end.
    """

    def __init__(self, text: str, core: int = 16) -> None:
        self.text = text
        tail = text[-core:]
        assert tail.isascii()
        assert tail.isalnum()
        data = text.encode()
        whole = [
            text,
            urllib.parse.quote(text, safe=""),
            repr(text)[1:-1],
            json.dumps(text)[1:-1],
            html.escape(text),
        ]
        self._forms = [form.encode() for form in (tail, *whole)]
        self._forms += [
            tail.encode("utf-16-le"),
            data.hex().encode(),
            tail.encode().hex().encode(),
        ]
        for before in range(3):  # base64 depends on where in a group of three bytes it begins
            coded = base64.b64encode(bytes(before) + tail.encode())
            self._forms.append(coded[4 if before else 0 : -4])

    def is_in(self, data: bytes) -> bool:
        """Whether the password, in whatever form, is part of this."""
        return any(form in data for form in self._forms)


def links_to_spark(folder: Path) -> Path:
    """Make a SPARK_HOME of links, under which local-cluster may write its logs."""
    folder.mkdir()
    for path in Path(pyspark.__file__).parent.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def files_under(folder: Path, *, for_others: bool) -> Iterator[Path]:
    """Files below a folder, links aside.

    Args:
        folder: Itself taken as open to everyone, as `/tmp` is.
        for_others: Only those that another user, or the group, can read.
    """
    with contextlib.suppress(FileNotFoundError):  # it may be gone by now
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                mode = entry.stat(follow_symlinks=False).st_mode
                if stat.S_ISDIR(mode) and (mode & _PASSABLE or not for_others):
                    yield from files_under(Path(entry.path), for_others=for_others)
                elif stat.S_ISREG(mode) and (mode & _OPEN or not for_others):
                    yield Path(entry.path)


def files_with(secret: Secret, folder: Path, *, for_others: bool) -> list[str]:
    """Files below a folder that hold the password."""
    found = []
    for path in files_under(folder, for_others=for_others):
        with contextlib.suppress(FileNotFoundError):
            if secret.is_in(path.read_bytes()):
                found.append(str(path.relative_to(folder)))
    return found


class ProcessWatch:
    """Looks at the arguments of every process of this machine, again and again.

    Example:
        >>> with ProcessWatch(secret) as watch:  # doctest: +SKIP
        ...     run()
        >>> assert not watch.found
    """

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: set[bytes] = set()  # arguments, joined by NUL bytes
        self.found: list[bytes] = []

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_SCAN_SECONDS):
            self.look()

    def look(self) -> None:
        """Look once."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                arguments = path.read_bytes()
                if arguments not in self.seen:
                    self.seen.add(arguments)
                    if self._secret.is_in(arguments):
                        self.found.append(arguments)


def spark_pages(address: str) -> dict[str, bytes]:
    """All pages of an application's web UI, what its REST interface says, and executors' logs.

    Args:
        address: As `http://127.0.0.1:4040`.
    """
    api = f"{address}/api/v1/applications"
    [application] = _read_json(api)
    api = f"{api}/{application['id']}"
    jobs, stages = _read_json(f"{api}/jobs"), _read_json(f"{api}/stages?details=true")
    executors = _read_json(f"{api}/allexecutors")
    wanted = [
        address,
        *(f"{address}/{name}/" for name in _PAGES),
        *(f"{address}/jobs/job/?id={job['jobId']}" for job in jobs),
        *(
            f"{address}/stages/stage/?id={stage['stageId']}&attempt={stage['attemptId']}"
            for stage in stages
        ),
        *(f"{address}/executors/threadDump/?executorId={each['id']}" for each in executors),
        *(f"{api}/{name}" for name in ("jobs", "environment", "allexecutors", "storage/rdd")),
        f"{api}/stages?details=true&withSummaries=true",
        *(url for each in executors for url in each["executorLogs"].values()),
    ]
    return {url: _read(url) for url in wanted}


def rows_of(server: DatabaseServer, database: str) -> str:
    """Everything that is in a database, as one text."""
    tables = server.admin_sql(f"SHOW TABLES IN {database}")
    return "\n".join(
        repr(row)
        for (name,) in tables
        for row in server.admin_sql(f"SELECT * FROM {database}.{name}")
    )


def _read(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=30) as page:
            return bytes(page.read())
    except urllib.error.HTTPError as error:  # an error page is a page
        return error.read()


def _read_json(url: str) -> Any:
    return json.loads(_read(url))
