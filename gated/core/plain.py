"""Text from outside, made so that a terminal shows it and does nothing else.

Barcodes, the server's names and texts, and keys of a file are strangers' words. What is not printable, as
:meth:`str.isprintable` has it, is shown as an escape: control characters move a cursor or type for whoever
reads, line ends forge lines, and format characters turn the direction of text or hide some of it.
"""


def plain(text: str) -> str:
    r"""``text`` on one line, with ``\x1b`` and the like in place of each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
