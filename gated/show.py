"""What the command line shows people: a gate's status, a download's progress.

A line that begins with ``!`` is one that somebody should look at.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


def status_lines(status: Mapping[str, Any]) -> list[str]:
    """The daemon's answer to ``status`` as lines of text."""
    lines = [status["gate"], ""]
    if status["emergency"]:
        lines.append("! EMERGENCY  once its cause is over, end it with: gated emergency reset --why …")
    width = max(len(lane["name"]) for lane in status["lanes"])
    for lane in status["lanes"]:
        lines += _lane(lane, width)
    lines += [_service(status), _api(status), _outbox(status)]
    if undurable := status["store"]["undurable"]:
        lines.append(_line("disk", f"FAILING: {_count(undurable, 'scan')} in memory only", bad=True))
    lines.append(_time(status))
    lines.append(_line("gated", f"{status['version']}, strategy {status['strategy']}"))
    return lines


def follow_sync(answers: Iterable[Mapping[str, Any]], console: Console | None = None) -> None:
    """Shows how an upload and a download go; ``answers`` are the daemon's to ``sync``."""
    console = console or Console(highlight=False)
    columns = (TextColumn("fetching"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        download = progress.add_task("", total=None, visible=False)
        for answer in answers:
            if "page" in answer:
                page, pages = answer["page"], answer["pages"]
                told = f"page {page} of {pages or '?'}, {_count(answer['tickets'], 'ticket')}"
                progress.update(download, completed=page, total=pages, description=told, visible=True)
            else:
                console.print(_synced(answer))


def _lane(lane: Mapping[str, Any], width: int) -> Iterator[str]:
    state = lane["state"].replace("_", " ")
    if lane["mode"] not in (lane["state"], "controlled"):
        state += f", mode {lane['mode'].replace('_', ' ')}"
    if lane["released"]:
        state += ", barrier released"
    lost = {name: found["why"] for name, found in lane["scanners"].items() if found["state"] == "lost"}
    yield _line("lane", f"{lane['name']:{width}}  {lane['direction']:5}  {state}", bad=bool(lost))
    for name in lane["scanners"]:
        yield _line(
            "", f"scanner {name}: {f'lost, {lost[name]}' if name in lost else 'reading'}", bad=name in lost
        )


def _service(status: Mapping[str, Any]) -> str:
    store = status["store"]
    tickets = _count(store["tickets"], "ticket") if store["complete"] else "tickets not downloaded yet"
    return _line("service", f"{status['service'] or 'not known yet'}: {tickets}", bad=not store["complete"])


def _api(status: Mapping[str, Any]) -> str:
    good = status["api"] == "ok"
    return _line("API", "answers" if good else status["api"], bad=not good)


def _outbox(status: Mapping[str, Any]) -> str:
    outbox = status["store"]["outbox"]
    waiting = outbox["check_ins"] + outbox["others"]
    if not waiting:
        return _line("outbox", "empty: the server has every scan")
    oldest = datetime.fromtimestamp(outbox["oldest_ms"] / 1000, UTC)
    told = f"{_count(waiting, 'scan')} for the server, the oldest of {_utc(oldest)}"
    return _line("outbox", told, bad=status["api"] != "ok")


def _time(status: Mapping[str, Any]) -> str:
    trust = status["time_trust"]
    return _line("time", f"{_utc(datetime.fromisoformat(status['time']))}, {trust}", bad=trust == "unknown")


def _synced(answer: Mapping[str, Any]) -> str:
    if "uploaded" in answer:
        return f"{_count(answer['uploaded'], 'scan')} uploaded"
    if "upload_failed" in answer:
        return f"the upload failed: {answer['upload_failed']}\n{answer['hint']}".rstrip()
    if "changed" in answer:
        return f"{_count(answer['changed'], 'changed ticket')} fetched"
    return f"{_count(answer['tickets'], 'ticket')} fetched"


def _line(what: str, told: str, *, bad: bool = False) -> str:
    return f"{'!' if bad else ' '} {what:7}  {told}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number or 'no'} {what}s"


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
