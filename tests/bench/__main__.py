"""``python3 -m tests.bench``: measures, and prints the table."""

import argparse
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from gated.checkout import enter_venv

if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed gated has its bytecode
    enter_venv("test", ["-m", "tests.bench", *sys.argv[1:]])

from tests.bench.figures import Row, table
from tests.bench.rows import APART, FULL, QUICK, ROWS, Bench, machine


def main() -> int:
    """Returns an exit status: 1 if a target is not met."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers: to see that it works")
    parser.add_argument(
        "--only", action="append", choices=[*ROWS, *APART], help="this row alone; may be repeated"
    )
    parser.add_argument("--folder", type=Path, help="a folder on the disk to be measured (the system's own)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gated-bench-", dir=options.folder) as folder:
        rows = measure(Path(folder), options.only or list(ROWS), quick=options.quick)
    python = platform.python_version()
    print(f"\n{machine()}, Python {python}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", end="")
    print(", quick: small numbers, few samples" if options.quick else "")
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


def measure(folder: Path, names: list[str], *, quick: bool) -> list[Row]:
    """The rows of these names, measured one after the other."""
    bench = Bench(QUICK if quick else FULL, folder)
    rows = []
    for name in names:
        begun = time.monotonic()
        rows += (ROWS | APART)[name](bench)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
