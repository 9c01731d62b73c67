"""Copies of bundles that say what they were trained on, so that galaxies unlike it are flagged."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cosmicai.errors import InvalidInput
from cosmicai.flags import TrainingRanges
from cosmicai.model.bundle import Bundle
from cosmicai.model.interface import Inputs, Training
from cosmicai.partition.reader import open_partition
from cosmicai.partition.sources import located

from cosmicai_workbench.modeling.bundle_copies import copied


def training_of(
    bundle: Bundle,
    partitions: Sequence[str],
    *,
    name: str | None = None,
    on_partition: Callable[[str], None] = lambda _: None,
) -> Training:
    """Return the ranges of a training set in partitions, streamed.

    Parameters
    ----------
    name
        What the training set is called; by default, the folders of the partitions.

    Raises
    ------
    CosmicAIError
        A partition cannot be read, or is not one for this model.
    InvalidInput
        No galaxy has a known redshift.
    """
    inputs = bundle.interface.inputs

    def batches() -> Iterator[Any]:
        for partition in partitions:
            with open_partition(located(partition), inputs=inputs) as reader:
                yield from reader
            on_partition(partition)

    folders = folders_of(partitions)
    try:
        return ranges_of(batches(), inputs, name or folders)
    except ValueError:
        raise InvalidInput(f"{folders}: no galaxy has a known redshift") from None


def folders_of(partitions: Sequence[str]) -> str:
    """Return the names of the folders that partitions are in, which is what their set is called."""
    places = (
        place if (place := str(partition)).startswith("s3://") else str(Path(place).resolve())
        for partition in partitions
    )
    return ", ".join(sorted({place.split("/")[-2] for place in places}))


def ranges_of(batches: Iterable[Any], inputs: Inputs, name: str) -> Training:
    """Return the ranges of a training set, with its digest.

    Parameters
    ----------
    batches
        Anything with ``image``, ``magnitude`` and ``redshift``.

    Raises
    ------
    ValueError
        No galaxy has a known redshift.
    """
    ranges, digest = TrainingRanges(inputs), hashlib.sha256()
    for batch in batches:
        arrays = (batch.image, batch.magnitude, batch.redshift)
        ranges.add(*arrays)
        for array in arrays:
            digest.update(array.astype("<f4").tobytes())
    return ranges.training(name, digest.hexdigest())


def write_with_training(
    bundle: Bundle, training: Training, out: Path, *, overwrite: bool = False
) -> Bundle:
    """Write a copy of a bundle whose ``config.json`` holds ``training``; return it.

    Raises
    ------
    InvalidInput
        ``out`` is the bundle itself, or exists, or is not a bundle; nothing is written.
    """
    with copied(bundle, out, training=training, overwrite=overwrite):
        pass
    return Bundle(out)
