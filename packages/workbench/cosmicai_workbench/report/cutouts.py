"""Pictures of a sample's galaxies, read from the partitions that were predicted."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cosmicai.errors import CosmicAIError
from cosmicai.partition.reader import open_partition

from cosmicai_workbench.data.preview import colour_bands, colour_image
from cosmicai_workbench.data.uploading import etag_of
from cosmicai_workbench.report.content import Cutout, Cutouts
from cosmicai_workbench.results.catalogue import find_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from cosmicai.partition.sources import S3Object
    from numpy.typing import NDArray

    from cosmicai_workbench.report.sample import Sample

    Find = Callable[[str], Path | S3Object | None]
    """Takes the key of a partition as the run has it; returns where to read it, if anywhere."""

_EACH = 24
"""Galaxies of a kind that are shown."""
_MOST = 4 * _EACH
_MOST_PARTITIONS = 24
"""Partitions that are read for cutouts: a survey has thousands."""
_BATCH = 256


@dataclass
class Images:
    """Cutouts by position in the sample, as PNG data addresses; ``note`` says what is absent."""

    note: str
    sources: dict[int, str] = field(default_factory=dict)

    def rows(self, sample: "Sample") -> tuple[Cutouts, ...]:
        """Return the cutouts in rows: at random, the extremes, the flagged."""
        extreme = "Farthest from the truth" if sample.predictions.known.any() else "Extremes"
        kinds = (
            ("At random", sample.random),
            (
                f"{extreme}, worst first" if sample.predictions.known.any() else extreme,
                sample.extreme,
            ),
            ("Flagged, or without a prediction", sample.flagged),
        )
        rows = []
        for caption, chosen in kinds:
            shown = [int(i) for i in chosen if int(i) in self.sources][:_EACH]
            if shown:
                rows.append(Cutouts(caption, tuple(self._cutout(sample, i) for i in shown)))
        return tuple(rows)

    def _cutout(self, sample: "Sample", i: int) -> Cutout:
        redshift, true = sample.redshift[i], sample.true[i]
        lines = [f"z {redshift:.3f}" if np.isfinite(redshift) else "no prediction"]
        if np.isfinite(true):
            lines.append(f"true {true:.3f}")
        name = sample.names[i]
        return Cutout(self.sources[i], i, tuple(lines), f"Galaxy {name}: {', '.join(lines)}")


def in_folder(folder: Path) -> "Find":
    """Return how to find partitions in a folder: the file whose path agrees the furthest."""
    return lambda key: find_partition(folder, key, None)


def as_named(key: str) -> Path | None:
    """Return a partition that a run on this machine read, if it is still there."""
    path = Path(key)
    return path if path.is_file() else None


def load(
    sample: "Sample", finds: "Iterable[Find]", etags: "Mapping[str, str | None] | None" = None
) -> Images:
    """Read the pictures of some of a sample's galaxies.

    A file whose galaxies are not those that were predicted is passed over: data sets have
    partitions of the same names. True redshifts show it, and where there are none, the file's ETag.

    Parameters
    ----------
    etags
        Partition → ETag of what was predicted, where the run knows it.
    """
    wanted = _wanted(sample)
    images = Images("")
    missing: list[str] = []
    for key, galaxies in wanted.items():
        source = next((found for find in finds if (found := find(key)) is not None), None)
        if source is None:
            missing.append(f"{key} is not there")
            continue
        try:
            images.sources |= dict(_read(source, sample, galaxies, (etags or {}).get(key)))
        except (CosmicAIError, OSError) as error:
            missing.append(str(error))
        except ModuleNotFoundError as error:
            missing.append(f"the library {error.name} is not installed")
            break
    images.note = _note(len(images.sources), missing)
    return images


def _note(found: int, missing: list[str]) -> str:
    if not found:
        why = missing[0] if missing else "no galaxy to show"
        return (
            f"No pictures: {why}. The option --data of cosmicai report names the folder of the "
            "partitions."
        )
    note = "Three bands as red, green and blue. Click one to find it in the figures."
    return note + (f" Some are not shown: {missing[0]}." if missing else "")


def _wanted(sample: "Sample") -> "dict[str, list[int]]":
    """Return partition → galaxies to read of it, as positions in the sample."""
    chosen = [
        int(i) for kind in (sample.flagged, sample.extreme, sample.random) for i in kind[:_EACH]
    ]
    paths = sample.predictions.data_paths
    found: dict[str, list[int]] = {}
    for i in chosen[:_MOST]:
        key = paths[int(sample.predictions.partition[sample.positions[i]])]
        if key in found or len(found) < _MOST_PARTITIONS:
            found.setdefault(key, []).append(i)
    for i in [int(i) for i in sample.random]:  # of partitions that are read anyway
        key = paths[int(sample.predictions.partition[sample.positions[i]])]
        if len(found.get(key, ())) and sum(map(len, found.values())) < _MOST:
            found[key].append(i)
    return {key: list(dict.fromkeys(galaxies)) for key, galaxies in found.items()}


def _read(
    source: "Path | S3Object", sample: "Sample", galaxies: list[int], etag: str | None
) -> "Iterator[tuple[int, str]]":
    index = sample.columns["index"]
    true = sample.columns["true_redshift"]
    others = f"{source} holds other galaxies than were predicted"
    unknown = np.isnan(true[galaxies]).all()
    if unknown and etag and isinstance(source, Path) and etag_of(source) != etag:
        raise CosmicAIError(others)
    at = {int(index[i]): i for i in galaxies}
    last = max(at)
    with open_partition(source, batch_size=_BATCH) as reader:
        channels = colour_bands(reader.bands)
        for batch in reader:
            for place in range(batch.start, batch.start + len(batch)):
                if place not in at:
                    continue
                i, row = at[place], place - batch.start
                if not np.array_equal(true[i], batch.redshift[row], equal_nan=True):
                    raise CosmicAIError(others)
                yield i, _png(colour_image(batch.image[row], channels))
            if batch.start + len(batch) > last:
                return


def _png(colours: "NDArray[np.uint8]") -> str:
    """Return a picture as a data address, its first row at the bottom, as images of the sky lie."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(colours[::-1]).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
