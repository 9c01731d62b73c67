"""The local cloud's rendezvous server, where the ranks of FMI's direct channel find each other."""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import NamedTuple


class LocalRendezvous(NamedTuple):
    """Where the server listens, and the token that it asks for."""

    address: str
    token: str


def start_rendezvous() -> LocalRendezvous:
    """Start fmilib's own server on a free port, in a thread that ends with the process."""
    from fmilib.rendezvous.server import Server

    token = secrets.token_hex(16)
    started: threading.Event = threading.Event()
    address: list[tuple[str, int]] = []

    async def serve() -> None:
        address.append(await Server(token).start("127.0.0.1", 0))
        started.set()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True, name="rendezvous").start()
    if not started.wait(10):
        raise RuntimeError("the rendezvous server did not start within 10 s")
    host, port = address[0]
    return LocalRendezvous(f"{host}:{port}", token)
