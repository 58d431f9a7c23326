"""The login token: when it is good, when it is renewed, and when nothing more is tried. No HTTP of its own.

- One login at a time; whoever waited for it uses its token.
- A token is renewed early by its own life, counted on the monotonic clock from its receipt: the wall clock of
  a gate may be wrong. An early renewal that fails costs nothing, the old token serves on.
- A refused token is replaced once for each call that it failed, and only a few times in ten minutes: two
  devices with one scan user would otherwise log each other out for ever. A refused password is not tried
  again for five minutes.

The Ticket Scan API has no call that renews a token but the login, and a token's life is known only from its
``exp`` and ``iat`` (60 days in the document's example).
"""

import asyncio
import dataclasses
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gated.api.wire import Claims, token_claims
from gated.errors import ApiError, ApiLoginRefused, ApiUserShared

# Seconds. Wrong credentials stay wrong until somebody acts; a server may lock a user out for trying.
_PAUSE_AFTER_REFUSAL_S = 300.0
_PAUSE_AFTER_EARLY_FAILURE_S = 300.0
# So many tokens may be taken back in so many seconds before it looks like another device at work.
_REPLACEMENTS, _REPLACED_WITHIN_S = 3, 600.0
# Early is a tenth of its life before the end, or a day if that is more; but never before half of it, and
# never within ten seconds of its receipt, so that a short life makes no loop.
_EARLY_SHARE, _EARLY_S, _EARLY_AT_MOST_SHARE, _LEAST_USE_S = 0.1, 86_400.0, 0.5, 10.0


@dataclass(frozen=True, slots=True)
class Token:
    """A login token; ``renew_at`` and ``ends_at`` are monotonic seconds, infinite when it does not say."""

    text: str
    claims: Claims
    renew_at: float
    ends_at: float


def received(text: str, now: float) -> Token:
    """The token that was received at ``now`` (monotonic). Raises ApiBadAnswer if it names no scan user."""
    claims = token_claims(text)
    if claims.expires_in is None:
        return Token(text, claims, float("inf"), float("inf"))
    life = claims.expires_in.total_seconds()
    early = min(max(life * _EARLY_SHARE, _EARLY_S), life * _EARLY_AT_MOST_SHARE)
    return Token(text, claims, now + max(life - early, _LEAST_USE_S), now + max(life, _LEAST_USE_S))


class TokenKeeper:
    """Keeps one good token. ``log_in`` asks the API for a new one and raises an ApiError if there is none."""

    def __init__(self, log_in: Callable[[], Awaitable[str]], monotonic: Callable[[], float]) -> None:
        self._ask = log_in
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token: Token | None = None
        self._paused_until = float("-inf")
        self._replaced_at: deque[float] = deque(maxlen=_REPLACEMENTS)
        self.early_renewal_error: ApiError | None = None
        """Why the last early renewal failed; None once a login has succeeded."""

    async def current(self, *, in_a_hurry: bool = False) -> Token:
        """A token to use now. ``in_a_hurry`` leaves an early renewal to others. Raises ApiError."""
        token = self._token
        if token is not None and self._monotonic() < (token.ends_at if in_a_hurry else token.renew_at):
            return token
        async with self._lock:
            if self._token is not None and self._token is not token:
                return self._token  # somebody renewed it while this call waited
            if token is None or self._monotonic() >= token.ends_at:
                return await self._log_in()
            return await self._renew_early(token)

    async def replace(self, refused: Token) -> Token:
        """A token in place of ``refused``, which the API did not take. Raises ApiUserShared, ApiError."""
        async with self._lock:
            if self._token is not None and self._token.text != refused.text:
                return self._token
            now = self._monotonic()
            if len(self._replaced_at) == _REPLACEMENTS and now - self._replaced_at[0] < _REPLACED_WITHIN_S:
                raise ApiUserShared(
                    f"the API refused {_REPLACEMENTS} new tokens in {now - self._replaced_at[0]:.0f} s;"
                    f" no new login for {_REPLACED_WITHIN_S - (now - self._replaced_at[0]):.0f} s"
                )
            self._token = None
            token = await self._log_in()
            self._replaced_at.append(now)
            return token

    async def _renew_early(self, token: Token) -> Token:
        try:
            return await self._log_in()
        except ApiError as error:
            self.early_renewal_error = error
            again = self._monotonic() + _PAUSE_AFTER_EARLY_FAILURE_S
            self._token = dataclasses.replace(token, renew_at=min(again, token.ends_at))
            return self._token

    async def _log_in(self) -> Token:
        pause = self._paused_until - self._monotonic()
        if pause > 0:
            raise ApiLoginRefused(f"the API refused the last login; not tried again for {pause:.0f} s")
        try:
            text = await self._ask()
        except ApiLoginRefused:
            self._paused_until = self._monotonic() + _PAUSE_AFTER_REFUSAL_S
            raise
        self._token = received(text, self._monotonic())
        self.early_renewal_error = None
        return self._token
