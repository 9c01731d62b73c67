"""Who this process is in a session: what every channel needs to know to join."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple


class Member(NamedTuple):
    """One process's place in a session.

    Attributes
    ----------
    session : str
        The session's full name, see `session_name`.
    epoch : int
        Number of the attempt within the session.
    rank, size : int
        This rank, from 0, and the number of ranks.
    timeout : float
        Seconds that an operation may take.
    token : str or None
        The rendezvous server's shared secret.
    strict : bool
        Whether the session's name belongs to one run, so that a second process of a rank is
        refused rather than taken for the next run.
    """

    session: str
    epoch: int
    rank: int
    size: int
    timeout: float
    token: str | None = None
    strict: bool = True

    @property
    def digest(self) -> str:
        """Name of session and epoch in stores that others use as well: 20 hexadecimal digits."""
        return hashlib.sha256(f"{self.session}\n{self.epoch}".encode()).hexdigest()[:20]

    @property
    def number(self) -> int:
        """The 64-bit number of session and epoch that every frame carries."""
        return int(self.digest[:16], 16)


def session_name(session: str | None, communicator: str) -> str:
    """Return the full name of a communicator's session; no two pairs share one."""
    return json.dumps([session, communicator], ensure_ascii=False)
