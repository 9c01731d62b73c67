"""How two ranks come to share one TCP connection: plain connects and hole punching.

Each rank has one local port: it listens there, it came from there to the rendezvous server, and
it dials its peers from there. A NAT that keeps one outer port for one inner port
(endpoint-independent mapping) therefore shows all of them the address that the server saw, and
when both ranks dial each other's at the same time, each NAT takes the other's packets for
answers: TCP's simultaneous open.

Which way two ranks take follows from their addresses alone, so both know it:

* one of them is not behind a NAT: the other dials it (if neither is, the higher rank dials);
* both are: both dial the other's public address, and, behind the same NAT, its local one, too.

Whoever dials says hello, with a proof of the session's key; the lower rank chooses the first
good connection, and says so.
"""

from __future__ import annotations

import hmac
import struct
from typing import Final

Address = tuple[str, int]

HELLO: Final = struct.Struct("<4sQIIIB16s")  # magic, session, epoch, from, to, chosen, proof
MAGIC: Final = b"FMI1"


def candidates(
    rank: int, peer: int, addresses: list[tuple[Address, Address]]
) -> list[tuple[Address, bool]]:
    """Return the addresses at which ``rank`` dials ``peer``, and whether from its own port.

    Empty when it is the peer that dials.
    """
    (public, local), (peer_public, peer_local) = addresses[rank], addresses[peer]
    behind_nat, peer_behind_nat = public != local, peer_public != peer_local
    if not peer_behind_nat:
        dials = behind_nat or rank > peer
        return [(peer_public, False)] if dials else []
    if not behind_nat:
        return []
    if public[0] == peer_public[0]:
        return [(peer_public, True), (peer_local, True)]
    return [(peer_public, True)]


def hello(key: bytes, session: int, epoch: int, rank: int, peer: int, *, chosen: bool) -> bytes:
    """Return the greeting of ``rank`` to ``peer``."""
    proof = _proof(key, session, epoch, rank, peer)
    return HELLO.pack(MAGIC, session, epoch, rank, peer, chosen, proof)


def read_hello(
    key: bytes, session: int, epoch: int, rank: int, data: bytes
) -> tuple[int, bool] | None:
    """Return the greeting's sender and whether it chose this connection; None for a stranger."""
    magic, its_session, its_epoch, sender, to, chosen, proof = HELLO.unpack(data)
    if magic != MAGIC or (its_session, its_epoch, to) != (session, epoch, rank):
        return None
    if not hmac.compare_digest(proof, _proof(key, session, epoch, sender, rank)):
        return None
    return sender, bool(chosen)


def _proof(key: bytes, session: int, epoch: int, rank: int, peer: int) -> bytes:
    text = struct.pack("<QIII", session, epoch, rank, peer)
    return hmac.digest(key, text, "sha256")[:16]
