"""Files of arrays into partitions; of the images, only a few megabytes are in memory."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import cosmicai
import numpy as np
from cosmicai.errors import InvalidInput
from cosmicai.facts import ARCHIVE_BYTES, MB, ZERO_POINT
from cosmicai.partition.catalogue import Catalogue, ColumnInfo, concatenate
from cosmicai.partition.imaging import Imaging
from cosmicai.partition.reader import Batch

from cosmicai_workbench.bars import no_bar
from cosmicai_workbench.data.arrays.files import bounded_memory
from cosmicai_workbench.data.arrays.layout import Choices, Finder, Layout, blocks
from cosmicai_workbench.data.arrays.opening import find_arrays, open_arrays
from cosmicai_workbench.data.catalogue import write_text_catalogue
from cosmicai_workbench.data.fits.objects import carried_columns, plausible, redshifts
from cosmicai_workbench.data.fits.tables import Field, UserTable
from cosmicai_workbench.data.object_keys import object_keys, repeated
from cosmicai_workbench.data.partition_writer import PartitionWriter
from cosmicai_workbench.data.splitting import (
    Rebatched,
    galaxies_per_partition,
    staged_partitions,
)
from cosmicai_workbench.files import file_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cosmicai_workbench.bars import Bar
    from cosmicai_workbench.data.arrays.files import Block


@dataclass(frozen=True)
class ArrayConversion:
    """What :func:`convert_arrays` did.

    Attributes
    ----------
    partitions
        The files, in order.
    galaxies
        How many, in all.
    bands, side, magnitudes, pixel_scale
        Of each.
    columns
        What partitions hold → array that it comes from.
    notices
        What a user should know before trusting a redshift.
    """

    partitions: tuple[str, ...]
    galaxies: int
    bands: tuple[str, ...]
    side: int
    magnitudes: int
    pixel_scale: float | None
    columns: dict[str, str]
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Part:
    """Consecutive galaxies with their catalogue."""

    batch: Batch
    catalogue: Catalogue

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: slice) -> _Part:
        return _Part(self.batch[rows], self.catalogue[rows])


@bounded_memory()
def convert_arrays(
    inputs: Iterable[Path],
    folder: Path,
    choices: Choices | None = None,
    *,
    size: float = 25,
    galaxies: int | None = None,
    photometric_system: str | None = None,
    zero_point: float | None = None,
    overwrite: bool = False,
    bar: Bar = no_bar,
) -> ArrayConversion:
    """Turn HDF5, Zarr, ``.npz`` and Parquet files into partitions.

    Parameters
    ----------
    inputs
        Files, Zarr stores, and folders of them.
    folder
        Receives 1.pt, 1.catalogue.csv, ….
    choices
        What the arrays are, where their names do not say.
    size
        Largest size of a partition, MB.
    galaxies
        Galaxies in a partition, instead of ``size``.
    photometric_system
        Such as ``DES``, to be recorded.
    zero_point
        AB magnitude of one unit of the images, to turn them into nanomaggies.
    overwrite
        Remove the numbered partitions that ``folder`` already has.
    bar
        Shows progress, in galaxies.

    Raises
    ------
    InvalidInput
        A file cannot be read, or does not say what is what; files differ in bands, side or
        columns; an object is named twice; or there is not enough room. The folder is as it was.
    """
    files = find_arrays(inputs)
    choices = choices or Choices()
    layouts = [_layout(path, choices) for path in files]
    first = layouts[0]
    for path, other in zip(files, layouts, strict=True):
        _check_alike(path, other, files[0], first)
    each = galaxies or galaxies_per_partition(size, first.shape.nbytes)
    if each < 1:
        raise InvalidInput(f"galaxies per partition: a positive number expected, found {each}")
    total = sum(layout.rows for layout in layouts)
    imaging = Imaging(
        bands=first.choice.bands,
        pixel_scale=first.pixel_scale,
        photometric_system=photometric_system,
    )
    factor = None if zero_point is None else np.float32(10 ** (0.4 * (ZERO_POINT - zero_point)))
    metadata = imaging.to_metadata() | {
        "notice": "Images converted from arrays.",
        "units": {"image": "as in the source" if factor is None else "nanomaggy"},
        "made_by": f"cosmicai {cosmicai.__version__} data convert",
    }
    with staged_partitions(folder, overwrite=overwrite) as staging:
        _require_room(staging, total * first.shape.nbytes)
        names: list[str] = []
        with bar("converting", total, "galaxies") as advance:
            source = _parts(files, layouts, choices.keep, factor)
            parts = Rebatched(source)
            for start in range(0, total, each):
                count = min(each, total - start)
                path = staging / f"{len(names) + 1}.pt"
                rows: list[Catalogue] = []
                with (
                    file_errors(path),
                    PartitionWriter(path, count, metadata, shape=first.shape) as writer,
                ):
                    for part in parts.take(count):
                        batch = part.batch
                        writer.write(batch.image, batch.magnitude, batch.redshift)
                        writer.write_catalogue(part.catalogue)
                        rows.append(part.catalogue)
                        advance(len(part))
                write_text_catalogue(path, concatenate(rows))
                names.append(path.name)
            next(source, None)  # to its end, where it looks for names that occur twice
    return ArrayConversion(
        partitions=tuple(str(folder / name) for name in names),
        galaxies=total,
        bands=first.choice.bands,
        side=first.shape.side,
        magnitudes=first.shape.magnitudes,
        pixel_scale=first.pixel_scale,
        columns={"image": first.image, **_shown(first)},
        notices=tuple(_notices(first)),
    )


def _layout(path: Path, choices: Choices) -> Layout:
    with closing(open_arrays(path)) as file:
        return Finder(file, choices).find()


def _check_alike(path: Path, layout: Layout, first_path: Path, first: Layout) -> None:
    for what, found, expected in (
        ("bands", ", ".join(layout.choice.bands), ", ".join(first.choice.bands)),
        ("side", layout.shape.side, first.shape.side),
        ("magnitudes", layout.shape.magnitudes, first.shape.magnitudes),
        ("pixel scale", layout.pixel_scale, first.pixel_scale),
        ("columns", ", ".join(layout.columns), ", ".join(first.columns)),
    ):
        if found != expected:
            raise InvalidInput(
                f"{path}: {what} {expected} expected, as {first_path} has, found {found}; convert "
                "files that differ into folders of their own"
            )


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + ARCHIVE_BYTES > free:
        raise InvalidInput(
            f"{folder.parent}: room for {needed / MB:,.0f} MB of partitions expected, "
            f"{free / MB:,.0f} MB are free"
        )


def _parts(
    files: Sequence[Path], layouts: Sequence[Layout], keep: Sequence[str], factor: Any
) -> Iterator[_Part]:
    """Yield all galaxies of all files, in order."""
    infos: tuple[ColumnInfo, ...] | None = None
    keys: list[NDArray[np.int64]] = []
    done = 0
    for path, layout in zip(files, layouts, strict=True):
        with closing(open_arrays(path)) as file:
            for start, image, block in blocks(file, layout):
                table = _table(path, layout, block, done + start, len(image))
                catalogue = carried_columns(table, keep)
                infos = infos or tuple(column.info for column in catalogue.columns.values())
                catalogue = _with_infos(path, catalogue, infos)
                names = catalogue.columns["object_id"]
                keys.append(object_keys(names.values[~names.missing]))
                if factor is not None:
                    image = image * factor
                magnitude = _magnitudes(table, layout)
                redshift = redshifts(table, table.find(("redshift",))).astype(np.float32)
                nothing = np.empty((len(image), 0), np.float32)
                yield _Part(Batch(done + start, image, magnitude, redshift, nothing), catalogue)
        done += layout.rows
    if again := len(repeated(keys)):
        raise InvalidInput(
            f"{layouts[0].columns.get('object_id', 'object_id')}: names that occur once expected "
            f"in {len(files)} file(s), found {again} objects named twice"
        )


def _table(path: Path, layout: Layout, block: Block, start: int, rows: int) -> UserTable:
    """Return the columns of a block, but for the images, by the names that partitions know."""
    fields = [
        Field(name, np.ma.MaskedArray(block[column])) for name, column in layout.columns.items()
    ]
    if "object_id" not in layout.columns:
        fields.append(Field("object_id", np.ma.MaskedArray(np.arange(start, start + rows))))
    return UserTable(path, fields)


def _magnitudes(table: UserTable, layout: Layout) -> NDArray[np.float32]:
    count = layout.shape.magnitudes
    if not count:
        return np.empty((len(table), 0), np.float32)
    fields = [each for name, each in table.fields.items() if name.startswith("magnitude ")]
    columns = [table.numbers(each).reshape(len(table), -1) for each in fields]
    values = plausible(np.concatenate(columns, axis=1))
    if layout.magnitudes is not None:
        values = values[:, list(layout.magnitudes)]
    single: NDArray[np.float32] = values.astype(np.float32)
    return single


def _with_infos(path: Path, catalogue: Catalogue, infos: tuple[ColumnInfo, ...]) -> Catalogue:
    """Return the columns as those of the first galaxies: of one type, and described alike."""
    columns = list(catalogue.columns.values())
    for column, info in zip(columns, infos, strict=True):
        if (column.info.name, column.info.dtype) != (info.name, info.dtype):
            raise InvalidInput(
                f"{path}: column {info.name} of {info.dtype} throughout expected, found "
                f"{column.info.dtype}"
            )
    return Catalogue(
        (replace(column, info=info) for column, info in zip(columns, infos, strict=True)),
        len(catalogue),
    )


def _shown(layout: Layout) -> dict[str, str]:
    """Return the columns with their arrays, magnitudes by band."""
    given = [name for name in layout.columns if name.startswith("magnitude ")]
    bands = (f"magnitude {band}" for band in layout.choice.bands)
    names = dict(zip(given, bands if len(given) > 1 else ["magnitude"], strict=False))
    return {names.get(name, name): array for name, array in layout.columns.items()}


def _notices(layout: Layout) -> Iterator[str]:
    if not layout.shape.magnitudes:
        yield "no magnitudes were found (--magnitude); models that take some cannot be used"
    if "redshift" not in layout.columns:
        yield "no redshifts were found (--redshift): there will be no quality figures"
    if not {"ra", "dec"} <= layout.columns.keys():
        yield "no positions were found (--ra, --dec)"
    if layout.pixel_scale is None:
        yield "the pixel scale is unknown (--pixel-scale)"
