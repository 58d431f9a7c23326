"""How long to wait before trying again: full jitter, so that a venue's gates don't come back all at once.

Any time up to a limit that doubles with each failure (Marc Brooker, "Exponential Backoff And Jitter", 2015).
"""

from datetime import timedelta

_FIRST, _MOST = 1.0, 60.0  # seconds


def pause(failures: int, chance: float, wish_s: float | None = None) -> timedelta:
    """The pause after so many failures in a row (from 1); ``chance`` is 0 to 1.

    ``wish_s`` is what the server asked for with Retry-After: never less than that.
    """
    limit = min(_MOST, _FIRST * 2 ** min(failures - 1, 10))
    return timedelta(seconds=max(limit * chance, wish_s or 0.0))
