"""Files and folders that change as a whole or not at all, and clear errors where they cannot."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, TextIO

from cosmicai.errors import InvalidInput
from cosmicai.sharing import OLD, STAGING
from cosmicai.whole_files import locked_folder, whole_file

_ALL_OLD: Final = "all-old"
"""A file that marks that everything that is to be replaced is in the folder ``old``."""


@contextmanager
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """Open ``path`` for text (UTF-8, line ends as written), as :func:`whole_file` does.

    Raises
    ------
    InvalidInput
        It cannot be written; see :func:`file_errors`.
    """
    with (
        file_errors(path),
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


@contextmanager
def file_errors(target: Path) -> Iterator[None]:
    """Turn errors of the operating system, such as a full disk, into :class:`InvalidInput`.

    Parameters
    ----------
    target
        What the block writes; named where the error names no file itself.

    Raises
    ------
    InvalidInput
        In place of an ``OSError``, with the file and the reason.
    """
    try:
        yield
    except OSError as error:
        raise InvalidInput(explained(error, target)) from error


def explained(error: OSError, target: Path | None = None) -> str:
    """Return what the operating system refused: the file, or else ``target``, and the reason."""
    where = error.filename or target
    reason = error.strerror or str(error)
    if isinstance(error, FileExistsError) and reason == os.strerror(errno.EEXIST):
        reason = "a folder expected, found a file"
    return f"{where}: {reason}" if where else reason


def replace_files(staging: Path, folder: Path, replaced: list[Path]) -> None:
    """Move every file of ``staging`` into ``folder``, in place of ``replaced``.

    An error moves everything back. A process that is killed meanwhile leaves what
    :func:`_finish` needs. Both folders must be in one file system.

    Raises
    ------
    OSError
        A file cannot be moved; ``folder`` is as it was.
    """
    fresh = sorted(staging.iterdir())
    old = staging / OLD
    old.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        _move(replaced, old, done)
        (staging / _ALL_OLD).touch()
        _move(fresh, folder, done)
    except BaseException:
        for source, target in reversed(done):
            if target.parent == old:
                (staging / _ALL_OLD).unlink(missing_ok=True)
            target.rename(source)
        raise


def _move(paths: list[Path], folder: Path, done: list[tuple[Path, Path]]) -> None:
    """Move files into a folder; ``done`` records which were, and where to."""
    for path in paths:
        target = folder / path.name
        path.rename(target)
        done.append((path, target))


def _finish(staging: Path, folder: Path) -> None:
    """Complete or undo the replacement that a killed process left, and remove its folder.

    Files that were on their way out go back. If all of them were out, the new ones follow.
    """
    old = staging / OLD
    if old.is_dir():
        whole = (staging / _ALL_OLD).exists()
        left = (path for path in staging.iterdir() if path.name not in {OLD, _ALL_OLD})
        for path in left if whole else old.iterdir():
            path.replace(folder / path.name)
    shutil.rmtree(staging)


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside ``folder``, so that both are in one file system.

    ``folder`` may be a link or a mounted volume. It is made if it is absent, and removed again if
    the block leaves it empty. Only one process at a time has it; what a killed one left in it is
    completed or undone first.

    Raises
    ------
    InvalidInput
        ``folder`` is a file, or a link to nothing, or another process writes into it.
    """
    if folder.is_symlink() and not folder.exists():
        raise InvalidInput(f"{folder} is a link to {folder.readlink()}, which does not exist")
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder}: a folder expected, found a file")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(folder) as alone:
            for left in folder.glob(f"{STAGING}*") if alone else ():
                _finish(left, folder)
            with TemporaryDirectory(prefix=STAGING, dir=folder) as staging:
                yield Path(staging)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Keep other processes from writing partitions into a folder; say whether that is certain."""
    with ExitStack() as stack:
        alone = True
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise InvalidInput(
                f"{folder}: another process writes partitions into it; wait until it has ended, or "
                "choose another folder"
            ) from None
        except OSError:
            alone = False  # a file system without locks
        yield alone
