"""Images and a catalogue into partitions; no object is lost without a word."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cosmicai
import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES, IMAGE_SIZE
from cosmicai.partition.catalogue import MAX_TEXT, REASON, Catalogue, column_of
from cosmicai.partition.imaging import MAX_SIDE, MIN_SIDE, GalaxyShape, Imaging

from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.data.catalogue import write_rows, write_text_catalogue
from cosmicai_workbench.data.fits.cutting import (
    Cutout,
    FieldCutter,
    Registration,
    Rejected,
    aperture_magnitudes,
)
from cosmicai_workbench.data.fits.fields import find_fields
from cosmicai_workbench.data.fits.objects import Objects, read_objects
from cosmicai_workbench.data.painting import PIXEL
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.splitting import REJECTS_NAME, REPORT_NAME, staged_partitions
from cosmicai_workbench.files import whole_text_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cosmicai_workbench.bars import Bar
    from cosmicai_workbench.data.fits.fields import Field, FieldFiles

REGISTRATIONS: tuple[Registration, ...] = ("subpixel", "nearest")

OFF_IMAGES = "off every image"
BAD_POSITION = "no position"
NO_MAGNITUDE = "no magnitude"
NO_EXTINCTION = "no extinction"

_SCALE_TOLERANCE = 0.02


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` did.

    Attributes
    ----------
    partitions
        The files, in order.
    galaxies
        Objects written.
    rejected
        Objects left out, by reason; each is a row of ``rejects.csv``.
    fields
        Patches of sky that were read.
    magnitudes
        Where the magnitudes come from.
    notices
        What a user should know before trusting a redshift.
    """

    partitions: tuple[str, ...]
    galaxies: int
    rejected: dict[str, int]
    fields: int
    magnitudes: str
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Galaxy:
    row: int
    cutout: Cutout
    magnitude: NDArray[np.float32]


def as_registration(name: str) -> Registration:
    """Return ``name`` as a way of registration.

    Raises
    ------
    InvalidInput
        If there is no such way.
    """
    for registration in REGISTRATIONS:
        if name == registration:
            return registration
    raise InvalidInput(f"registration: {' or '.join(REGISTRATIONS)} expected, found {name!r}")


def convert(
    images: Iterable[Path],
    catalogue: Path,
    folder: Path,
    galaxies: int,
    *,
    aperture: float = 3.0,
    registration: Registration = "subpixel",
    zero_point: float | None = None,
    side: int = IMAGE_SIZE,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    bar: Bar = no_bar,
) -> Conversion:
    """Cut the objects of a catalogue out of calibrated images, into partitions.

    One field is in memory at a time, and one partition.

    Parameters
    ----------
    images
        FITS files and folders of them; see :func:`~.fields.find_fields`.
    catalogue
        Table of objects; see :func:`~.objects.read_objects`.
    folder
        Receives 1.pt, 1.catalogue.csv, …, ``rejects.csv`` and ``from-fits.json``.
    galaxies
        Galaxies in a partition.
    aperture
        Radius, arcsec, of the circle that magnitudes are measured in where the catalogue has none.
    registration
        How the bands are brought onto the r band's pixels; see :class:`~.cutting.FieldCutter`.
    zero_point
        AB magnitude of one unit of the images, if their headers do not name a unit of flux.
    side
        Pixels on a side of a cutout.
    keep
        Columns of the catalogue to carry into the partitions and on into the predictions, besides
        the object's name and position.
    overwrite
        Remove the numbered partitions that ``folder`` already has.
    bar
        Shows progress, in fields.

    Raises
    ------
    InvalidInput
        A parameter is out of range, or images or catalogue cannot be used; or no object is left.
    """
    if galaxies < 1:
        raise InvalidInput(f"galaxies per partition: a positive number expected, found {galaxies}")
    if not aperture > 0:
        raise InvalidInput(f"aperture: above 0 arcsec expected, found {aperture}")
    if not MIN_SIDE <= side <= MAX_SIDE:
        raise InvalidInput(f"side: {MIN_SIDE} to {MAX_SIDE} pixels expected, found {side}")
    files = find_fields(images)
    objects = read_objects(catalogue, keep)
    run = _Run(objects, aperture, registration, zero_point, side)
    with staged_partitions(folder, overwrite=overwrite) as staging:
        with bar("cutting", len(files), "fields") as advance:
            found = run.galaxies(files, advance)
            names = _write(staging, found, galaxies, objects, run)
        rejected = run.rejected()
        reasons = dict(Counter(reject.reason for reject in rejected.values()))
        if not names:
            listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            raise InvalidInput(f"none of {len(objects)} objects could be cut out: {listed}")
        _write_rejects(staging / REJECTS_NAME, objects, rejected)
        result = Conversion(
            partitions=tuple(str(folder / name) for name in names),
            galaxies=len(objects) - len(rejected),
            rejected=reasons,
            fields=len(files),
            magnitudes=run.magnitude_source,
            notices=tuple(run.notices),
        )
        with whole_text_file(staging / REPORT_NAME) as file:
            file.write(json.dumps(result.to_dict(), indent=2) + "\n")
    return result


