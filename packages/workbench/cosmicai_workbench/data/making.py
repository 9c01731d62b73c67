"""Data sets of painted galaxies, as files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cosmicai
from cosmicai.errors import InvalidInput
from cosmicai.partition.catalogue import DEC, RA, Catalogue, ColumnInfo, column_of, concatenate

from cosmicai_workbench.data.catalogue import catalogue_path, write_text_catalogue
from cosmicai_workbench.data.files import file_errors, whole_text_file
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.photometry import SOURCE, Split, load_split, sky_positions
from cosmicai_workbench.data.synthesis import Galaxies, synthesize

OBJECT_ID = ColumnInfo("object_id", "str", "", "row of the SDSS sample, and its copy if it moved")
NOTICE = (
    "Magnitudes and redshifts are real (SDSS). The images are PAINTED from the real fluxes: bulge "
    "and disk, sizes drawn from a size-luminosity relation, seeing, sky and photon noise. Galaxies "
    "beyond the survey's rows are real ones moved to another redshift by k-correction templates."
)


def describe(count: int, split: Split, seed: int) -> dict[str, Any]:
    """Return the metadata of a made data set: what is real in it and how to make it again."""
    originals = len(load_split(split))
    return {
        "notice": NOTICE,
        "photometry": SOURCE,
        "images": "painted",
        "galaxies": count,
        "original_galaxies": min(count, originals),
        "resampled_galaxies": max(0, count - originals),
        "split": split,
        "seed": seed,
        "units": {"image": "nanomaggy", "magnitude": "AB, corrected for Galactic extinction"},
        "bands": ["u", "g", "r", "i", "z"],
        "made_by": f"cosmicai {cosmicai.__version__} data make",
    }


def make_dataset(
    path: Path,
    count: int,
    split: Split = "test",
    seed: int = 0,
    *,
    overwrite: bool = False,
    on_galaxies: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Make a data set as one ``.pt`` file, its metadata and its catalogue beside it.

    Memory does not grow with ``count``.

    Parameters
    ----------
    path
        File to write; ``path`` with suffix ``.json`` and ``.catalogue.csv`` come with it.
    count
        Galaxies to make.
    split
        Side of the train/test split, by parent galaxy.
    seed
        The same seed makes the same galaxies.
    overwrite
        Replace what is there.
    on_galaxies
        Called with the number of galaxies in each block made.

    Returns
    -------
    dict
        The metadata.

    Raises
    ------
    InvalidInput
        A parameter is out of range, the file exists, or it cannot be written.
    """
    if count < 1:
        raise InvalidInput(f"galaxies: a positive number expected, found {count}")
    if seed < 0:
        raise InvalidInput(f"seed: a number from 0 on expected, found {seed}")
    if path.suffix != ".pt":
        raise InvalidInput(f"output: a name that ends in .pt expected, found {path.name!r}")
    if path.exists() and not overwrite:
        raise InvalidInput(f"{path} exists; choose another name or pass --overwrite")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)

        metadata = describe(count, split, seed)
        parts: list[Catalogue] = []
        with PartitionWriter(path, count, metadata) as writer:
            for galaxies in synthesize(count, split, seed):
                parts.append(_catalogue(galaxies, writer.written, metadata["original_galaxies"]))
                writer.write(galaxies.image, galaxies.magnitude, galaxies.redshift)
                writer.write_catalogue(parts[-1])
                on_galaxies(len(galaxies))
        write_text_catalogue(path, concatenate(parts))
        with whole_text_file(path.with_suffix(".json")) as file:
            file.write(json.dumps(metadata, indent=2) + "\n")
    return metadata


def made_files(path: Path) -> tuple[Path, Path, Path]:
    """Return the files of a made data set: galaxies, metadata, catalogue."""
    return path, path.with_suffix(".json"), catalogue_path(path)


def _catalogue(galaxies: Galaxies, first: int, originals: int) -> Catalogue:
    ra, dec = sky_positions()
    names = [
        f"gst-{parent}" if index < originals else f"gst-{parent}-moved-{index}"
        for index, parent in enumerate(galaxies.parent, start=first)
    ]
    return Catalogue(
        (
            column_of(OBJECT_ID, names),
            column_of(RA, ra[galaxies.parent].tolist()),
            column_of(DEC, dec[galaxies.parent].tolist()),
        )
    )
