"""A virtual environment for each contender, made once from PyPI."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "bench"


class EnvironmentFailed(Exception):
    """pip could not install the packages; the message ends with its last line."""


def python_with(name: str, packages: Sequence[str]) -> str:
    """Return the Python of an environment, which is made if it is missing.

    Args:
        name: The environment's name.
        packages: What it holds; none for the environment that runs this.

    Raises:
        EnvironmentFailed: pip could not install the packages.
    """
    if not packages:
        return sys.executable
    folder = CACHE / name
    python, stamp = folder / "bin" / "python", folder / "packages.txt"
    wanted = "\n".join(packages)
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    print(f"Installing {', '.join(packages)} ...", file=sys.stderr)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*command, *packages], capture_output=True, text=True)
    if done.returncode:
        raise EnvironmentFailed(f"pip: {done.stderr.strip().splitlines()[-1]}")
    stamp.write_text(wanted)
    return str(python)
