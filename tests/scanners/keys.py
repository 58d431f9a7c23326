"""The keys that a scanner presses to type a text: the US map, backwards."""

from collections.abc import Iterator

from gated.core.barcode import KEY_ENTER, KEY_LEFTSHIFT, US_KEYS

Key = tuple[int, int]
"""A key code and its value: 1 pressed, 0 let go."""

TYPEABLE = "".join(chr(n) for n in range(0x20, 0x7F))


def tap(code: int) -> list[Key]:
    return [(code, 1), (code, 0)]


def held(modifier: int, *codes: int) -> list[Key]:
    """Each of ``codes`` tapped while ``modifier`` is held."""
    return [(modifier, 1), *(key for code in codes for key in tap(code)), (modifier, 0)]


def typed(text: str, end: int = KEY_ENTER) -> list[Key]:
    """``text``, then the key ``end``."""
    return [*(key for character in text for key in _keys(character)), *tap(end)]


def _keys(character: str) -> Iterator[Key]:
    for code, (plain, shifted) in US_KEYS.items():
        if character == plain:
            yield from tap(code)
            return
        if character == shifted:
            yield from held(KEY_LEFTSHIFT, code)
            return
    raise AssertionError(f"no key types {character!r}")
