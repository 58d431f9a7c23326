"""Login tokens: signed JWTs as in the document's example, good while this server remembers them.

The server believes only the tokens it has issued itself, so that a restart or a revocation shows at once.
"""

import base64
import hashlib
import hmac
import secrets
import threading

import msgspec


class Tokens:
    """The tokens issued and not revoked. Safe to use from any thread."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(64)
        self._lock = threading.Lock()
        self._expiries: dict[str, float] = {}

    def issue(self, user_uuid: str, *, active: bool, now: float, life_s: float, other_uuid: str = "") -> str:
        """A new token for a scan user; ``now`` is epoch seconds. ``other_uuid``, if any, is its second id."""
        expires = int(now + life_s)
        payload = {
            "iss": "https://simulator.invalid",
            "sub": user_uuid,
            "iat": int(now),
            "exp": expires,
            "jti": secrets.token_hex(8),  # not in the document; two logins in one second must differ
            "user": {"uuid": other_uuid or user_uuid, "active": active},
        }
        signed = f"{_segment({'typ': 'JWT', 'alg': 'HS512'})}.{_segment(payload)}"
        signature = hmac.digest(self._key, signed.encode(), hashlib.sha512)
        token = f"{signed}.{_base64url(signature)}"
        with self._lock:
            self._expiries[token] = expires
        return token

    def objection(self, token: str, now: float) -> str | None:
        """Why a token is not good, or None if it is."""
        with self._lock:
            expires = self._expiries.get(token)
        if expires is None:
            return "The token is not valid."
        return "The token has expired." if now >= expires else None

    def revoke_all(self) -> None:
        """Makes every token issued so far invalid."""
        with self._lock:
            self._expiries.clear()


def _segment(part: dict[str, object]) -> str:
    return _base64url(msgspec.json.encode(part))


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
