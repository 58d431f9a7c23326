"""The floors: the least that a machine must do, each in a process of its own, as bare as Python allows.

``python -m tests.bench.floors`` with

- ``path TTY FD FOLDER``: what a scan can't do without. Reads what comes, appends 4 KiB to a file and waits
  until that is on disk, writes to /dev/null, tells on the pipe ``FD`` when it was done.
- ``imports NAME …``: imports these modules, says so, and waits.
- ``fetch URL SERVICE``: fetches all pages of tickets and decodes them; says how long that took.
- ``insert FOLDER DATABASE``: writes another database's rows into a new one of the same schema; says how long.
"""

import contextlib
import http.client
import importlib
import json
import os
import sqlite3
import sys
import time
import tty
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tests.bench.sender import STAMP

PAGE = 500  # rows of a page, as gated asks for them, and of a transaction


def path(device: str, report: str, folder: str) -> None:
    """Reads, appends durably, writes; for ever."""
    line = os.open(device, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    disk = os.open(Path(folder) / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    pin = os.open("/dev/null", os.O_WRONLY)
    block = os.urandom(4096)
    print("ready", flush=True)
    while os.read(line, 4096):
        os.write(disk, block)
        os.fdatasync(disk)
        os.write(pin, b"1")
        done = STAMP.pack(time.perf_counter_ns())
        os.write(int(report), done + done)  # moved, and at once ready again


def imports(*names: str) -> None:
    """Imports, and waits until its input is closed."""
    warnings.simplefilter("ignore")
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):  # some are made by the module that needs them
            importlib.import_module(name)
    print("ready", flush=True)
    sys.stdin.read()


def fetch(url: str, service: str) -> None:
    """Fetches and decodes, over one connection."""
    import msgspec

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    headers = {"X-DEVICE-INFO": "DEVICE_ID:BENCH", "Content-Type": "application/json"}

    def call(method: str, tail: str, body: str | None = None) -> bytes:
        connection.request(method, f"{parts.path}/{tail}", body, headers)
        return connection.getresponse().read()

    login = json.dumps({"credentials": {"username": "gate", "password": "secret"}})
    headers["Authorization"] = f"bearer {json.loads(call('POST', 'userlogin', login))['login']['token']}"
    headers["X-PAGINATION-LIMIT"] = str(PAGE)
    begun = time.perf_counter()
    page, rows = 1, 0
    while page:
        headers["X-PAGINATION-PAGE"] = str(page)
        answer = msgspec.json.decode(call("GET", f"services/{service}/barcodes"))
        rows += len(answer["barcodes"])
        page = answer["pagination"]["pages"]["next_page"]
    print(json.dumps({"seconds": time.perf_counter() - begun, "rows": rows}))


def insert(folder: str, database: str) -> None:
    """Writes with executemany, a transaction a page; reading the rows is not counted."""
    source = sqlite3.connect(database)
    target = sqlite3.connect(Path(folder) / "floor.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "secure_delete = ON"):
        target.execute(f"PRAGMA {pragma}")
    for (script,) in source.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"):
        target.execute(script)
    seconds, rows = 0.0, 0
    for _, name, kind, columns, without_rowid, _ in source.execute("PRAGMA main.table_list").fetchall():
        if kind != "table" or name.startswith("sqlite_"):
            continue
        # Rows came in the order of their numbers, or, where they have none, in no order of their keys.
        order = "random()" if without_rowid else "rowid"
        found = source.execute(f"SELECT * FROM {name} ORDER BY {order}")
        statement = f"INSERT INTO {name} VALUES ({', '.join('?' * columns)})"
        while some := found.fetchmany(PAGE):
            begun = time.perf_counter()
            target.execute("BEGIN IMMEDIATE")
            target.executemany(statement, some)
            target.execute("COMMIT")
            seconds += time.perf_counter() - begun
            rows += len(some)
    print(json.dumps({"seconds": seconds, "rows": rows}))


FLOORS: dict[str, Callable[..., None]] = {
    "path": path,
    "imports": imports,
    "fetch": fetch,
    "insert": insert,
}

if __name__ == "__main__":
    FLOORS[sys.argv[1]](*sys.argv[2:])
