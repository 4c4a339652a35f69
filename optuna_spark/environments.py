"""Looks into a Python environment: where its parts are, and which files are worth packing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from optuna_spark.exceptions import PackingError

# Matches names in the archive, of folders with a slash at the end.
LEFT_OUT = re.compile(
    r"(^|/)__pycache__/|\.(a|pyc)$"
    r"|/python3\.\d+/(config-[^/]*|ensurepip|idlelib|test|turtledemo)/"
    # Executors take pyspark and py4j from the cluster's Spark, whose version they must have.
    r"|/(site-packages|dist-packages|site-\d+)/(pip|py4j|pyspark)(-[^/]*)?/"
)
_MODULE_SUFFIXES = {".py", ".so"}
# What a package holds, and a namespace of packages, and a namespace of those.
_PACKAGE_FORMS = ("*.py", "*.so", "*/__init__.py", "*/*/__init__.py")
# What only the interpreter knows; of the libraries that it has loaded, Linux alone tells.
_PROBE = """
import json, os, site, sys, sysconfig
maps = open("/proc/self/maps").read() if os.path.exists("/proc/self/maps") else ""
loaded = [line.split(None, 5)[-1] for line in maps.splitlines()]
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "base": sys.base_prefix,
    "program": os.path.realpath(sys._base_executable),
    "libpython": next((path for path in loaded if "/libpython3." in path), None),
    "stdlib": sysconfig.get_path("stdlib"),
    "sites": site.getsitepackages() + [site.getusersitepackages()] * bool(site.ENABLE_USER_SITE),
    "own_site": site.getsitepackages([sys.base_prefix])[-1],
}))
"""


@dataclass(frozen=True)
class Environment:
    """An installed Python and its packages."""

    prefix: Path
    version: str  # 3.12, for example
    program: Path  # the interpreter itself, no link to it
    libpython: Path | None  # None where it is part of the program, as in Debian
    stdlib: Path
    sites: tuple[Path, ...]  # folders with packages, in the order of sys.path
    packed_stdlib: str  # where these are in the archive
    packed_site: str


def inspect(prefix: str | os.PathLike[str] | None) -> Environment:
    """Ask the Python of an environment, by default the running one, where its parts are.

    Raises:
        PackingError: there is no Python, or none that runs.
    """
    folder = Path(sys.prefix if prefix is None else prefix).absolute()
    try:
        # -E, not -I: that would hide the packages in ~/.local.
        command = [str(folder / "bin" / "python3"), "-E", "-c", _PROBE]
        done = subprocess.run(command, cwd=folder / "bin", capture_output=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.CalledProcessError) as error:
        raise PackingError(
            f"{folder} cannot be packed because it holds no bin/python3 that runs: "
            "name the folder of a venv or of a conda environment."
        ) from error
    sites = (Path(site).resolve() for site in found["sites"] if os.path.isdir(site))
    return Environment(
        prefix=folder,
        version=found["version"],
        program=Path(found["program"]),
        libpython=Path(found["libpython"]) if found["libpython"] else None,
        stdlib=Path(found["stdlib"]),
        sites=tuple(dict.fromkeys(sites)),
        packed_stdlib=os.path.relpath(found["stdlib"], found["base"]),
        packed_site=os.path.relpath(found["own_site"], found["base"]),
    )


def editable_files(site: Path, into: str) -> tuple[dict[str, Path], dict[str, bytes]]:
    """Find what the .pth files of a folder with packages make importable from elsewhere.

    Returns:
        The files to add, and those to replace, since what they point to comes along.

    Raises:
        PackingError: the source of an editable package is gone, or nobody can say where it is.
    """
    owners = _editable_packages(site)
    sources: dict[str, Path] = {}
    replaced: dict[str, bytes] = {}
    for pth in sorted(site.glob("*.pth")):
        owner, kept = owners.get(pth.name), []
        for line in filter(None, map(str.strip, pth.read_text("utf-8", "replace").splitlines())):
            modules: dict[str, Path] = {}  # name to import: its folder, or file without ending
            hook = re.match(r"import (__editable__\w+)", line)
            folder = (site / line).resolve()
            if hook:
                modules = _mapped_modules(site / f"{hook[1]}.py")
                replaced[f"{into}/{hook[1]}.py"] = b""
            elif line.startswith(("import ", "import\t", "#")):
                if owner and not line.startswith("#"):
                    raise PackingError(
                        f"{owner} is installed editable in a way that cannot be packed: "
                        "install it without --editable."
                    )
                kept.append(line)
            elif folder.is_relative_to(site):
                kept.append(os.path.relpath(folder, site))
            elif folder.is_dir():
                modules = _modules_in(folder)
            elif owner:
                modules = {folder.name: folder}
            for name, path in modules.items():
                files = _module_files(path, f"{into}/{name.replace('.', '/')}")
                if not files:
                    raise PackingError(
                        f"{owner or pth.stem} is installed editable but its source {path} is "
                        "gone: install it again, or uninstall it."
                    )
                sources = {**files, **sources}
        replaced[f"{into}/{pth.name}"] = "".join(f"{line}\n" for line in kept).encode()
    return sources, replaced


def _editable_packages(site: Path) -> dict[str, str]:
    """Map each file of the packages that are installed editable to the package's name."""
    return {
        file.name: str(package.metadata["Name"])
        for package in metadata.distributions(path=[str(site)])
        if json.loads(package.read_text("direct_url.json") or "{}")
        .get("dir_info", {})
        .get("editable")
        for file in package.files or ()
    }


def _mapped_modules(finder: Path) -> dict[str, Path]:
    """Read the modules of an import hook that setuptools wrote."""
    mapping = re.search(r"^MAPPING\b.*?= (\{.*\})$", finder.read_text("utf-8"), re.MULTILINE)
    found: dict[str, str] = ast.literal_eval(mapping[1]) if mapping else {}
    return {name: Path(path) for name, path in found.items()}


def _modules_in(folder: Path) -> dict[str, Path]:
    """Find what is worth importing in a folder, which may be that of a whole project."""
    modules = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            name = path.name
            wanted = any(found for form in _PACKAGE_FORMS for found in path.glob(form))
        else:
            name = path.name.partition(".")[0]
            wanted = path.suffix in _MODULE_SUFFIXES and name not in {"setup", "conftest"}
        if wanted and name.isidentifier():
            modules[name] = folder / name
    return modules


def _module_files(path: Path, into: str) -> dict[str, Path]:
    if path.is_dir():
        return dict(files_under(path, into))
    return {
        f"{os.path.dirname(into)}/{file.name}": file
        for file in path.parent.glob("*.*")
        if file.suffix in _MODULE_SUFFIXES and file.name.partition(".")[0] == path.name
    }


def files_under(folder: Path, into: str, skip: Collection[str] = ()) -> Iterator[tuple[str, Path]]:
    """Name the files under a folder that belong into the archive; links are followed."""
    for path in folder.iterdir():
        name = f"{into}/{path.name}"
        if path.name in skip:
            continue
        if path.is_dir():
            loop = path.is_symlink() and folder.resolve().is_relative_to(path.resolve())
            if not loop and not LEFT_OUT.search(f"{name}/"):
                yield from files_under(path, name)
        elif path.is_file() and not LEFT_OUT.search(name):
            yield name, path