class _Run:
    """The state of one conversion: which objects are done, and why others are not."""

    def __init__(
        self,
        objects: Objects,
        aperture: float,
        registration: Registration,
        zero_point: float | None,
        side: int,
    ) -> None:
        self.side = side
        self._scales: list[float] = []
        self._objects = objects
        self._aperture = aperture
        self._registration = registration
        self._zero_point = zero_point
        self._written: NDArray[np.bool_] = np.zeros(len(objects), dtype=bool)
        self._rejected: dict[int, Rejected] = {}
        self.magnitude_source = (
            f"aperture of {aperture} arcsec radius (asinh)"
            if objects.magnitude is None
            else "catalogue"
        )
        self.notices: list[str] = []
        if objects.extinction is None and objects.magnitude is None:
            self.notices.append(
                "magnitudes are not corrected for Galactic extinction: the catalogue has no "
                "extinction_u … extinction_z"
            )

    def describe(self) -> dict[str, Any]:
        """Return the metadata of the partitions so far."""
        scales = self._scales
        same = scales and max(scales) <= (1 + _SCALE_TOLERANCE) * min(scales)
        scale = round(float(np.mean(scales)), 5) if same else None
        return Imaging(bands=BAND_NAMES, pixel_scale=scale).to_metadata() | {
            "notice": "Images cut out of calibrated FITS images.",
            "images": f"FITS, registration {self._registration}",
            "magnitudes": self.magnitude_source,
            "units": {"image": "nanomaggy", "magnitude": "AB"},
            "made_by": f"cosmicai {cosmicai.__version__} data from-fits",
        }

    def galaxies(
        self, files: list[FieldFiles], advance: Callable[[int], None]
    ) -> Iterator[_Galaxy]:
        """Yield the objects that can be cut out, field by field."""
        usable = self._check_rows()
        for field_files in files:
            field = field_files.read(self._zero_point)
            scale = self._check_scale(field)
            rows = np.flatnonzero(usable & ~self._written)
            if len(rows):
                cutter = FieldCutter(field, self._registration, self.side)
                found = cutter.cut(self._objects.ra[rows], self._objects.dec[rows])
                for item, cutout in found.items():
                    row = int(rows[item])
                    if isinstance(cutout, Rejected):
                        self._rejected[row] = cutout  # unless another field holds it whole
                        continue
                    self._written[row] = True
                    magnitude = self._magnitude(row, cutout, scale)
                    yield _Galaxy(row, cutout, magnitude)
            advance(1)

    def rejected(self) -> dict[int, Rejected]:
        """Return, once all fields are done, every object that has no cutout."""
        return {
            row: self._rejected.get(row, Rejected(OFF_IMAGES, ""))
            for row in np.flatnonzero(~self._written).tolist()
        }

    def rejected_catalogue(self) -> Catalogue | None:
        """Return the objects without a cutout, with the columns of the others and why."""
        rejected = self.rejected()
        if not rejected:
            return None
        rows = self._objects.catalogue[np.array(list(rejected))]
        reasons = [f"{reject.reason}: {reject.detail}" for reject in rejected.values()]
        because = column_of(REASON, (reason.rstrip(": ")[:MAX_TEXT] for reason in reasons))
        return Catalogue((*rows.columns.values(), because))

    def _check_rows(self) -> NDArray[np.bool_]:
        """Reject the rows that no image can help; return which are left."""
        objects = self._objects
        for row, (ra, dec) in enumerate(zip(objects.ra, objects.dec, strict=True)):
            if not (np.isfinite(ra) and -360 <= ra <= 360 and -90 <= dec <= 90):
                self._rejected[row] = Rejected(BAD_POSITION, f"ra {ra}, dec {dec}")
            elif objects.magnitude is not None:
                if not np.isfinite(objects.magnitude[row]).all():
                    detail = f"{objects.magnitude[row].tolist()}"
                    self._rejected[row] = Rejected(NO_MAGNITUDE, detail)
            elif objects.extinction is not None and not np.isfinite(objects.extinction[row]).all():
                detail = f"{objects.extinction[row].tolist()}"
                self._rejected[row] = Rejected(NO_EXTINCTION, detail)
        usable: NDArray[np.bool_] = np.ones(len(objects), dtype=bool)
        usable[list(self._rejected)] = False
        return usable

    def _check_scale(self, field: Field) -> float:
        """Return the arcseconds of a pixel; note it, once, where models expect another."""
        scale = field.bands[BAND_NAMES.index("r")].pixel_scale
        self._scales.append(scale)
        largest = self.side // 2 - 1
        if self._objects.magnitude is None and self._aperture / scale > largest:
            raise InvalidInput(
                f"aperture: {self._aperture} arcsec are {self._aperture / scale:.0f} pixels in "
                f"{field.name}, and the cutout has {largest} about its centre"
            )
        notice = f"pixels of {scale:.3f} arcsec; models trained on SDSS expect {PIXEL}"
        if abs(scale / PIXEL - 1) > _SCALE_TOLERANCE and notice not in self.notices:
            self.notices.append(notice)
        return scale

    def _magnitude(self, row: int, cutout: Cutout, scale: float) -> NDArray[np.float32]:
        objects = self._objects
        if objects.magnitude is not None:
            magnitude = objects.magnitude[row]
        else:
            magnitude = aperture_magnitudes(cutout, self._aperture / scale)
            if objects.extinction is not None:
                magnitude = magnitude - objects.extinction[row]
        single: NDArray[np.float32] = magnitude.astype(np.float32)
        return single


