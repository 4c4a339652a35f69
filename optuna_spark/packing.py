"""Packs a Python environment into one archive that Spark's executors unpack and run.

A conda environment is left to conda-pack. A venv becomes the plain installation that it stands
for: the interpreter, `libpython` where that is a file of its own, the standard library and the
packages; nothing in it depends on where it is unpacked. Either way packages that are installed
editable travel as ordinary ones, and of `bin/` only `python` is meant to be run: other scripts
name the old place in their first line. What the interpreter takes from the operating system, the
C library above all, stays the executor's; a conda environment brings most of that along.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from optuna_spark.environments import LEFT_OUT, Environment, editable_files, files_under, inspect
from optuna_spark.exceptions import PackingError

# A file of the archive: a copy of another, these bytes, or (text) a link to a name beside it.
_Content = Path | bytes | str

_GZIP_LEVEL = 3
_BLOCK = 4 << 20  # bytes that one thread compresses at a time
_THREADS = os.cpu_count() or 1
_MTIME = 1_000_000_000  # of what is no copy of a file; tar would warn of 1970
# Where a venv's packages put files beside their modules: MKL its libraries, for example.
_DATA_FOLDERS = ("etc", "lib", "share")
# Without `home` this makes no venv. It only keeps out the packages in the ~/.local of whoever
# runs the executor, which would come before ours.
_VENV_SETTINGS = b"include-system-site-packages = false\n"
# Adds a folder with packages, .pth files included; site.py runs it with `sitedir` as a local.
_ADD_SITE = (
    "import os, site, sys; "
    "site.addsitedir(os.path.join(sys._getframe(1).f_locals['sitedir'], '{name}'))\n"
)


def pack_environment(
    output: str | os.PathLike[str], *, prefix: str | os.PathLike[str] | None = None
) -> Path:
    """Pack an environment for `spark-submit --archives FILE#environment`.

    Executors then run it as `./environment/bin/python`, without a Python of their own. They need
    this host's kind of processor, and a C library that is not older.

    Args:
        output: The `.tar.gz` to write; an existing one is replaced once the new one is whole.
        prefix: The folder of a venv, a conda environment or another Python installation;
            default: the running one.

    Returns:
        The archive.

    Raises:
        PackingError: the environment cannot be packed, or the archive cannot be written.

    Example:
        >>> pack_environment("env.tar.gz")  # doctest: +SKIP
        PosixPath('env.tar.gz')
    """
    output, environment = Path(output), inspect(prefix)
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        if (environment.prefix / "conda-meta").is_dir():
            _pack_conda(environment, temporary, left_out=output)
        else:
            _write(temporary, _files_of(environment))
        temporary.chmod(0o644)
        temporary.replace(output)
    except OSError as error:
        raise PackingError(
            f"{environment.prefix} cannot be packed into {output}: {error}."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return output


def environment_fingerprint(prefix: str | os.PathLike[str] | None = None) -> str:
    """Tell whether an archive is still that of an environment, in a fraction of a second.

    Args:
        prefix: The environment's folder; default: the running one.

    Returns:
        16 hexadecimal digits, which change with the interpreter, with what is installed, and with
        the source of what is installed editable.

    Raises:
        PackingError: there is no environment, or one that cannot be packed.

    Example:
        >>> environment_fingerprint() == environment_fingerprint()  # doctest: +SKIP
        True
    """
    environment = inspect(prefix)
    seen = [str(environment), _stamp(environment.program), _stamp(Path(__file__))]
    seen += map(_stamp, sorted((environment.prefix / "conda-meta").glob("*.json")))
    for site in environment.sites:
        for path in sorted(site.iterdir()):
            # What is imported gets a new mtime, for __pycache__; what pip writes beside it not.
            told = path.suffix in {".dist-info", ".egg-info"} or path.is_file()
            seen.append(_stamp(path) if told else path.name)
        seen += map(_stamp, editable_files(site, "")[0].values())
    return hashlib.sha256("\n".join(seen).encode(errors="surrogateescape")).hexdigest()[:16]


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


def _files_of(environment: Environment) -> dict[str, _Content]:
    """Name the files of an archive, unless conda made the environment."""
    if not sys.platform.startswith("linux"):
        raise PackingError("A venv can be packed on Linux alone: use a conda environment.")
    python = f"python{environment.version}"
    program = environment.program.read_bytes()
    files: dict[str, _Content] = {"bin/python": python, "bin/python3": python}
    if environment.libpython is not None:
        name = environment.libpython.name
        # The program gives the bare name, which the loader would find where Python was built or
        # in the executor's system. A path to ours has to fit into the same bytes.
        link = "py.so".rjust(len(name) - len("$ORIGIN/../lib/"), "_")
        path = f"$ORIGIN/../lib/{link}"
        program = program.replace(f"\0{name}\0".encode(), f"\0{path}\0".encode())
        files |= {f"lib/{name}": environment.libpython, f"lib/{link}": name}
    files |= {f"bin/{python}": program, "pyvenv.cfg": _VENV_SETTINGS}
    packages = {"site-packages", "dist-packages"}
    files.update(files_under(environment.stdlib, environment.packed_stdlib, skip=packages))
    if (environment.prefix / "pyvenv.cfg").exists():
        for folder in _DATA_FOLDERS:
            if (environment.prefix / folder).is_dir():
                files.update(files_under(environment.prefix / folder, folder, skip={python}))
    for number, site in enumerate(environment.sites):
        into = environment.packed_site
        if number:  # the system's, for a venv that includes them
            files[f"{into}/site-{number}.pth"] = _ADD_SITE.format(name=f"site-{number}").encode()
            into += f"/site-{number}"
        sources, hooks = editable_files(site, into)
        files |= {**sources, **dict(files_under(site, into)), **hooks}
    return files


def _pack_conda(environment: Environment, output: Path, left_out: Path) -> None:
    try:
        import conda_pack
    except ImportError as error:
        raise PackingError(
            f"{environment.prefix} is a conda environment, and conda-pack, which packs those, is "
            "not installed: pip install 'optuna-spark[pack]'."
        ) from error
    sources: dict[str, Path] = {}
    written: dict[str, bytes] = {"pyvenv.cfg": _VENV_SETTINGS}
    for site in environment.sites:
        if site.is_relative_to(environment.prefix.resolve()):
            found, hooks = editable_files(site, environment.packed_site)
            sources |= found
            written |= hooks
    try:
        # Missing files: pip replaced what conda had installed, which is common and harmless.
        whole = conda_pack.CondaEnv.from_prefix(
            str(environment.prefix), ignore_editable_packages=True, ignore_missing_files=True
        )
        files = [
            file
            for file in whole.files
            if not LEFT_OUT.search(file.target)
            and file.target not in written
            and Path(file.source) != left_out.absolute()
        ]
        names = {file.target for file in files}
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, content) in enumerate(written.items()):
                sources[name] = Path(folder, str(number))
                sources[name].write_bytes(content)
            files += [
                conda_pack.File(str(source), name, is_conda=False)
                for name, source in sources.items()
                if name not in names
            ]
            conda_pack.CondaEnv(whole.prefix, files).pack(
                str(output), "tar.gz", compress_level=_GZIP_LEVEL, n_threads=-1
            )
    except conda_pack.CondaPackException as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise PackingError(f"conda-pack cannot pack {environment.prefix}: {reason}.") from error


class _Gzip(io.RawIOBase):
    """Compresses each block that is written to it as a gzip member of its own, in parallel.

    gzip takes members in a row for one file.
    """

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool = file, pool
        self._members: deque[Future[bytes]] = deque()

    def write(self, block: Any) -> int:
        member = self._pool.submit(gzip.compress, bytes(block), _GZIP_LEVEL, mtime=0)
        self._members.append(member)
        self.drain(keep=2 * _THREADS)
        return len(block)

    def drain(self, keep: int = 0) -> None:
        while len(self._members) > keep:
            self._file.write(self._members.popleft().result())


def _write(output: Path, files: Mapping[str, _Content]) -> None:
    """Write an archive that is the same, byte for byte, whenever the files are."""
    with output.open("wb") as file, ThreadPoolExecutor(_THREADS) as pool:
        stream = _Gzip(file, pool)
        with tarfile.open(
            fileobj=stream, mode="w|", bufsize=_BLOCK, format=tarfile.GNU_FORMAT
        ) as archive:
            for name in sorted(files):
                _add(archive, name, files[name])
        stream.drain()


def _add(archive: tarfile.TarFile, name: str, content: _Content) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.mode = _MTIME, 0o755
    if isinstance(content, str):
        entry.type, entry.linkname = tarfile.SYMTYPE, content
        archive.addfile(entry)
    elif isinstance(content, bytes):
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    else:
        with content.open("rb") as file:
            status = os.fstat(file.fileno())
            entry.size, entry.mtime = status.st_size, int(status.st_mtime)
            entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
            archive.addfile(entry, file)
