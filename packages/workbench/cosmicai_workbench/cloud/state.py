"""The state folder of a local cloud, ``.cosmicai/<name>/``: who is up, and where."""

from __future__ import annotations

import os
from pathlib import Path

from cosmicai.errors import CosmicAIError
from pydantic import BaseModel, ConfigDict

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
"""What the embedded services accept: anything. They listen on the loopback interface only."""

_STATUS = "cloud.json"


def logs_folder(folder: Path) -> Path:
    """Return where a cloud's log streams lie."""
    return folder / "logs"


class LocalCloudError(CosmicAIError):
    """The local cloud did not come up, or is not up."""


class Settings(BaseModel):
    """What a local cloud is started with: ``settings.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str
    stack: str
    parameters: dict[str, str]
    buckets: list[str]
    concurrency: int
    environment: dict[str, str]


class Status(BaseModel):
    """What a running local cloud tells of itself: ``cloud.json``, there while it is up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    process_id: int
    stack: str
    region: str
    concurrency: int
    outputs: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        temporary = folder / f"{_STATUS}.new"
        temporary.write_text(self.model_dump_json(indent=2))
        temporary.replace(folder / _STATUS)

    @staticmethod
    def remove(folder: Path) -> None:
        """Say that the cloud is down."""
        (folder / _STATUS).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Status | None:
        """Return the status of the cloud of a folder, or None if none is up there."""
        try:
            status = cls.model_validate_json((folder / _STATUS).read_text())
        except FileNotFoundError:
            return None
        return status if status.is_alive(folder) else None

    def is_alive(self, folder: Path) -> bool:
        """Say whether the process is there, and is the folder's cloud (ids are used again)."""
        try:
            command = Path(f"/proc/{self.process_id}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(folder.resolve()) in command

    @property
    def variables(self) -> dict[str, str]:
        """Environment with which any AWS client talks to this cloud."""
        return {
            **CREDENTIALS,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
        }


def is_free(folder: Path) -> bool:
    """Say whether no local cloud is up in a folder."""
    return Status.read(folder) is None


def prune(root: Path, keep: int, prefix: str) -> None:
    """Delete the oldest folders of clouds that are down, keeping the newest ``keep``."""
    import shutil

    folders = sorted(root.glob(f"{prefix}*"), key=os.path.getmtime, reverse=True)
    for folder in folders[keep:]:
        if is_free(folder):
            shutil.rmtree(folder, ignore_errors=True)