def _write(
    folder: Path, galaxies: Iterator[_Galaxy], size: int, objects: Objects, run: _Run
) -> list[str]:
    """Write partitions of ``size`` galaxies each as they come; return their names.

    The last one holds the objects that are in none, which are known only then.
    """
    names: list[str] = []
    batch: list[_Galaxy] = []

    def flush(*, last: bool) -> None:
        path = folder / f"{len(names) + 1}.pt"
        rows = [galaxy.row for galaxy in batch]
        rejected = run.rejected_catalogue() if last else None
        shape = GalaxyShape(side=run.side)
        with PartitionWriter(
            path, len(batch), run.describe(), shape=shape, rejected=rejected
        ) as writer:
            writer.write(
                np.stack([galaxy.cutout.image for galaxy in batch]),
                np.stack([galaxy.magnitude for galaxy in batch]),
                objects.redshift[rows].astype(np.float32),
            )
            writer.write_catalogue(objects.catalogue[np.array(rows)])
        write_text_catalogue(path, objects.catalogue[np.array(rows)])
        names.append(path.name)
        batch.clear()

    for galaxy in galaxies:
        if len(batch) == size:
            flush(last=False)
        batch.append(galaxy)
    if batch:
        flush(last=True)
    return names


def _write_rejects(path: Path, objects: Objects, rejected: dict[int, Rejected]) -> None:
    names, ra, dec = (
        objects.catalogue.columns[name].plain() for name in ("object_id", "ra", "dec")
    )
    write_rows(
        path,
        ("row", "object_id", "ra", "dec", "reason", "detail"),
        (
            (row, names[row], ra[row], dec[row], reject.reason, reject.detail)
            for row, reject in rejected.items()
        ),
    )
