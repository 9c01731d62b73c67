"""Messages between ranks and the rendezvous server, and how they are authenticated.

One JSON object per line. A rank sends ``join`` and, when every rank has, receives ``peers`` with
the addresses of all: one round trip. The connection then stays open: through it ranks learn of
aborts, of ranks that died, and of ranks that wish to punch a hole.

``join`` is authenticated by an HMAC over its fields, the time and a nonce, with the shared token
as key: the token itself never travels, and a recorded join is refused when replayed. Peers
authenticate each other with a key derived from the token and the session's number.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import zlib
from typing import Any, Final

VERSION: Final = 1
Address = tuple[str, int]
PACKED_RANKS: Final = 128
MAX_LINE: Final = 4096  # bytes of one message to the server
CLOCK_SKEW: Final = 300  # seconds between the clocks of rank and server
_SIGNED: Final = ("session", "epoch", "rank", "size", "strict", "local", "time", "nonce")


def encode(message: dict[str, Any]) -> bytes:
    """Return the message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def peers_message(number: str, addresses: list[list[str | int]]) -> dict[str, Any]:
    """Return the answer to all ranks; large ones compressed, since it is sent to each."""
    message: dict[str, Any] = {"type": "peers", "number": number}
    if len(addresses) > PACKED_RANKS:
        text = json.dumps(addresses, separators=(",", ":")).encode()
        message["packed"] = binascii.b2a_base64(zlib.compress(text), newline=False).decode()
    else:
        message["peers"] = addresses
    return message


def peers_of(message: dict[str, Any]) -> list[tuple[Address, Address]]:
    """Return each rank's public and local address, as :func:`peers_message` wrote them."""
    if "packed" in message:
        rows = json.loads(zlib.decompress(binascii.a2b_base64(message["packed"])))
    else:
        rows = message["peers"]
    return [((a, b), (c, d)) for a, b, c, d in rows]


def sign(token: str, message: dict[str, Any]) -> str:
    """Return the HMAC of a join message."""
    fields = [message["type"], *(message[name] for name in _SIGNED)]
    text = json.dumps(fields, separators=(",", ":")).encode()
    return hmac.new(token.encode(), text, hashlib.sha256).hexdigest()


def verify(token: str, message: dict[str, Any]) -> bool:
    """Whether the message's ``mac`` was made with ``token``."""
    return hmac.compare_digest(sign(token, message), str(message.get("mac", "")))


def peer_key(token: str, session: str, number: str) -> bytes:
    """Return the key with which the peers of a session authenticate each other."""
    return hmac.new(token.encode(), f"peer {session} {number}".encode(), hashlib.sha256).digest()


def session_id(session: str, number: str) -> int:
    """Return the 64-bit number that every frame of the session carries."""
    digest = hashlib.sha256(f"{number} {session}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
