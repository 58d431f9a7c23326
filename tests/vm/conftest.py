"""Builds the virtual Pi, packs gated into it, lets it live through one day, and hands the facts to the tests.

The machine is built once (about three minutes) and kept outside the checkout, under the hash of what builds
it. A day is one boot: guest/scenario.py runs its steps there and prints one JSON object for each. The tests
of one boot stand in one file, so that of several workers one alone boots it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]
# Now and then the emulated kernel panics, in code that it has just patched: as it starts or, seen once in a
# hundred boots, later (QEMU 7.2). Nothing that gated does can bring that about, so the machine boots again.
BOOTS = 3
PANIC = "Kernel panic - not syncing"
DAY_LIMIT_S = 3600  # on a busy host; about 500 on an idle one

# mke2fs and its like are there, which a root who came by su does not have on the path.
os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin:/sbin"

Fact = dict[str, Any]


@pytest.fixture(scope="session")
def virtual_pi() -> Path:
    """The directory of a built machine."""
    return built()


def built() -> Path:
    """Builds the machine, if it is not there yet; its directory."""
    if os.geteuid() != 0:
        pytest.fail("the virtual Pi is built and booted as root", pytrace=False)
    install_packages()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gated-vm"
    machine = cache / hashlib.sha256((HERE / "build.sh").read_bytes()).hexdigest()[:16]
    if not (machine / "disk.img").exists():  # what build.sh makes last
        shutil.rmtree(machine, ignore_errors=True)
        command(HERE / "build.sh", machine)
    return machine


def live(machine: Path, place: Path, script: str, limit_s: int, **files: str) -> dict[str, Fact]:
    """Boots the machine with gated in its luggage, lets guest/``script`` run; every step's fact, by its name.

    ``files`` are for the script, by name. What the guest says is in ``place``/boot/run.out as it says it.
    """
    luggage, work = place / "run", place / "boot"
    shutil.copytree(HERE / "guest", luggage, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("systemd", "config"):
        shutil.copytree(CHECKOUT / part, luggage / part)
    for name, text in {"script": script, **files}.items():
        (luggage / name).write_text(text)
    command(
        "/usr/bin/python3", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", luggage, CHECKOUT
    )
    for boot in range(1, BOOTS + 1):
        done = subprocess.run(
            [HERE / "run.sh", machine, luggage, work, str(limit_s)],
            capture_output=True,
            text=True,
            check=False,
        )
        facts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]
        panicked = PANIC in (work / "console.log").read_text(errors="replace")
        if panicked:
            print(f"boot {boot} of {place}: the emulated kernel panicked", file=sys.stderr)
        if facts and not (panicked and boot < BOOTS):
            return {fact["step"]: fact for fact in facts}
    pytest.fail(
        f"the guest said nothing; its console is in {work}\n{done.stdout}{done.stderr}", pytrace=False
    )


def found(facts: dict[str, Fact], step: str) -> Fact:
    """A fact; a step that could not go on, or was never reached, fails the test in its words."""
    fact = facts.get(step, {"error": f"the guest never came to {step}; it ended after {list(facts)[-1]}"})
    if "error" in fact:
        pytest.fail("\n".join([fact["error"], *fact.get("journal", [])]), pytrace=False)
    return fact


@pytest.fixture(scope="session")
def day(virtual_pi: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fact]:
    """Every step's fact, by the step's name."""
    return live(virtual_pi, tmp_path_factory.mktemp("day"), "scenario.py", DAY_LIMIT_S)


@pytest.fixture(scope="session")
def fact(day: dict[str, Fact]) -> Callable[[str], Fact]:
    """Looks a fact up, see :func:`found`."""
    return partial(found, day)


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
