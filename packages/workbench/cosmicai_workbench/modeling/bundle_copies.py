"""Copies of bundles with something added; a bundle itself is never changed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosmicai.errors import InvalidInput
from cosmicai.model.architectures import ARCHITECTURES
from cosmicai.model.bundle import Bundle
from cosmicai.model.interface import Training
from cosmicai.model.layout import CONFIG_NAME
from cosmicai.model.prepare import PREPARED_NAME
from cosmicai.whole_files import whole_folder

from cosmicai_workbench.files import file_errors


def require_place(bundle: Bundle, out: Path, *, overwrite: bool = False) -> None:
    """Check that a copy of a bundle can be written; called before galaxies are predicted for it.

    Raises
    ------
    InvalidInput
        ``out`` is the bundle itself, or exists and is not to be replaced, or is not a bundle.
    """
    if out.resolve() == bundle.path.resolve():
        raise InvalidInput(f"{out}: is the bundle itself; name another folder for the copy")
    if out.exists() and not overwrite:
        raise InvalidInput(f"{out}: exists already; --overwrite replaces it")
    if out.exists() and not (out / CONFIG_NAME).is_file():
        raise InvalidInput(f"{out}: is there, but no model bundle: not replaced")
    require_only_bundle(out)


def require_only_bundle(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but a bundle.

    Raises
    ------
    InvalidInput
        If it does; the message names one such file.
    """
    if not folder.exists():
        return
    bundles = ((*one.files, *one.optional_files) for one in ARCHITECTURES.values())
    known = {PREPARED_NAME}.union(*bundles)
    if others := sorted(path.name for path in folder.iterdir() if path.name not in known):
        raise InvalidInput(
            f"{folder}: holds {others[0]!r}, which is not a file of a model bundle, so the "
            "folder is not replaced; move it away, or choose another"
        )


@contextmanager
def copied(
    bundle: Bundle, out: Path, *, training: Training | None = None, overwrite: bool = False
) -> Iterator[Path]:
    """Give a copy of a bundle to add files to; it takes the place of ``out`` when the block ends.

    Parameters
    ----------
    training
        Put into ``config.json``; None keeps what is there.

    Raises
    ------
    InvalidInput
        See :func:`require_place`; nothing is written.
    ModelMismatch
        What the block wrote cannot be read.
    """
    require_place(bundle, out, overwrite=overwrite)
    with file_errors(out), whole_folder(out, replace=overwrite) as folder:
        for file in bundle.files:
            shutil.copyfile(bundle.path / file, folder / file)
        if training is not None:
            config = bundle.config.model_copy(update={"training": training})
            (folder / CONFIG_NAME).write_text(config.to_json())
        yield folder
        _ = Bundle(folder).interface  # what was written can be read
