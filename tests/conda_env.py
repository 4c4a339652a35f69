"""Makes a conda environment without a conda installation or channel.

The CPython that runs the tests becomes a conda package in a channel of its own, and rattler, which
is also what pixi uses, solves and installs it. So the environment has what conda-pack reads: the
records in `conda-meta`, the package cache behind them, and files with the prefix written in.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import platform
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rattler
from rattler.index import index_fs

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
# What conda writes over with the prefix on installation; conda-build's has this length.
_PLACEHOLDER = "/placeholder".ljust(255, "_")
_NEEDLESS = {"__pycache__", "site-packages", "test", "idlelib", "ensurepip", "turtledemo"}


def can_be_packaged() -> bool:
    """Whether the Python of the tests lies in a folder of its own, unlike a system's."""
    return sys.base_prefix not in {"/usr", "/usr/local"}


def make_conda_environment(prefix: Path, work: Path) -> None:
    """Install Python, and nothing else, as conda does.

    Args:
        prefix: The environment to make.
        work: Takes the channel and the package cache, which conda-pack reads too.
    """
    subdir = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]
    _write_package(work / "channel" / subdir, subdir)
    asyncio.run(_install(prefix, work / "channel", work / "cache"))


async def _install(prefix: Path, channel: Path, cache: Path) -> None:
    await index_fs(channel)
    records = await rattler.solve([rattler.Channel(channel.as_uri())], [f"python={VERSION}"])
    await rattler.install(records, prefix, cache_dir=cache, show_progress=False)


def _write_package(folder: Path, subdir: str) -> None:
    name, version, build = "python", sys.version.split()[0].rstrip("+"), "0"
    index = {
        "name": name,
        "version": version,
        "build": build,
        "build_number": 0,
        "subdir": subdir,
        "depends": [],
    }
    folder.mkdir(parents=True)
    paths: list[dict[str, Any]] = []
    with tarfile.open(
        folder / f"{name}-{version}-{build}.tar.bz2", "w:bz2", compresslevel=1
    ) as tar:
        for path, data, mode in _contents():
            record = {
                "_path": path,
                "path_type": "hardlink",
                "sha256": hashlib.sha256(data).hexdigest(),
                "size_in_bytes": len(data),
            }
            if _PLACEHOLDER.encode() in data:
                record |= {"prefix_placeholder": _PLACEHOLDER, "file_mode": "text"}
            paths.append(record)
            _add(tar, path, data, mode)
        for link in ("bin/python", "bin/python3"):
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, f"python{VERSION}"
            tar.addfile(entry)
            paths.append({"_path": link, "path_type": "softlink"})
        information = {"index": index, "paths": {"paths": paths, "paths_version": 1}}
        for what, content in information.items():
            _add(tar, f"info/{what}.json", json.dumps(content).encode(), 0o644)


def _contents() -> Iterator[tuple[str, bytes, int]]:
    """Name, bytes and mode of each file, made to run from any folder, as conda's packages are."""
    base = Path(sys.base_prefix).resolve()
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()
    files = [base / "bin" / f"python{VERSION}", *base.glob("lib/libpython*.so.*")]
    for folder, names, found in os.walk(stdlib):
        names[:] = [name for name in names if name not in _NEEDLESS and "config-" not in name]
        files += [Path(folder, name) for name in found]
    for file in files:
        data = file.read_bytes()
        if data.startswith(b"\x7fELF"):
            # Where the loader looks for libpython: not where this Python was built.
            built, moved = str(base / "lib").encode(), os.path.relpath(base / "lib", file.parent)
            rpath = f"$ORIGIN/{moved}".encode()
            if len(rpath) <= len(built):
                data = data.replace(
                    b"\0" + built + b"\0", b"\0" + rpath.ljust(len(built), b"\0") + b"\0"
                )
        elif b"\0" not in data:
            data = data.replace(str(base).encode(), _PLACEHOLDER.encode())
        yield file.relative_to(base).as_posix(), data, file.stat().st_mode & 0o777


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
