"""Pack an environment, Python included, for executors that have nothing preinstalled."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from optuna_spark.exceptions import PackingError

_COMPRESSION = 3  # of gzip's 9; more costs seconds and saves little
# Executors have Spark's own pyspark and py4j; the rest is of no use to a trial.
_NOT_PACKED = ("pyspark", "py4j", "pip")
_NOT_OF_STDLIB = ("site-packages", "dist-packages", "test", "idlelib", "ensurepip")

# Runs in the environment to pack, and says what that consists of.
_FACTS = r"""
import importlib.metadata as metadata, importlib.util, json, os, site, sys, sysconfig

def editable(distribution):
    text = distribution.read_text("direct_url.json")
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))

def names(distribution):
    listed = (distribution.read_text("top_level.txt") or "").split()
    return listed or [distribution.metadata["Name"].replace("-", "_")]

def source(name):
    found = importlib.util.find_spec(name)
    if found is None:
        return None
    return list(found.submodule_search_locations or [])[0] if found.submodule_search_locations \
        else found.origin

library = sysconfig.get_config_var("INSTSONAME") or ""
library = os.path.join(sysconfig.get_config_var("LIBDIR") or "", library)
base = sys._base_executable
json.dump({
    "version": "%d.%d" % sys.version_info[:2],
    "executable": os.path.realpath(base),
    "base_prefix": sys.base_prefix,
    "library": library if ".so" in library and os.path.exists(library) else None,
    "stdlib": sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
    "packages": [path for path in sys.path if os.path.basename(path).endswith("-packages")
                 and os.path.isdir(path)],
    "editable": {name: source(name) for distribution in metadata.distributions()
                 if editable(distribution) for name in names(distribution)},
}, sys.stdout)
"""


@dataclass(frozen=True)
class _Environment:
    """What an environment consists of, as its own Python says."""

    version: str  # "3.11"
    executable: Path  # the interpreter itself, no link
    base_prefix: Path
    library: Path | None  # libpython, where it is shared
    stdlib: Path
    packages: tuple[Path, ...]  # folders of installed packages, the first one wins
    editable: dict[str, Path]  # packages that are installed as links to their sources


def pack_environment(
    output: str | os.PathLike[str], *, prefix: str | os.PathLike[str] | None = None
) -> Path:
    """Pack an environment for `spark-submit --archives FILE#environment`.

    The archive holds the Python interpreter, the standard library and all installed packages but
    pyspark, which executors have from Spark. Executors run it as `./environment/bin/python`.
    Other programs of the environment's `bin` are left out, or name the old place.

    Args:
        output: The `.tar.gz` to write; replaced in one step.
        prefix: The conda or virtual environment to pack; default: the running one.

    Returns:
        The archive's path.

    Raises:
        PackingError: the environment cannot be packed; the message says why.

    Example:
        >>> pack_environment("env.tar.gz")  # doctest: +SKIP
        PosixPath('env.tar.gz')
    """
    target, place = Path(output), Path(prefix or sys.prefix)
    environment = _inspect(place)
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=target.absolute().parent) as folder:
        draft = Path(folder, "environment.tar.gz")
        if _is_conda(place):
            _pack_conda(place, environment, draft)
        else:
            with tarfile.open(draft, "w:gz", compresslevel=_COMPRESSION) as archive:
                _add_interpreter(archive, environment)
                _add_packages(archive, environment)
        draft.chmod(0o644)
        draft.replace(target)
    return target


def environment_fingerprint(prefix: str | os.PathLike[str] | None = None) -> str:
    """A short text that changes when what is installed in an environment changes.

    Args:
        prefix: The environment; default: the running one.

    Raises:
        PackingError: there is no Python in it.
    """
    environment = _inspect(Path(prefix or sys.prefix))
    seen = hashlib.sha256(f"{environment.executable} {environment.version}".encode())
    for folder in environment.packages:
        for entry in sorted(folder.iterdir()):
            seen.update(f"{entry.name} {entry.stat().st_mtime_ns}\n".encode())
    for source in environment.editable.values():
        for path in sorted(source.rglob("*.py")) if source.is_dir() else [source]:
            seen.update(f"{path} {path.stat().st_mtime_ns}\n".encode())
    return seen.hexdigest()[:16]


def _is_conda(prefix: Path) -> bool:
    return (prefix / "conda-meta").is_dir()


def _inspect(prefix: Path) -> _Environment:
    python = prefix / "bin" / "python"
    if not python.exists():
        raise PackingError(f"{prefix} holds no bin/python: name a conda or virtual environment.")
    try:
        answer = subprocess.run(
            [str(python), "-c", _FACTS], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        raise PackingError(f"{python} does not run: {detail.strip().splitlines()[-1]}") from error
    facts: dict[str, Any] = json.loads(answer.stdout)
    for name, source in facts["editable"].items():
        if source is None or not Path(source).exists():
            raise PackingError(
                f"The package {name} is installed from a folder that is gone: install it again, "
                f"or `pip uninstall` it."
            )
    return _Environment(
        version=facts["version"],
        executable=Path(facts["executable"]),
        base_prefix=Path(facts["base_prefix"]),
        library=Path(facts["library"]) if facts["library"] else None,
        stdlib=Path(facts["stdlib"]),
        packages=tuple(Path(path) for path in facts["packages"]),
        editable={name: Path(source) for name, source in facts["editable"].items()},
    )


def _add_interpreter(archive: tarfile.TarFile, environment: _Environment) -> None:
    name = f"python{environment.version}"
    _add_binary(archive, environment.executable, f"bin/{name}", environment.base_prefix)
    for link in ("python", "python3"):
        member = tarfile.TarInfo(f"bin/{link}")
        member.type, member.linkname = tarfile.SYMTYPE, name
        archive.addfile(member)
    if environment.library is not None:
        library = environment.library
        _add_binary(archive, library, f"lib/{library.name}", environment.base_prefix)
    for path, inside in _files(environment.stdlib, _NOT_OF_STDLIB):
        if not inside.parts[0].startswith("config-"):  # a static libpython
            archive.add(path, f"lib/{name}/{inside}", recursive=False)


def _add_packages(archive: tarfile.TarFile, environment: _Environment) -> None:
    # Debian's Python looks for packages in folders of other names.
    code = "import site, sys; print(site.getsitepackages([sys.argv[1]])[-1])"
    command = [str(environment.executable), "-c", code, "/"]
    folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(
        " /\n"
    )
    packed: set[str] = set()
    for name, source in environment.editable.items():
        is_package = source.is_dir()
        for path, inside in _files(source) if is_package else [(source, source)]:
            inner = f"{name}/{inside}" if is_package else source.name
            archive.add(path, f"{folder}/{inner}", recursive=False)
        packed.add(name)
    for packages in environment.packages:
        entries = sorted(entry.name for entry in packages.iterdir())
        taken = {entry for entry in entries if entry in packed}
        packed.update(entries)
        for path, inside in _files(packages, _NOT_PACKED):
            first = inside.parts[0]
            if first in taken or first.startswith("__editable__") or first.endswith(".egg-link"):
                continue
            archive.add(path, f"{folder}/{inside}", recursive=False)


def _files(folder: Path, left_out: tuple[str, ...] = ()) -> Iterator[tuple[Path, Path]]:
    """Files under a folder, and where in it; without the folders left out at its top."""
    for here, folders, files in os.walk(folder):
        skipped = ("__pycache__", *(left_out if Path(here) == folder else ()))
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(files):
            path = Path(here, name)
            yield path, path.relative_to(folder)


def _add_binary(archive: tarfile.TarFile, path: Path, name: str, base_prefix: Path) -> None:
    """Add a program that looks for its libraries where it lies, not where it was built."""
    data = path.read_bytes()
    old, new = f"{base_prefix}/lib".encode() + b"\0", b"$ORIGIN/../lib\0"
    if len(new) <= len(old):
        data = data.replace(b"\0" + old, b"\0" + new.ljust(len(old), b"\0"))
    member = archive.gettarinfo(path, name)
    member.type, member.size = tarfile.REGTYPE, len(data)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        archive.addfile(member, file)


def _pack_conda(prefix: Path, environment: _Environment, output: Path) -> None:
    try:
        import conda_pack
    except ImportError:
        raise PackingError(
            "Packing a conda environment needs conda-pack: `pip install 'optuna-spark[pack]'`."
        ) from None
    bare = output.with_name("conda.tar.gz")
    try:
        conda_pack.pack(
            prefix=str(prefix),
            output=str(bare),
            ignore_editable_packages=True,
            ignore_missing_files=True,
            compress_level=_COMPRESSION,
            verbose=False,
        )
    except conda_pack.CondaPackException as error:
        raise PackingError(f"conda-pack cannot pack {prefix}: {error}") from error
    if not environment.editable:
        bare.rename(output)
        return
    # conda-pack leaves editable packages out; a gzip file may be continued, a tar file may not.
    folder = f"lib/python{environment.version}/site-packages"
    with (
        tarfile.open(bare) as old,
        tarfile.open(output, "w:gz", compresslevel=_COMPRESSION) as archive,
    ):
        for member in old:
            content: IO[bytes] | None = old.extractfile(member) if member.isreg() else None
            archive.addfile(member, content)
        for name, source in environment.editable.items():
            for path, inside in _files(source):
                archive.add(path, f"{folder}/{name}/{inside}", recursive=False)
