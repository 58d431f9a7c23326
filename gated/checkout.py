"""Runs gated from a bare checkout: makes ``.venv`` beside it, once, with the libraries it needs.

Standard library only, since nothing else may be there yet. ``python3 -m gated`` and ``python3 -m tests`` come
here first; an installed gated has its libraries.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def enter_venv(extra: str, command: list[str]) -> None:
    """In a bare checkout: becomes ``command`` with gated's libraries and its ``extra``; else does nothing.

    ``command`` is what follows ``python``. Who runs an installed gated, or has made a virtual environment of
    their own, gets what they have.
    """
    project = ROOT / "pyproject.toml"
    if sys.prefix != sys.base_prefix or not project.is_file():
        return
    folder = ROOT / ".venv"
    python = folder / "bin" / "python"
    wanted = hashlib.sha256(f"{sys.version} {extra} ".encode() + project.read_bytes()).hexdigest()
    made = folder / f"made-{wanted[:16]}"
    if not made.exists():
        _make(folder, python, extra)
        made.touch()
    os.execv(python, [str(python), *command])  # noqa: S606 - no shell is wanted


def _make(folder: Path, python: Path, extra: str) -> None:
    print(f"First start: installing libraries into {folder} …", flush=True)
    with_pip = importlib.util.find_spec("ensurepip") is not None
    if not with_pip and importlib.util.find_spec("pip") is None:
        _install_venv()
        with_pip = True
    if not _same_python(python):
        venv.create(folder, clear=True, symlinks=True, with_pip=with_pip)
    pip = [str(python), "-m", "pip"] if with_pip else [sys.executable, "-m", "pip", "--python", str(python)]
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    install = [*pip, "install", "--quiet", "--disable-pip-version-check", "--editable", target]
    if subprocess.run(install, check=False).returncode:  # noqa: S603 - our own
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit("gated: its libraries could not be installed; is there a network?")


def _same_python(python: Path) -> bool:
    """Whether the environment is there, and made by this very Python: libraries lie under its version."""
    if not python.exists():
        return False
    version = [str(python), "-c", "import sys; print(sys.version)"]
    said = subprocess.run(version, check=False, capture_output=True, text=True)  # noqa: S603 - our own
    return said.stdout.strip() == sys.version


def _install_venv() -> None:
    """Debian splits venv from Python: its package is the one thing that needs root."""
    command = ["apt-get", "install", "--yes", "--quiet", "python3-venv"]
    if os.geteuid() != 0:
        command.insert(0, "sudo")
    print(f"Python's venv is missing; running: {' '.join(command)}", flush=True)
    try:
        subprocess.run(command, check=True)  # noqa: S603 - fixed words
    except (OSError, subprocess.CalledProcessError):
        sys.exit("gated: install Python's venv, then try again: sudo apt install python3-venv")
