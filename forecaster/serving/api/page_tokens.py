"""Page tokens: where a list goes on, for nobody but the method that gave them.

A token is the last entry's key with a checksum of what is listed, so that one that was made up, cut, or is another
list's is refused and not taken for a place. It is no secret.
"""

import base64
import binascii
import zlib

from forecaster.errors import FieldViolation, InvalidArgumentError

_CHECKSUM_BYTES = 4


def token_of(listing: str, key: str) -> str:
    """Return the token of the page behind a key.

    Args:
        listing: what is listed, for example a method and a model's name.
        key: of the last entry of the page before.
    """
    raw = key.encode()
    return base64.urlsafe_b64encode(_checksum(listing, raw) + raw).decode().rstrip("=")


def key_of(listing: str, token: str) -> str:
    """Return the key that a token stands for, empty for an empty one; raises InvalidArgumentError."""
    if not token:
        return ""
    try:
        both = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        checksum, raw = both[:_CHECKSUM_BYTES], both[_CHECKSUM_BYTES:]
        if checksum == _checksum(listing, raw):
            return raw.decode()
    except (binascii.Error, ValueError):
        pass
    text = "it is not a next_page_token of this list: begin again with an empty one"
    raise InvalidArgumentError(f"page_token: {text}", [FieldViolation("page_token", text)])


def _checksum(listing: str, raw: bytes) -> bytes:
    return zlib.crc32(listing.encode() + b"\0" + raw).to_bytes(_CHECKSUM_BYTES, "big")
