"""What the command line shows people: a gate's status, a download's progress."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """A status as lines of text."""
    store, outbox = status["store"], status["store"]["outbox"]
    tickets = f"{store['tickets']} tickets" if store["complete"] else "not downloaded yet"
    waiting = outbox["check_ins"] + outbox["others"]
    since = f", oldest from {_time(outbox['oldest_ms'])}" if waiting else ""
    lines = [
        f"gate      {status['gate']} (gated {status['version']}, strategy {status['strategy']})",
        f"service   {status['service'] or 'none chosen yet'}: {tickets}",
        f"api       {status['api']}",
        f"outbox    {waiting} scans wait for the server{since}",
        f"time      {status['time']} ({status['time_trust']})",
    ]
    if store["undurable"]:
        lines.append(f"disk      FAILING: {store['undurable']} scans are in memory only")
    if status["emergency"]:
        lines.append("EMERGENCY end it with: gated emergency reset --why …")
    for lane in status["lanes"]:
        lines.append(
            f"lane      {lane['name']} ({lane['direction']}): {lane['state']}, shows {lane['shown']}"
        )
        lines += [
            f"          scanner {name}: {scanner['state']} ({scanner['why']})"
            for name, scanner in lane["scanners"].items()
        ]
    return lines


def follow_sync(answers: Iterable[Mapping[str, Any]], console: Console | None = None) -> None:
    """Shows how an upload and a download go."""
    console = console or Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        pages = progress.add_task("pages", total=None, visible=False)
        for answer in answers:
            if "uploaded" in answer:
                console.print(f"{answer['uploaded']} scans uploaded")
            elif "page" in answer:
                progress.update(pages, completed=answer["page"], total=answer["pages"], visible=True)
            elif "changed" in answer:
                console.print(f"{answer['changed']} changed tickets fetched")
            else:
                console.print(f"{answer['tickets']} tickets fetched")


def _time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
