"""Copies of bundles with something added; a bundle itself is never changed."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cosmicai.errors import InvalidInput
from cosmicai.model.bundle import Bundle
from cosmicai.model.interface import Training
from cosmicai.model.layout import CONFIG_NAME
from cosmicai.whole_files import whole_folder


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
    with whole_folder(out) as folder:
        for file in bundle.files:
            shutil.copyfile(bundle.path / file, folder / file)
        if training is not None:
            config = bundle.config.model_copy(update={"training": training})
            (folder / CONFIG_NAME).write_text(config.to_json())
        yield folder
        _ = Bundle(folder).interface  # what was written can be read
