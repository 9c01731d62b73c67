"""Files and folders that change as a whole or not at all, and clear errors where they cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from cosmicai.errors import InvalidInput
from cosmicai.whole_files import whole_file


@contextmanager
def whole_text_file(path: Path) -> Iterator[TextIO]:
    """Open ``path`` for text (UTF-8, line ends as written), as :func:`whole_file` does."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
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
    if isinstance(error, FileExistsError):
        reason = "a folder expected, found a file"
    return f"{where}: {reason}" if where else reason


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
