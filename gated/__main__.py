"""The command line.

Exit status: 0 good, 1 no-go, 2 misuse or a configuration that can't be used (systemd does not restart that).
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gated import __version__
from gated.checkout import enter_venv

if __name__ == "__main__":
    enter_venv("", ["-m", "gated", *sys.argv[1:]])  # a bare checkout gets the libraries that follow

import click

from gated.config import load, password
from gated.errors import ConfigError, GatedError
from gated.systemd import credentials_directory, runtime_directory

CONFIG = Path("/etc/gated/gated.toml")
NO_GO, MISUSE = 1, 2

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=CONFIG,
    show_default=True,
    help="The configuration file.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")


class Commands(click.Group):
    """Turns an error of ours into its message, its hint and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            for mistake in error.mistakes:
                click.echo(mistake, err=True)
            _hint(error)
            ctx.exit(MISUSE)
        except GatedError as error:
            click.echo(f"gated: {error}", err=True)
            _hint(error)
            ctx.exit(NO_GO)


def _hint(error: GatedError) -> None:
    if error.hint:
        click.echo(f"  {error.hint}", err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gated")
def main() -> None:
    """Gate controller: reads tickets, decides, drives the turnstile, and keeps every scan."""


@main.command()
@config_option
def run(config_path: Path) -> None:
    """Run the gate, in the foreground; systemd does this at boot."""
    from gated import log
    from gated.app import App

    config = load(config_path)
    secret = password(config, credentials_directory())
    log.set_up()
    asyncio.run(App(config, secret).run())


@main.command()
@click.option("--tickets", default=0, show_default=True, help="Plain tickets besides the made-up ones.")
@click.option("--scan", "scans", multiple=True, help="Scan this ticket and end; may be given several times.")
def demo(tickets: int, scans: tuple[str, ...]) -> None:
    """A whole virtual gate on this machine: server, scanner, barrier and lamps. Needs no Pi and no root."""
    from gated.demo import play

    sys.exit(play(tickets, scans))


@main.command("check-config")
@config_option
@json_option
def check_config(config_path: Path, *, as_json: bool) -> None:
    """Say whether the configuration can be used; every mistake at once."""
    try:
        config = load(config_path)
        password(config, credentials_directory() or config_path.parent)
    except ConfigError as error:
        if not as_json:
            raise
        click.echo(json.dumps({"good": False, "mistakes": error.mistakes, "hint": error.hint}))
        sys.exit(MISUSE)
    if as_json:
        click.echo(json.dumps({"good": True, "mistakes": []}))
    else:
        lanes = ", ".join(f"{lane.name} ({lane.direction})" for lane in config.lanes)
        click.echo(f"{config_path}: good. Gate {config.gate.name}, lanes: {lanes}")


@main.command()
@config_option
@json_option
def status(config_path: Path, *, as_json: bool) -> None:
    """Show how the running gate is."""
    from gated.show import status_lines

    answer = next(_ask(config_path, "status"))
    click.echo(json.dumps(answer) if as_json else "\n".join(status_lines(answer)))


@main.command()
@config_option
@json_option
@click.option("--full", is_flag=True, help="Fetch all tickets, not only the changed ones.")
@click.option("--accept-removals", is_flag=True, help="Believe the server that many tickets are gone.")
def sync(config_path: Path, *, as_json: bool, full: bool, accept_removals: bool) -> None:
    """Upload what waits and fetch what has changed, now."""
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
    """Release LANE's barrier for one guest."""
    answer = next(_ask(config_path, "release", lane=lane, why=why, ticket=ticket))
    click.echo(json.dumps(answer) if as_json else f"{lane}: released")


@main.command()
@click.argument("lane")
@click.argument("mode", type=click.Choice(["controlled", "free", "locked", "out_of_service"]))
@config_option
@json_option
def mode(lane: str, mode: str, config_path: Path, *, as_json: bool) -> None:
    """Give LANE a mode; it keeps it over restarts."""
    answer = next(_ask(config_path, "mode", lane=lane, mode=mode))
    click.echo(json.dumps(answer) if as_json else f"{lane}: {mode}")


@main.group()
def emergency() -> None:
    """The emergency."""


@emergency.command()
@click.option("--why", required=True, help="The reason, for the journal.")
@config_option
@json_option
def reset(why: str, config_path: Path, *, as_json: bool) -> None:
    """End an emergency whose input is normal again."""
    answer = next(_ask(config_path, "emergency-reset", why=why))
    click.echo(json.dumps(answer) if as_json else "The emergency is over.")


def _ask(config_path: Path, command: str, **arguments: object) -> Iterator[dict[str, Any]]:
    """Puts a command to the gate that runs with this configuration."""
    from gated.control import SOCKET, ask

    return ask(runtime_directory(load(config_path).gate.state_dir) / SOCKET, command, **arguments)


if __name__ == "__main__":
    main()
