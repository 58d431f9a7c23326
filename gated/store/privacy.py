"""What a stolen SD card must not give away: barcodes become keyed digests, barcode_ids are sealed.

The digest is BLAKE2b with this gate's secret as its key (RFC 7693). A sealed barcode_id opens only with the
external id that stands for it, which is not on the card: ChaCha20-Poly1305 (RFC 8439) under a key derived
from both. The secret itself is on the card, so a thief can test guesses; guessing is as hard as the barcodes.
"""

import os
from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

SECRET_BYTES = 32
_DIGEST_BYTES = 16
_NONCE_BYTES = 12  # RFC 8439


class Secrets:
    """Digests and seals under one gate's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    @property
    def secret(self) -> bytes:
        """The secret itself, for the store's own files."""
        return self._secret

    def digest(self, barcode: str) -> bytes:
        """16 bytes that stand for a barcode, external or not."""
        return blake2b(barcode.encode(), key=self._secret, digest_size=_DIGEST_BYTES).digest()

    def seal(self, barcode_id: str, external_id: str) -> bytes:
        """The barcode_id, readable only with the external id."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(external_id).encrypt(nonce, barcode_id.encode(), None)

    def unseal(self, sealed: bytes, external_id: str) -> str | None:
        """The barcode_id again; None where seal and external id do not belong together."""
        nonce, text = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(external_id).decrypt(nonce, text, None).decode()
        except (InvalidTag, ValueError):
            return None

    def _cipher(self, external_id: str) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(blake2b(external_id.encode(), key=self._secret, digest_size=32).digest())
