"""The state folder of a local cloud, ``.cosmicai/<name>/``: who is up, and where.

Only its owner may enter it: ``cloud.json`` holds the keys of the cloud. Whoever serves the folder
holds a lock on ``lock`` as long as it lives, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from typing import TYPE_CHECKING

from cosmicai.errors import CosmicAIError, InvalidInput
from pydantic import BaseModel, ConfigDict, ValidationError

from cosmicai_workbench.cloud.credentials import Keys
from cosmicai_workbench.defaults import CLOUD

if TYPE_CHECKING:
    from pathlib import Path

_STATUS = "cloud.json"
_SETTINGS = "settings.json"
_LOCK = "lock"
_SCRATCH = "tmp"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOCK_SECONDS = 1.0
"""How long others may hold the lock only to see whether it is held."""


def logs_folder(folder: Path) -> Path:
    """Return where a cloud's log streams are."""
    return folder / "logs"


def scratch_folder(folder: Path) -> Path:
    """Return the home and temporary folder of a cloud's sandboxes; it is emptied at the end."""
    return folder / _SCRATCH


def state_folder(root: Path, name: str) -> Path:
    """Return the state folder of a name.

    Raises
    ------
    InvalidInput
        If the name could lead elsewhere, or is not a folder's name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"name of a local cloud: expected up to 64 letters, digits, '.', '_' and '-', the "
            f"first a letter or digit; found {name!r}"
        )
    return root.resolve() / name


class LocalCloudError(CosmicAIError):
    """The local cloud did not come up, or is not up."""


def not_up(name: str) -> LocalCloudError:
    """Return the error of a local cloud that is asked for and not up."""
    option = "" if name == CLOUD else f" --name {name}"
    return LocalCloudError(
        f"no local cloud {name!r} is up in this folder: `cosmicai local up{option}` starts one "
        "that stays (a run's own ends with it, and its buckets too); or name a stack on AWS by "
        "--stack"
    )


class Limits(BaseModel):
    """Limits of AWS that a local cloud keeps.

    ``express_seconds`` is how long an EXPRESS child of a Map may take; ``account_concurrency`` is
    the number of calls at once, of all functions, above which Lambda throttles (None: calls wait);
    ``roles`` says whether functions and state machines may do only what their policies allow.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    express_seconds: int = 300
    account_concurrency: int | None = None
    roles: bool = False


class Settings(BaseModel):
    """What a local cloud is started with: ``settings.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str
    stack: str
    parameters: dict[str, str]
    buckets: list[str]
    concurrency: int
    environment: dict[str, str]
    reload: bool = False
    limits: Limits = Limits()

    def write(self, folder: Path) -> None:
        """Write the file; what it holds is the owner's alone, as a token may be among it."""
        _write_private(folder / _SETTINGS, self.model_dump_json(indent=2))

    @classmethod
    def read(cls, folder: Path) -> Settings:
        """Read the file."""
        return cls.model_validate_json((folder / _SETTINGS).read_text())


class Status(BaseModel):
    """How to reach a running local cloud: ``cloud.json``, there while it is up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str
    process_id: int
    stack: str
    region: str
    concurrency: int
    keys: Keys
    parameters: dict[str, str]
    functions: dict[str, str]
    """Name of a function's folder → the function's name."""
    outputs: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write the file, whole or not at all, for its owner's eyes only."""
        temporary = folder / f"{_STATUS}.new"
        _write_private(temporary, self.model_dump_json(indent=2))
        temporary.replace(folder / _STATUS)

    @staticmethod
    def remove(folder: Path) -> None:
        """Say that the cloud is down."""
        (folder / _STATUS).unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Status | None:
        """Return the status of the cloud of a folder, or None if none is up there.

        Raises
        ------
        LocalCloudError
            If one is up, but the file that says where is damaged.
        """
        if is_free(folder):
            return None
        path = folder / _STATUS
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            return None  # it is starting, or ending
        except (ValidationError, UnicodeError) as error:
            raise LocalCloudError(
                f"{path} is damaged, although the cloud is up; end it by `cosmicai local down "
                f"--name {folder.name}`"
            ) from error

    @property
    def variables(self) -> dict[str, str]:
        """Environment with which any AWS client talks to this cloud."""
        return {**self.keys.variables(self.region), "AWS_ENDPOINT_URL": self.endpoint}


def prepare(folder: Path, settings: Settings) -> int:
    """Make a state folder, claim it, and remove what a killed cloud left there.

    Returns
    -------
    int
        File descriptor that holds the lock; a process that inherits it holds it too.

    Raises
    ------
    LocalCloudError
        If a cloud is up in the folder, or it cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _claim(lock, folder)
            clear(folder)
            scratch_folder(folder).mkdir(mode=0o700)
            settings.write(folder)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise LocalCloudError(
            f"the state folder {folder} cannot be written: {error.strerror}"
        ) from error
    return lock


def _claim(lock: int, folder: Path) -> None:
    if not _lock(lock, _LOCK_SECONDS):
        status = Status.read(folder)
        where = f"is up already, at {status.endpoint}" if status else "is being started already"
        raise LocalCloudError(f"the local cloud of {folder} {where}")


def tell_process(lock: int, process_id: int) -> None:
    """Write into the lock file who holds the lock."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(process_id).encode(), 0)


def holder(folder: Path) -> int | None:
    """Return the process that serves a folder, or None if none does."""
    if is_free(folder):
        return None
    text = (folder / _LOCK).read_text()
    return int(text) if text.isdigit() else None


def is_free(folder: Path) -> bool:
    """Say whether no local cloud is up, or being started, in a folder."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return _lock(lock, 0.0, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def clear(folder: Path) -> None:
    """Remove what only a cloud that is up needs; its logs stay."""
    Status.remove(folder)
    shutil.rmtree(scratch_folder(folder), ignore_errors=True)


def prune(root: Path, keep: int, prefix: str) -> None:
    """Delete the oldest folders of clouds that are down, keeping the newest ``keep``.

    Of those that stay, what a killed cloud left behind is removed.
    """
    folders = sorted(root.glob(f"{prefix}*"), key=_modified, reverse=True)
    for number, folder in enumerate(folders):
        if is_free(folder):
            if number < keep:
                clear(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)


def _modified(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another command has just removed it
        return 0.0


def _lock(descriptor: int, seconds: float, kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock; return False if another process holds it all the time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)  # else the mode would stay what it was
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
