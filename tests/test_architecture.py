"""The walls of the house: who may import whom, read from the source and tried in a fresh interpreter."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "gated").rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, anywhere in it: modules of ours in full, others as they are written."""
    return frozenset(_imports(tree(module)))


def _imports(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from names & MODULES.keys() or {node.module}


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


CORE = [module for module in MODULES if within(module, "gated.core")]

# ---- the core is pure

# Nothing here reads a file, a socket, a clock or chance, but for the calls that are forbidden below.
PURE = {"collections.abc", "dataclasses", "datetime", "enum", "re", "typing", "uuid"}
IMPURE_CALLS = {"now", "utcnow", "today", "open", "print", "input", "uuid1", "uuid4"}


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_core_and_a_few_pure_modules_and_nothing_else(module: str) -> None:
    assert {each for each in imports(module) if not within(each, "gated.core")} <= PURE


@pytest.mark.parametrize("module", CORE)
def test_the_core_asks_no_clock_and_touches_no_file(module: str) -> None:
    called = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    names = {
        each.attr if isinstance(each, ast.Attribute) else each.id
        for each in called
        if isinstance(each, ast.Attribute | ast.Name)
    }
    assert not names & IMPURE_CALLS


# ---- each library is imported in one place

LIBRARIES = {
    "anyio": {"gated.api.link"},
    "apscheduler": {"gated.jobs"},
    "click": {"gated.__main__"},
    "cryptography": {"gated.store.privacy"},
    "evdev": {"gated.scanners.hid"},
    "gpiozero": {"gated.pins"},
    "httpx": {"gated.api"},
    "lgpio": {"gated.pins"},
    "msgspec": {"gated.api", "gated.control", "gated.log"},
    "rich": {"gated.demo", "gated.show"},
    "serial": {"gated.scanners.serial"},
    "sqlite3": {"gated.store"},
    "structlog": {"gated.log"},
}
IN_EVERY_PYTHON = sys.stdlib_module_names - {"sqlite3"}


def users(library: str) -> set[str]:
    return {module for module in MODULES if any(within(name, library) for name in imports(module))}


def test_no_library_is_used_that_has_no_place() -> None:
    used = {name.split(".")[0] for module in MODULES for name in imports(module)}
    assert used - IN_EVERY_PYTHON - {"gated"} == LIBRARIES.keys()


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_is_imported_in_its_place_and_in_no_other(library: str) -> None:
    places = LIBRARIES[library]
    assert all(within(module, *places) for module in users(library))
    assert all(any(within(module, place) for module in users(library)) for place in places)


# ---- who knows whom; only the composition root knows all

KNOWN_TO = {
    "gated.api.simulator": {"gated.demo"},
    "gated.app": {"gated.__main__"},
    "gated.asking": {"gated.app", "gated.lane", "gated.sync"},
    "gated.build": {"gated.app", "gated.commissioning"},
    "gated.commissioning": {"gated.__main__"},
    "gated.commands": {"gated.app"},
    "gated.config": {
        "gated.__main__",
        "gated.app",
        "gated.build",
        "gated.commands",
        "gated.commissioning",
        "gated.doctor",
    },
    "gated.contacts": {
        "gated.app",
        "gated.build",
        "gated.commands",
        "gated.commissioning",
        "gated.lane",
        "gated.latch",
    },
    "gated.demo": {"gated.__main__"},
    "gated.doctor": {"gated.__main__"},
    "gated.drill": {"gated.commands"},
    "gated.interlock": {"gated.app", "gated.build", "gated.lane"},
    "gated.jobs": {"gated.app", "gated.commands"},
    "gated.lane": {"gated.app", "gated.build", "gated.commands"},
    "gated.latch": {"gated.app"},
    "gated.pins.devices": {"gated.pins"},
    "gated.pins.quiet": {"gated.pins.devices"},
    "gated.scanners.hid": {"gated.build"},
    "gated.scanners.serial": {"gated.build"},
    "gated.sync": {"gated.app", "gated.commands"},
}


@pytest.mark.parametrize("part", KNOWN_TO)
def test_a_part_is_known_only_to_those_that_put_it_together(part: str) -> None:
    knowing = {module for module in users(part) if not within(module, part)}
    assert {module for module in knowing if not within(module, *KNOWN_TO[part])} == set()


@pytest.mark.parametrize("room", ["gated.store", "gated.api"])
def test_what_is_behind_the_front_of_a_room_stays_in_it(room: str) -> None:
    front = {"gated.store": {"gated.store"}, "gated.api": {"gated.api.client", "gated.api.wire"}}[room]
    outside = {module for module in MODULES if not within(module, room) and module != "gated.demo"}
    entered = {name for module in outside for name in imports(module) if within(name, room)}
    assert entered <= front


# ---- what is loaded

BLOCKER = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("evdev", "lgpio"):
            raise ImportError(f"{name} is not for import time")

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*[name for name in sys.modules if name.startswith("gated")])
"""
# The one module that can't be without lgpio; imported when pins of a Pi are opened.
NEEDS_LGPIO = "gated.pins.quiet"


def loaded_by(*modules: str) -> set[str]:
    """What of gated is loaded by importing some modules where neither evdev nor lgpio can be."""
    command = [sys.executable, "-c", BLOCKER, *modules]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_module_needs_evdev_or_lgpio_to_be_imported() -> None:
    everything = MODULES.keys() - {NEEDS_LGPIO}
    assert loaded_by(*everything) == everything


def test_a_running_gate_never_loads_the_simulator() -> None:
    assert not any(within(module, "gated.api.simulator", "gated.demo") for module in loaded_by("gated.app"))
