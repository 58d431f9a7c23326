"""The command line.

Exit status: 0 good, 1 no-go, 2 misuse or a configuration that can't be used (systemd does not restart that).
"""

import asyncio
import gc
import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from gated import __version__
from gated.checkout import enter_venv

if __name__ == "__main__":
    enter_venv("", ["-m", "gated", *sys.argv[1:]])  # a bare checkout gets the libraries that follow

import click

from gated.config import load, password
from gated.core.plain import plain
from gated.errors import ConfigError, GatedError
from gated.systemd import STATE_DIRECTORY, credentials_directory, runtime_directory

CONFIG = Path("/etc/gated/gated.toml")
NO_GO, MISUSE = 1, 2


def _remember(ctx: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """For the one place that tells of errors, which knows no command's options."""
    ctx.meta[f"gated.{parameter.name}"] = value
    return value


config_option = click.option(
    "--config",
    "config_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    callback=_remember,
    help="The configuration.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_remember, help="Answer in JSON, for programs."
)


class Commands(click.Group):
    """Turns an error of ours into its message, its hint and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GatedError as error:
            if ctx.meta.get("gated.as_json"):
                _tell_programs(error)
            else:
                _tell_people(error, ctx.meta.get("gated.config_path"))
            ctx.exit(MISUSE if isinstance(error, ConfigError) else NO_GO)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which one needs them."""
        return list(self.commands)


def _tell_programs(error: GatedError) -> None:
    if isinstance(error, ConfigError):
        click.echo(json.dumps({"good": False, "mistakes": error.mistakes, "hint": error.hint}))
    else:
        click.echo(json.dumps({"error": str(error), "hint": error.hint}))


def _tell_people(error: GatedError, config_path: Path | None) -> None:
    lines = [plain(line) for line in str(error).split("\n")]
    if isinstance(error, ConfigError) and str(config_path) not in str(error):
        lines.insert(0, f"{config_path} can't be used:")
    click.echo("\n  ".join([f"gated: {lines[0]}", *lines[1:]]), err=True)
    if error.hint:
        click.echo(plain(error.hint), err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gated")
def main() -> None:
    """Gate controller: reads tickets, decides, drives the turnstile, and keeps
    every scan.

    Without any hardware, begin with: gated demo

    Exit status: 0 good, 1 no-go, 2 misuse or a configuration that can't be used.
    """


@main.command()
@config_option
def run(config_path: Path) -> None:
    """Run the gate, in the foreground, as systemd does at boot."""
    # Until it is ready: what is made until then stays, and a fifth of the start went into looking it through.
    gc.disable()
    from gated import log
    from gated.app import App
    from gated.names import Loop

    config = load(config_path)
    secret = password(config, credentials_directory())
    log.set_up()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(App(config, secret).run())


@main.command()
@click.option(
    "--tickets",
    metavar="NUMBER",
    default=0,
    show_default=True,
    help="So many plain tickets besides the others.",
)
@click.option(
    "--scan",
    "scans",
    metavar="BARCODE",
    multiple=True,
    help="Scan this ticket and end; may be given several times.",
)
def demo(tickets: int, scans: tuple[str, ...]) -> None:
    """Play with a whole virtual gate on this machine.

    Server, scanners, barriers and lamps are made up, the gate is real. Needs no Pi and no root.
    """
    from gated.demo import play

    sys.exit(play(tickets, scans))


@main.command("check-config")
@config_option
@json_option
def check_config(config_path: Path, *, as_json: bool) -> None:
    """Say whether the configuration can be used.

    Every mistake is told at once, with its line. The password is looked for as well.
    """
    config = load(config_path)
    password(config, credentials_directory() or config_path.parent)
    if as_json:
        click.echo(json.dumps({"good": True, "mistakes": []}))
    else:
        lanes = ", ".join(f"{lane.name} ({lane.direction})" for lane in config.lanes)
        click.echo(f"{config_path} is good\n  gate   {plain(config.gate.name)}\n  lanes  {lanes}")


@main.command()
@config_option
@json_option
def doctor(config_path: Path, *, as_json: bool) -> None:
    """Say whether the doors may open: go or no-go.

    One line for each thing that matters: ok, look (it works, but), or no-go.
    """
    from gated import doctor
    from gated.show import finding_lines

    try:
        config = load(config_path)
    except ConfigError as error:
        found = doctor.broken_config(error)
    else:
        found = doctor.examine(config, doctor.gather(config, credentials_directory() or config_path.parent))
    go = all(finding.level is not doctor.Level.NO_GO for finding in found)
    findings = [asdict(finding) for finding in found]
    if as_json:
        click.echo(json.dumps({"go": go, "findings": findings}))
    else:
        click.echo("\n".join([*finding_lines(findings), "go" if go else "NO-GO"]))
    sys.exit(0 if go else NO_GO)


@main.command("lane-table")
@json_option
def lane_table(*, as_json: bool) -> None:
    """Show what a lane does: in each state, on each event.

    It is read from the very table that lanes run on.
    """
    from gated.show import lane_table, lane_table_lines

    width = max(60, min(shutil.get_terminal_size().columns, 110))
    click.echo(json.dumps(lane_table()) if as_json else "\n".join(lane_table_lines(width)))


@main.command()
@config_option
@json_option
def status(config_path: Path, *, as_json: bool) -> None:
    """Show how the running gate is.

    Look at the lines that begin with an exclamation mark.
    """
    from gated.show import status_lines

    answer = _answer(config_path, "status")
    click.echo(json.dumps(answer) if as_json else "\n".join(status_lines(answer)))


@main.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="Fetch all tickets, not only those that have changed.")
@click.option("--accept-removals", is_flag=True, help="With --full: believe that many tickets are gone.")
def sync(config_path: Path, *, as_json: bool, full: bool, accept_removals: bool) -> None:
    """Upload the outbox and fetch what has changed, now."""
    if accept_removals and not full:
        raise click.UsageError("--accept-removals needs --full")
    answers = _ask(config_path, "sync", full=full, accept_removals=accept_removals)
    if as_json:
        for answer in answers:
            click.echo(json.dumps(answer))
        return
    from gated.show import follow_sync

    follow_sync(answers)


@main.command()
@click.argument("lane")
@click.option("--why", required=True, help="The reason, for the journal.")
@click.option("--ticket", default="", metavar="BARCODE", help="Check this ticket in (or out) as well.")
@config_option
@json_option
def release(lane: str, why: str, ticket: str, config_path: Path, *, as_json: bool) -> None:
    """Release LANE's barrier for one guest.

    LANE is its name in the configuration, in quotes if there is a blank in it.
    """
    answer = _answer(config_path, "release", lane=lane, why=why, ticket=ticket)
    click.echo(json.dumps(answer) if as_json else f"{lane}: released")


@main.command()
@click.argument("lane")
@click.argument("mode", metavar="MODE", type=click.Choice(["controlled", "free", "locked", "out_of_service"]))
@config_option
@json_option
def mode(lane: str, mode: str, config_path: Path, *, as_json: bool) -> None:
    """Give LANE a mode, which it keeps over restarts.

    \b
    controlled      who has a valid ticket passes
    free            everybody passes; tickets are scanned all the same
    locked          nobody passes, but in an emergency
    out_of_service  tickets are not taken; staff may release
    """
    answer = _answer(config_path, "mode", lane=lane, mode=mode)
    click.echo(json.dumps(answer) if as_json else f"{lane}: {mode}")


@main.command()
@click.argument("barcode")
@config_option
@json_option
def explain(barcode: str, config_path: Path, *, as_json: bool) -> None:
    """Say why BARCODE gets the verdict that it gets.

    First what would be decided now, then what is known of the ticket, every
    rule, and its scans at this gate. Instead of a barcode it may be a scan's
    id, as the log tells it.
    """
    answer = _answer(config_path, "explain", barcode=barcode)
    click.echo(json.dumps(answer["explanation"]) if as_json else "\n".join(map(plain, answer["lines"])))


@main.group()
def emergency() -> None:
    """End an emergency."""


@emergency.command()
@click.option("--why", required=True, help="The reason, for the journal.")
@config_option
@json_option
def reset(why: str, config_path: Path, *, as_json: bool) -> None:
    """End an emergency whose input has been normal for 2 s."""
    answer = _answer(config_path, "emergency-reset", why=why)
    click.echo(json.dumps(answer) if as_json else "The emergency is over.")


@main.command()
@click.option("--why", default="", help="The reason, for the journal.")
@click.option("--lose-outbox", is_flag=True, help="Even if scans wait for the server: it never gets them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@config_option
@json_option
def purge(why: str, config_path: Path, *, lose_outbox: bool, yes: bool, as_json: bool) -> None:
    """Forget all tickets and scans, after the event.

    Uploads first. The gate goes on with a fresh secret, as one that has just
    been installed; it keeps its lanes' modes and a latched emergency.
    """
    if not yes:
        _confirm_purge(config_path)
    from gated.show import purged

    for answer in _ask(config_path, "purge", why=why, lose_outbox=lose_outbox):
        click.echo(json.dumps(answer) if as_json else purged(answer))


def _confirm_purge(config_path: Path) -> None:
    """Goes on only if somebody at a terminal types the gate's name."""
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at: --yes says that it is meant")
    gate = _answer(config_path, "status")["gate"]
    typed = click.prompt(f"All tickets and scans of {gate!r} go. Type the gate's name", err=True)
    if typed != gate:
        raise GatedError(f"that is not {gate!r}: nothing was purged")


@main.group()
def hardware() -> None:
    """Test what is wired to this gate."""


@hardware.command("test")
@click.option("--report", metavar="FILE", type=click.Path(path_type=Path), help="Where the site report goes.")
@click.option("--yes", is_flag=True, help="Ask nothing, wait for nothing: only drive and read each part.")
@config_option
@json_option
def hardware_test(config_path: Path, *, report: Path | None, yes: bool, as_json: bool) -> None:
    """Try every lamp, barrier, contact and scanner in turn.

    Needs gated to be stopped. Nothing stays on while you are asked. Writes a
    site report, in Markdown, for you to complete and sign.

    Keep people away from the barriers.
    """
    from gated import commissioning
    from gated.core.commissioning import report as site_report

    config = load(config_path)
    site = commissioning.site(config)
    path = report or commissioning.report_path(site)
    commissioning.check_place(path)

    async def test() -> commissioning.Outcome:
        talk = commissioning.Talk(partial(click.echo, err=as_json), alone=yes)
        if not yes:
            talk.read_stdin()
        return await commissioning.commission(config, talk)

    outcome = asyncio.run(test())
    path.write_text(site_report(site, outcome.results), encoding="utf-8")
    click.echo(f"The report is in {path}", err=as_json)
    if as_json:
        click.echo(json.dumps({"good": outcome.good, "report": str(path), "parts": outcome.as_data()}))
    sys.exit(0 if outcome.good else NO_GO)


@hardware.command("drill")
@click.option("--within", default=120, show_default=True, metavar="SECONDS", help="How long to wait for it.")
@config_option
@json_option
def hardware_drill(config_path: Path, *, within: int, as_json: bool) -> None:
    """Measure how fast the running gate answers the fire alarm.

    Start it, then set off the panel's test: the emergency is a real one, and
    the lanes are released. The times go to the journal. Afterwards end it:
    gated emergency reset --why drill
    """
    from gated.show import drill_line

    answers = []
    for answer in _ask(config_path, "drill", within_s=within):
        click.echo(json.dumps(answer) if as_json else drill_line(answer))
        answers.append(answer)
    if not as_json:
        click.echo("The emergency is on. When its cause is over: gated emergency reset --why drill")
    sys.exit(NO_GO if any(answer.get("late") for answer in answers) else 0)


def _answer(config_path: Path, command: str, **arguments: object) -> dict[str, Any]:
    """The one answer that such a command has."""
    [answer] = _ask(config_path, command, **arguments)
    return answer


@main.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def outbox(ctx: click.Context, config_path: Path, *, as_json: bool) -> None:
    """What the server has not acknowledged yet.

    Without a command: list.
    """
    options = {"config_path": config_path, "as_json": as_json}
    ctx.default_map = dict.fromkeys(("list", "retry", "export"), options)  # for those before the command
    if ctx.invoked_subcommand is None:
        ctx.invoke(outbox_list, **options)


@outbox.command("list")
@config_option
@json_option
def outbox_list(config_path: Path, *, as_json: bool) -> None:
    """Show what waits, and why.

    Barcodes are masked.
    """
    from gated.show import outbox_lines

    answers = list(_ask(config_path, "outbox"))
    click.echo(json.dumps(answers) if as_json else "\n".join(outbox_lines(answers)))


@outbox.command("retry")
@config_option
@json_option
def outbox_retry(config_path: Path, *, as_json: bool) -> None:
    """Send what is parked once more.

    What the server may have already is marked in the journal.
    """
    answer = _answer(config_path, "outbox-retry")
    click.echo(json.dumps(answer) if as_json else f"parked scans that go again: {answer['retried']}")


@outbox.command("export")
@click.argument("file", type=click.File("w", encoding="utf-8"))
@config_option
@json_option
def outbox_export(file: TextIO, config_path: Path, *, as_json: bool) -> None:
    """Write the whole outbox to FILE.

    One JSON object a line; - is the terminal. The barcodes are in the clear:
    whoever has the file has those tickets.
    """
    count = 0
    for answer in _ask(config_path, "outbox", clear=True):
        file.write(json.dumps(answer) + "\n")
        count += 1
    click.echo(json.dumps({"exported": count}) if as_json else f"scans exported: {count}", err=True)


def _ask(config_path: Path, command: str, **arguments: object) -> Iterator[dict[str, Any]]:
    """Puts a command to the gate that runs with this configuration."""
    from gated.control import SOCKET, ask

    return ask(runtime_directory(_state_dir(config_path)) / SOCKET, command, **arguments)


def _state_dir(config_path: Path) -> Path:
    """Where the gate that runs keeps its state.

    It runs with what was once a good file: a mistake made since then must not keep anybody from commanding
    it, least of all in an emergency. So a file with mistakes is asked for this one key.
    """
    try:
        return load(config_path).gate.state_dir
    except ConfigError:
        try:
            gate = tomllib.loads(config_path.read_text("utf-8-sig")).get("gate", {})
            return Path(gate.get("state_dir", STATE_DIRECTORY))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            pass
        raise


if __name__ == "__main__":
    main()
