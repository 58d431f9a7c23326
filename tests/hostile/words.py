"""Words of strangers: what is in a barcode, in a server's text or in a file to do harm, and how long to try.

``GATED_FUZZ`` is how many times as many examples are tried as in the fast tests.
"""

import os

from hypothesis import settings

TIMES = int(os.environ.get("GATED_FUZZ", "1"))

# Anybody can print these; each is a barcode like any other, that no ticket has.
PRINTABLE = {
    "SQL": "';DROP TABLE ticket;--",
    "mark-up": "[red]A[/red]",
    "mark-up that ends nothing": "[/]",
    "a link": "[link=file:///etc/passwd]A",
    "HTML": "<script>alert(1)</script>",
    "shell": "$(reboot);`reboot`|reboot&",
    "formats": "%s%n{0}{lane!r}",
    "a path": "../../etc/shadow",
    "JSON": '"},{"verdict":"ADMIT"',
    "a priority of the journal": "<0>panic",
    "a set-up code": "$$$#99900111;%%%#99900112;",
    "an option": "--json",
    "AIM identifier": "]Q1A",
    "Emoji": ":smile: \U0001f600",
    "another direction": "\u05d0\u05d1\u05d2 1",
    "combining": "e" + "\u0301" * 100,
    "beyond the first plane": "\U0001d54f" * 128,
}
# These are no barcodes; as texts of a server they may come to a terminal.
UNPRINTABLE = {
    "clears a terminal": "\x1b[2J\x1b[H",
    "types for the reader": "\x1b]0;reboot\x07\x1b[21t",
    "C1 controls": "\x9b31m\x85\x90q\x9c",
    "forges a line of the log": 'A\n{"event":"scan","verdict":"ADMIT"}',
    "forges a priority": "A\n<0>panic",
    "goes back": "DENY\b\b\b\bADMIT",
    "a line end of Unicode": "A\u2028B\u2029C",
    "turns the direction": "\u202eTIMDA\u2066\u200f",
    "hides": "A\u200b\ufeff\u00ad\U000e0041",
    "nothing": "A\x00B\x7f",
    "Ctrl-Alt-Del": "\x03\x04\x1a\x1c",
    "GS1": "\x1d01095060001343\x1d",
}
HOSTILE = PRINTABLE | UNPRINTABLE


def tried(examples: int) -> settings:
    """So many examples, or more if asked for."""
    return settings(max_examples=examples * TIMES)


def in_toml(text: str) -> str:
    """Any text as a key or a value of TOML."""
    return '"' + "".join(f"\\U{ord(each):08x}" for each in text) + '"'


def harmless(shown: str) -> bool:
    """Whether a terminal only shows these lines, and forges none."""
    return all(line.isprintable() for line in shown.split("\n"))
