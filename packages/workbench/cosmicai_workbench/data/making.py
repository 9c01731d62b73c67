"""Data sets of painted galaxies, as files."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cosmicai
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES, IMAGE_SIZE
from cosmicai.partition.catalogue import DEC, RA, Catalogue, ColumnInfo, column_of, concatenate
from cosmicai.partition.imaging import MAX_SIDE, MIN_SIDE, SDSS, GalaxyShape

from cosmicai_workbench.data.catalogue import catalogue_path, write_text_catalogue
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.photometry import SOURCE, Split, load_split, sky_positions
from cosmicai_workbench.data.synthesis import Galaxies, synthesize
from cosmicai_workbench.files import file_errors, whole_text_file

OBJECT_ID = ColumnInfo("object_id", "str", "", "row of the SDSS sample, and its copy if it moved")
NOTICE = (
    "Magnitudes and redshifts are real (SDSS). The images are PAINTED from the real fluxes: bulge "
    "and disk, sizes drawn from a size-luminosity relation, seeing, sky and photon noise. Galaxies "
    "beyond the survey's rows are real ones moved to another redshift by k-correction templates."
)


def describe(
    count: int, split: Split, seed: int, bands: Sequence[str] = BAND_NAMES
) -> dict[str, Any]:
    """Return the metadata of a made data set: what is real in it and how to make it again."""
    imaging = replace(SDSS, bands=tuple(bands), magnitude_bands=None)
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
        **imaging.to_metadata(),
        "made_by": f"cosmicai {cosmicai.__version__} data make",
    }


def make_dataset(
    path: Path,
    count: int,
    split: Split = "test",
    seed: int = 0,
    *,
    side: int = IMAGE_SIZE,
    bands: Sequence[str] = BAND_NAMES,
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
    side
        Pixels on a side of an image.
    bands
        Bands to write, in order, of images and magnitudes alike: among u, g, r, i, z.
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
    if not MIN_SIDE <= side <= MAX_SIDE:
        raise InvalidInput(f"side: {MIN_SIDE} to {MAX_SIDE} pixels expected, found {side}")
    if not bands or len(set(bands)) != len(bands) or not set(bands) <= set(BAND_NAMES):
        raise InvalidInput(
            f"bands: different ones among {', '.join(BAND_NAMES)} expected, "
            f"found {', '.join(bands) or 'none'}"
        )
    if path.suffix != ".pt":
        raise InvalidInput(f"output: a name that ends in .pt expected, found {path.name!r}")
    if path.exists() and not overwrite:
        raise InvalidInput(f"{path} exists; choose another name or pass --overwrite")
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)

        metadata = describe(count, split, seed, bands)
        chosen = [BAND_NAMES.index(band) for band in bands]
        shape = GalaxyShape(len(bands), side, len(bands))
        parts: list[Catalogue] = []
        with PartitionWriter(path, count, metadata, shape=shape, replace=overwrite) as writer:
            for galaxies in synthesize(count, split, seed, side):
                parts.append(_catalogue(galaxies, writer.written, metadata["original_galaxies"]))
                writer.write(
                    galaxies.image[:, chosen], galaxies.magnitude[:, chosen], galaxies.redshift
                )
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
