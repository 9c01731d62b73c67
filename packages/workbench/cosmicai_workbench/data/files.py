"""Files and folders that change as a whole or not at all, and clear errors where they cannot."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from cosmicai.errors import InvalidInput


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; it takes the place of ``path`` when the block ends.

    An error in the block leaves what was there before, and nothing beside it.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """Open ``path`` for text (UTF-8, line ends as written), as :func:`whole_file` does."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``, which becomes ``path`` when the block ends.

    An error in the block leaves nothing behind.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        where = error.filename or target
        raise InvalidInput(f"{where}: {error.strerror or error}") from error


def replace_files(staging: Path, folder: Path, replaced: list[Path]) -> None:
    """Move every file of ``staging`` into ``folder``, in place of ``replaced``.

    An error moves everything back. Both folders must be in one file system.

    Raises
    ------
    OSError
        A file cannot be moved; ``folder`` is as it was.
    """
    fresh = sorted(staging.iterdir())
    old = staging / "old"
    old.mkdir()
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in [
            *((path, old / path.name) for path in replaced),
            *((path, folder / path.name) for path in fresh),
        ]:
            source.rename(target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            target.rename(source)
        raise


@contextmanager
def staging_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder inside ``folder``, so that both are in one file system.

    ``folder`` may be a link or a mounted volume. It is made if it is absent, and removed again if
    the block leaves it empty.

    Raises
    ------
    InvalidInput
        ``folder`` is a file, or a link to nothing.
    """
    if folder.is_symlink() and not folder.exists():
        raise InvalidInput(f"{folder} is a link to {folder.readlink()}, which does not exist")
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder}: a folder expected, found a file")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with TemporaryDirectory(prefix=".cosmicai-", dir=folder) as staging:
            yield Path(staging)
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()
