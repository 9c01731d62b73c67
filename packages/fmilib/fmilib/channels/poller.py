"""The sockets that a channel waits for, each with what to do when it is ready."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    Handler = Callable[[int], None]  # takes the events


class Poller:
    """One ``poll`` over all sockets."""

    __slots__ = ("_handlers", "_poll")

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Handler] = {}

    def add(self, sock: socket.socket, handler: Handler, events: int = select.POLLIN) -> None:
        """Watch a socket; one that is watched already gets another handler."""
        self._handlers[sock.fileno()] = handler
        self._poll.register(sock, events)

    def watch(self, sock: socket.socket, events: int) -> None:
        """Change what a socket is watched for."""
        self._poll.modify(sock, events)

    def close(self, sock: socket.socket) -> None:
        """Stop watching a socket and close it."""
        if self._handlers.pop(sock.fileno(), None) is not None:
            self._poll.unregister(sock)
        sock.close()

    def clear(self) -> None:
        """Forget all sockets, which are closed already."""
        self._handlers.clear()
        self._poll = select.poll()

    def wait(self, seconds: float) -> None:
        """Handle whatever is ready; wait for it if nothing is."""
        for descriptor, events in self._poll.poll(seconds * 1000 + 1):
            handler = self._handlers.get(descriptor)
            if handler is not None:  # an earlier handler may have closed it
                handler(events)
