"""Builds the virtual Pi, packs gated into it, lets it live through one day, and hands the facts to the tests.

The machine is built once (about three minutes) and kept outside the checkout, under the hash of what builds
it. A day is one boot: guest/scenario.py runs its steps there and prints one JSON object for each. The tests
of one day stand in one file, so that of several workers one alone boots it.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
DAY_LIMIT_S = 900
CYCLES = int(os.environ.get("GATED_VM_CYCLES", "10"))  # in which the gate is ended and comes back
CYCLE_LIMIT_S = 60

# mke2fs and its like are there, which a root who came by su does not have on the path.
os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin:/sbin"

Fact = dict[str, Any]


@pytest.fixture(scope="session")
def virtual_pi() -> Path:
    """The directory of a built machine."""
    if os.geteuid() != 0:
        pytest.fail("the virtual Pi is built and booted as root", pytrace=False)
    install_packages()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gated-vm"
    machine = cache / hashlib.sha256((HERE / "build.sh").read_bytes()).hexdigest()[:16]
    if not (machine / "disk.img").exists():  # what build.sh makes last
        shutil.rmtree(machine, ignore_errors=True)
        command(HERE / "build.sh", machine)
    return machine


@pytest.fixture(scope="session")
def day(virtual_pi: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fact]:
    """Every step's fact, by the step's name."""
    luggage = tmp_path_factory.mktemp("guest") / "run"
    shutil.copytree(HERE / "guest", luggage, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("systemd", "config"):
        shutil.copytree(CHECKOUT / part, luggage / part)
    (luggage / "cycles").write_text(str(CYCLES))
    command(
        "/usr/bin/python3", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", luggage, CHECKOUT
    )
    work = tmp_path_factory.mktemp("work")
    done = subprocess.run(
        [HERE / "run.sh", virtual_pi, luggage, work, str(DAY_LIMIT_S + CYCLES * CYCLE_LIMIT_S)],
        capture_output=True,
        text=True,
        check=False,
    )
    facts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]
    if not facts:
        pytest.fail(
            f"the guest said nothing; its console is in {work}\n{done.stdout}{done.stderr}", pytrace=False
        )
    return {fact["step"]: fact for fact in facts}


@pytest.fixture(scope="session")
def fact(day: dict[str, Fact]) -> Callable[[str], Fact]:
    """Looks a fact up; a step that could not go on, or was never reached, fails the test in its words."""

    def look_up(step: str) -> Fact:
        found = day.get(step, {"error": f"the guest never came to {step}; it ended after {list(day)[-1]}"})
        if "error" in found:
            pytest.fail("\n".join([found["error"], *found.get("journal", [])]), pytrace=False)
        return found

    return look_up


def install_packages() -> None:
    """The Debian packages that building and booting need, if one is missing."""
    packages = (HERE / "packages.txt").read_text().split()
    known = subprocess.run(["dpkg-query", "--show", *packages], capture_output=True, check=False)
    if known.returncode:
        command("apt-get", "update", "-qq")
        command("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)


def command(*words: str | Path) -> None:
    """Runs a command that must succeed; if not, its last lines are the failure."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-30:])
        pytest.fail(f"{words[0]} ended with {done.returncode}\n{last}", pytrace=False)
