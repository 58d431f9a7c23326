"""What the command line shows people: a gate's status, a download's progress.

- A line that begins with ``!`` is one that somebody should look at.
- Nothing in a line is a command to the terminal, or mark-up: names and texts are strangers' words.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gated.core.events import Event, Profile, State
from gated.core.passage import TABLE, Transition
from gated.core.plain import plain


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
    for what, detail in status["alarms"].items():
        lines.append(_line("alarm", f"{what}: {_detail(detail)}", bad=True))
    lines.append(_time(status))
    lines.append(_line("gated", f"{status['version']}, strategy {status['strategy']}"))
    return [plain(line) for line in lines]


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
                console.print(_synced(answer), markup=False, emoji=False)


def purged(answer: Mapping[str, Any]) -> str:
    """One of the daemon's answers to ``purge``."""
    if "purged" not in answer:
        return _synced(answer)
    lost = f"{_count(answer['lost'], 'scan')} lost to the server; " if answer["lost"] else ""
    return f"purged: {lost}this gate knows no ticket and no scan, and downloads the tickets anew"


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
    if parked := outbox["parked"]:
        told += f"; {parked} parked: gated outbox"
    return _line("outbox", told, bad=bool(parked) or status["api"] != "ok")


def _detail(detail: Mapping[str, Any]) -> str:
    """What an alarm says, in words."""
    return ", ".join(f"{key} {_words(value)}" for key, value in detail.items())


def _words(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return "unknown" if value is None else str(value)


def _time(status: Mapping[str, Any]) -> str:
    trust = status["time_trust"]
    return _line("time", f"{_utc(datetime.fromisoformat(status['time']))}, {trust}", bad=trust == "unknown")


def _synced(answer: Mapping[str, Any]) -> str:
    if "uploaded" in answer:
        return f"{_count(answer['uploaded'], 'scan')} uploaded"
    if "upload_failed" in answer:
        return f"the upload failed: {plain(answer['upload_failed'])}\n{plain(answer['hint'])}".rstrip()
    if "changed" in answer:
        return f"{_count(answer['changed'], 'changed ticket')} fetched"
    return f"{_count(answer['tickets'], 'ticket')} fetched"


def _line(what: str, told: str, *, bad: bool = False) -> str:
    return f"{'!' if bad else ' '} {what:7}  {told}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number or 'no'} {what}s"


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def outbox_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The outbox as lines of text."""
    if not rows:
        return ["The server has everything."]
    lines = [f"{_count(len(rows), 'scan')} in the outbox:"]
    for row in rows:
        why = f"parked: {row['parked']}" if row["parked"] else "answer lost" if row["lost"] else "waits"
        when = f"{datetime.fromtimestamp(row['time_ms'] / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        lines.append(f"{when} UTC  {row['lane']}  {row['barcode']}  {row['code']}  {why}")
    return [plain(line) for line in lines]


def lane_table() -> dict[str, dict[str, str]]:
    """What a lane does: for each state and event a sentence, read from the code of the table itself."""
    names = {event: re.sub(r"(?<!^)(?=[A-Z])", " ", event.__name__).lower() for event in get_args(Event)}
    return {state: {name: _sentence(TABLE[state, event]) for event, name in names.items()} for state in State}


def _sentence(transition: Transition) -> str:
    return (transition.__doc__ or transition.__name__).splitlines()[0].replace("``", "")


def lane_table_lines(width: int) -> list[str]:
    """The table as text, no line longer than ``width`` characters if that is 60 or more."""
    column = max(len(event) for row in lane_table().values() for event in row) + 4
    lines = []
    for state, row in lane_table().items():
        lines += [state.replace("_", " "), ""]
        for event, sentence in row.items():
            lines += textwrap.wrap(
                sentence, width, initial_indent=f"  {event:{column - 2}}", subsequent_indent=" " * column
            )
        lines.append("")
    return lines[:-1]


def drill_line(answer: Mapping[str, Any]) -> str:
    """One of the daemon's answers to ``drill``."""
    if "waiting_s" in answer:
        return f"Set off the fire panel's test now, within {answer['waiting_s']:.0f} s."
    took = "NEVER" if answer["took_ms"] is None else f"{answer['took_ms']} ms after the edge"
    if answer["profile"] == Profile.HOLD:
        told = f"released {took}"
    else:
        told = f"told by pulses: its own input opens it, look whether it did; shown {took}"
    return f"{'!' if answer['late'] else ' '} {answer['lane']}  {told}"


def finding_lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the doctor found, and what to do about it, one line each."""
    width = max(len(finding["what"]) for finding in found)
    return [
        plain(
            f"{finding['level']:5}  {finding['what']:{width}}  {finding['told']}"
            + (f" → {finding['advice']}" if finding["advice"] else "")
        )
        for finding in found
    ]
