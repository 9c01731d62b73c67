"""Files and folders that appear whole or not at all, whoever else writes them at the same time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_OLD: Final = "old"
_APPEARED: Final = "another process wrote it meanwhile; nothing was replaced"
_DISK: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a write fails with that names no file."""
_NOREPLACE, _EXCHANGE = 1, 2
"""Flags of renameat2(2)."""


@contextmanager
def whole_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` when the block ends.

    An error in the block leaves what was there before, and nothing beside it. What a killed process
    left beside it, the next one removes. Of several processes, the last one wins. A link stays, and
    what it leads to is replaced.

    Parameters
    ----------
    path
        In a folder that exists.
    replace
        False: what another process puts there meanwhile is not replaced.

    Raises
    ------
    OSError
        ``path`` is a device, a pipe or a folder, whose place no file may take.
    FileExistsError
        It appeared meanwhile, and ``replace`` is false.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "a regular file expected", str(path))
    with _beside(path) as folder:
        yield folder / path.name
        if replace:
            (folder / path.name).replace(path)
        else:
            _put(folder / path.name, path)


@contextmanager
def whole_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Give an empty folder beside ``path``, which takes its place when the block ends.

    Otherwise as :func:`whole_file`; the folder that ``path`` is in is made, and an empty one at
    ``path`` itself is taken for none.
    """
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _beside(path) as folder:
        partial = folder / path.name
        partial.mkdir()
        yield partial
        if not (replace and path.is_dir()):
            _put_folder(partial, path)
        elif not _rename(partial, path, _EXCHANGE):
            path.replace(folder / _OLD)
            partial.replace(path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a folder beside ``path`` that is this process's, and is removed in the end."""
    prefix = f".cosmicai-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"
    for left in path.parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), locked_folder(left):  # otherwise its process is at work
            if not path.exists() and (left / _OLD).exists():
                (left / _OLD).replace(path)
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        while True:
            try:
                folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
            except OSError as error:
                error.filename = str(path)
                raise
            try:
                stack.enter_context(locked_folder(folder))
            except (BlockingIOError, FileNotFoundError):
                continue  # taken for one that was left, before it was locked
            except OSError:
                break  # a file system without locks; then nobody removes it either
            if folder.exists():
                break
        try:
            yield folder
        except OSError as error:
            if error.errno in _DISK or str(error.filename).startswith(f"{folder}{os.sep}"):
                error.filename = str(path)  # the user's name for it
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the kernel releases it when this process ends, however it ends.

    Raises
    ------
    BlockingIOError
        Another process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _put(source: Path, target: Path) -> None:
    """Move a file to where nothing is."""
    if not _rename(source, target, _NOREPLACE):
        if target.exists():
            raise FileExistsError(errno.EEXIST, _APPEARED, str(target))
        source.replace(target)


def _put_folder(source: Path, target: Path) -> None:
    """Move a folder to where nothing is, or an empty folder."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        raise FileExistsError(errno.EEXIST, _APPEARED, str(target)) from None


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Call renameat2(2); return False where the system or the file system does not have it."""
    import ctypes

    here = -100  # AT_FDCWD
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(here, os.fsencode(source), here, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        return False
    if code == errno.EEXIST:
        raise FileExistsError(code, _APPEARED, str(target))
    raise OSError(code, os.strerror(code), str(target))
