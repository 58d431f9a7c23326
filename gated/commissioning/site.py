"""Where and with what a test is made, and where its report goes."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from gated import __version__
from gated.config import Config, LaneConfig
from gated.core.commissioning import LaneFacts, Site
from gated.core.events import Profile
from gated.errors import GatedError
from gated.pins import PinFactory
from gated.pins.chip import LetGo, find_chip, when_let_go

_LET_GO = {
    LetGo.INPUT: "goes off at once",
    LetGo.STAYS: "STAYS ON: add dtparam=strict_gpiod to config.txt",
    LetGo.UNKNOWN: "the kernel does not say: try it",
}


def site(config: Config, *, root: Path = Path("/")) -> Site:
    """What stands at the head of a report; ``root`` is where proc and sys are looked for."""
    now = datetime.now(ZoneInfo(config.gate.time_zone))
    model, revision = _text(root / "proc/device-tree/model"), _revision(root)
    is_real = config.pins.factory is PinFactory.LGPIO
    return Site(
        gate=config.gate.name,
        at=now,
        version=__version__,
        board=f"{model or 'no Raspberry Pi'}{f', revision {revision}' if revision else ''}",
        kernel=_text(root / "proc/sys/kernel/osrelease") or "unknown",
        let_go=_LET_GO[when_let_go(find_chip(root), root)] if is_real else "the pins are made up",
        pins=config.pins.factory,
        lanes=tuple(_facts(lane) for lane in config.lanes),
    )


def check_place(path: Path) -> None:
    """Raises GatedError if no report can be written to ``path``: before the work, not after it."""
    if not os.access(path if path.exists() else path.parent, os.W_OK) or path.is_dir():
        raise GatedError(f"{path} can't be written", hint="Name another place for it: --report FILE")


def report_path(site: Site) -> Path:
    """Where a site report is written unless told otherwise: in the working directory."""
    gate = "".join(letter if letter.isalnum() else "-" for letter in site.gate.lower()).strip("-")
    return Path(f"gated-site-report-{gate}-{site.at:%Y-%m-%d-%H%M}.md")


def _facts(lane: LaneConfig) -> LaneFacts:
    release = lane.release
    length = release.pulse if release.profile is Profile.PULSE else release.grant
    told = f"{release.profile}, {length / timedelta(milliseconds=1):.0f} ms"
    return LaneFacts(lane.name, lane.direction, told, release.when_off, release.emergency_wired)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _revision(root: Path) -> str:
    lines = _text(root / "proc/cpuinfo").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Revision")), "")
