"""``cosmicai data convert``: files written by h5py, Zarr, pyarrow and NumPy, read back by torch."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

h5py = pytest.importorskip("h5py")
zarr = pytest.importorskip("zarr")
pa = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")
torch = pytest.importorskip("torch")

COUNT = 23
BANDS = ("des-g", "des-r", "des-z")


def columns(count: int = COUNT, side: int = 12) -> dict[str, Any]:
    """Return galaxies as the Multimodal Universe has them."""
    rng = np.random.default_rng(3)
    return {
        "object_id": np.array([f"{7000 + row:08d}" for row in range(count)]),
        "ra": rng.uniform(0, 360, count),
        "dec": rng.uniform(-90, 90, count),
        "healpix": np.arange(count, dtype=np.int64),
        "image_band": np.tile(np.array(BANDS), (count, 1)),
        "image_array": rng.normal(size=(count, len(BANDS), side, side)).astype(np.float32),
        "image_scale": np.full((count, len(BANDS)), 0.262, np.float32),
        "ebv": rng.random(count).astype(np.float32),
        "flag": np.arange(count) % 2 == 0,
        "z_spec": rng.uniform(0.1, 1, count),
        "mag": rng.uniform(17, 24, (count, len(BANDS))),
    }


def write_hdf5(path: Path, values: dict[str, Any], **options: Any) -> Path:
    path = path.with_suffix(".hdf5")
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            data = value
            if value.dtype.kind == "U":
                data = np.char.encode(value, "utf-8").astype(h5py.string_dtype("utf-8", 16))
            file.create_dataset(name, data=data, **options)
    return path


def write_hdf5_groups(path: Path, values: dict[str, Any]) -> Path:
    """Write a group per galaxy, called by its name."""
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        for row, name in enumerate(values["object_id"]):
            group = file.create_group(str(name))
            for column, value in values.items():
                if column in ("ra", "dec"):
                    group.attrs[column] = value[row]
                elif column == "image_band":
                    group.create_dataset(column, data=list(value[row]), dtype=h5py.string_dtype())
                elif column != "object_id":
                    group.create_dataset(column, data=value[row])
    return path


def write_zarr(path: Path, values: dict[str, Any], version: int, **options: Any) -> Path:
    path = path.with_suffix(".zarr")
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, value in values.items():
        chunks = (5, *value.shape[1:])
        if value.dtype.kind == "U":
            array = group.create_array(name, shape=value.shape, chunks=chunks, dtype=str)
            array[:] = value
        else:
            group.create_array(name, data=value, chunks=chunks, **options)
    return path


def write_zarr_zip(path: Path, values: dict[str, Any]) -> Path:
    store = write_zarr(path, values, 3)
    return path.parent / shutil.move(
        shutil.make_archive(str(path), "zip", store), path.with_suffix(".zarr.zip")
    )


def write_npz(path: Path, values: dict[str, Any], *, compressed: bool = False) -> Path:
    path = path.with_suffix(".npz")
    (np.savez_compressed if compressed else np.savez)(path, **values)
    return path


def listed(value: Any) -> Any:
    """Return an array as pyarrow's nested lists."""
    if value.ndim == 1:
        return pa.array(value.tolist() if value.dtype.kind == "U" else value)
    return pa.FixedSizeListArray.from_arrays(
        listed(value.reshape(-1, *value.shape[2:])), value.shape[1]
    )


def write_parquet(path: Path, values: dict[str, Any], rows: int = 6) -> Path:
    path = path.with_suffix(".parquet")
    pa.parquet.write_table(
        pa.table({name: listed(value) for name, value in values.items()}), path, row_group_size=rows
    )
    return path


def write_parquet_struct(path: Path, values: dict[str, Any]) -> Path:
    """Write images as a list of structs of one band each, as Hugging Face's viewer shows them."""
    path = path.with_suffix(".parquet")
    images = [
        [
            {"band": str(band), "flux": plane.tolist(), "scale": float(scale)}
            for band, plane, scale in zip(bands, image, scales, strict=True)
        ]
        for bands, image, scales in zip(
            values["image_band"], values["image_array"], values["image_scale"], strict=True
        )
    ]
    kind = pa.list_(
        pa.struct(
            {"band": pa.string(), "flux": pa.list_(pa.list_(pa.float32())), "scale": pa.float32()}
        )
    )
    table = {n: listed(v) for n, v in values.items() if not n.startswith("image_")}
    pa.parquet.write_table(pa.table({"image": pa.array(images, kind), **table}), path)
    return path


def write_parquet_columns(path: Path, values: dict[str, Any]) -> Path:
    """Write images as a struct of lists, as Hugging Face's data sets do."""
    path = path.with_suffix(".parquet")
    image = pa.StructArray.from_arrays(
        [listed(values[f"image_{name}"]) for name in ("band", "array", "scale")],
        ["band", "flux", "scale"],
    )
    table = {n: listed(v) for n, v in values.items() if not n.startswith("image_")}
    pa.parquet.write_table(pa.table({"image": image, **table}), path)
    return path


WRITERS: dict[str, Callable[[Path, dict[str, Any]], Path]] = {
    "hdf5": write_hdf5,
    "hdf5 in chunks": lambda path, values: write_hdf5(path, values, chunks=True),
    "hdf5 compressed": lambda path, values: write_hdf5(path, values, compression="gzip"),
    "hdf5 groups": write_hdf5_groups,
    "zarr 2": lambda path, values: write_zarr(path, values, 2),
    "zarr 3": lambda path, values: write_zarr(path, values, 3),
    "zarr zip": write_zarr_zip,
    "npz": write_npz,
    "npz compressed": lambda path, values: write_npz(path, values, compressed=True),
    "parquet": write_parquet,
    "parquet list of structs": write_parquet_struct,
    "parquet struct of lists": write_parquet_columns,
}


def convert(*words: object) -> int:
    return main(["data", "convert", *map(str, words)])


def partitions(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), key=lambda path: int(path.stem))


def by_torch(folder: Path) -> list[np.ndarray]:
    """Return the tensors of all partitions, read by torch."""
    tensors = [torch.load(path, weights_only=False).tensors for path in partitions(folder)]
    return [torch.cat(parts).numpy() for parts in zip(*tensors, strict=True)]


def carried(folder: Path, name: str) -> list[Any]:
    values: list[Any] = []
    for path in partitions(folder):
        with open_partition(path) as reader:
            catalogue = reader.catalogue()
        assert catalogue is not None
        values += catalogue.columns[name].plain()
    return values


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_gives_the_same_galaxies(tmp_path: Path, form: str) -> None:
    values = columns()
    path = WRITERS[form](tmp_path / "survey", values)
    folder = tmp_path / "parts"

    assert convert(path, folder, "--galaxies", 10, "--keep", "ebv", "--keep", "flag") == 0

    image, magnitude, redshift = by_torch(folder)
    np.testing.assert_array_equal(image, values["image_array"])
    np.testing.assert_array_equal(magnitude, values["mag"].astype(np.float32))
    np.testing.assert_array_equal(redshift, values["z_spec"].astype(np.float32))
    assert carried(folder, "object_id") == values["object_id"].tolist()
    assert carried(folder, "ra") == values["ra"].tolist()
    assert carried(folder, "dec") == values["dec"].tolist()
    assert carried(folder, "ebv") == values["ebv"].tolist()
    assert carried(folder, "flag") == values["flag"].tolist()
    with open_partition(folder / "3.pt") as reader:
        assert len(partitions(folder)) == 3
        assert reader.num_samples == 3
        assert reader.bands == BANDS
        assert reader.side == 12
        assert reader.imaging.pixel_scale == pytest.approx(0.262)


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    values = columns() | {"object_id": np.arange(COUNT, dtype=np.uint64) + 2**63}
    for writer in (write_hdf5, write_npz, write_parquet):
        folder = tmp_path / writer.__name__
        assert convert(writer(tmp_path / "survey", values), folder) == 0
        assert carried(folder, "object_id") == values["object_id"].tolist()


def test_bands_are_picked_renamed_and_cut_out_of_the_middle(tmp_path: Path) -> None:
    values = columns(side=15)
    path = write_hdf5(tmp_path / "survey", values)
    words = ("--bands", "des-z=z, des-g=g", "--side", 8, "--magnitude", "mag", "--overwrite")

    assert convert(path, tmp_path / "parts", *words) == 0

    image, magnitude, _ = by_torch(tmp_path / "parts")
    np.testing.assert_array_equal(image, values["image_array"][:, [2, 0], 3:11, 3:11])
    np.testing.assert_array_equal(magnitude, values["mag"][:, [2, 0]].astype(np.float32))
    with open_partition(tmp_path / "parts" / "1.pt") as reader:
        assert reader.bands == ("z", "g")
        assert reader.imaging.magnitude_bands == ("z", "g")


@pytest.mark.parametrize("layout", ["channels last", "one band", "flat", "doubles"])
def test_other_layouts_of_plain_arrays(tmp_path: Path, layout: str) -> None:
    image = columns()["image_array"]
    given = {
        "channels last": np.moveaxis(image, 1, 3),
        "one band": image[:, 0],
        "flat": image.reshape(COUNT, -1),
        "doubles": image.astype(np.float64),
    }[layout]
    bands = "r" if layout == "one band" else "g,r,z"
    path = write_npz(tmp_path / "survey", {"pictures": given, "source": np.arange(COUNT)})
    words = ("--image", "pictures", "--bands", bands, "--id", "source", "--pixel-scale", 0.2)

    assert convert(path, tmp_path / "parts", *words) == 0

    expected = image[:, :1] if layout == "one band" else image
    found, magnitude, redshift = by_torch(tmp_path / "parts")
    np.testing.assert_array_equal(found, expected)
    assert magnitude.shape == (COUNT, 0)
    assert np.isnan(redshift).all()
    assert carried(tmp_path / "parts", "object_id") == list(range(COUNT))


def test_a_magnitude_per_band_and_missing_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = columns()
    magnitudes = values.pop("mag").astype(np.float32)
    magnitudes[4, 1] = 99
    for index, band in enumerate("grz"):
        values[f"mag_{band}"] = magnitudes[:, index]
    values["z_spec"][3] = -9999
    path = write_parquet(tmp_path / "survey", values)
    table = pa.parquet.read_table(path)
    holes = pa.array([None if row == 5 else float(v) for row, v in enumerate(values["ebv"])])
    pa.parquet.write_table(table.set_column(table.column_names.index("ebv"), "ebv", holes), path)

    words = ("--bands", "des-g=g,des-r=r,des-z=z", "--keep", "ebv")
    assert convert(path, tmp_path / "parts", *words) == 0

    assert "magnitude g from mag_g, magnitude r from mag_r" in capsys.readouterr().out
    _, magnitude, redshift = by_torch(tmp_path / "parts")
    magnitudes[4, 1] = np.nan
    np.testing.assert_array_equal(magnitude, magnitudes)
    assert np.flatnonzero(np.isnan(redshift)).tolist() == [3]
    assert [row for row, v in enumerate(carried(tmp_path / "parts", "ebv")) if v is None] == [5]


def test_a_zero_point_turns_counts_into_nanomaggies(tmp_path: Path) -> None:
    values = columns()
    path = write_hdf5(tmp_path / "survey", values)

    assert convert(path, tmp_path / "parts", "--zero-point", 27.5) == 0

    np.testing.assert_allclose(by_torch(tmp_path / "parts")[0], values["image_array"] / 100, 1e-6)


def test_a_folder_of_files_is_one_data_set_in_natural_order(tmp_path: Path) -> None:
    values = columns()
    for start, name in ((0, "healpix=2"), (9, "healpix=10"), (15, "healpix=300")):
        stop = {0: 9, 9: 15, 15: COUNT}[start]
        (tmp_path / "mmu" / name).mkdir(parents=True)
        part = {column: value[start:stop] for column, value in values.items()}
        write_hdf5(tmp_path / "mmu" / name / "001-of-001", part)

    assert convert(tmp_path / "mmu", tmp_path / "parts", "--galaxies", 7) == 0

    np.testing.assert_array_equal(by_torch(tmp_path / "parts")[0], values["image_array"])
    assert carried(tmp_path / "parts", "object_id") == values["object_id"].tolist()


def test_the_report_says_what_was_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = columns()
    for name in ("mag", "z_spec", "ra", "image_scale"):
        del values[name]
    path = write_hdf5(tmp_path / "survey", values)

    assert convert(path, tmp_path / "parts", "--json") == 0

    report = json.loads(capsys.readouterr().out)
    assert report["galaxies"] == COUNT
    assert report["columns"]["image"] == "image_array"
    assert " ".join(report["notices"]).count("--") == 5


# -- what is refused -----------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> str:
    """Convert what must be refused, and return why; nothing may be left behind."""
    assert convert(*words, folder) == 2
    assert not folder.exists() or not [*folder.iterdir()]
    message = capsys.readouterr().err
    assert message.startswith("cosmicai: InvalidInput: ")
    return message


def test_an_unknown_layout_lists_what_was_found_and_the_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_npz(tmp_path / "a", {"x": np.zeros((3, 2)), "label": np.array(["a", "b", "c"])})

    message = refusal(capsys, tmp_path / "parts", path)

    assert "no array of images was found" in message
    assert "x (3, 2) float64; label (3) text" in message
    assert "--image, --bands, --magnitude" in message


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "bands without names": ({"image_band": None}, (), "names of the 3 bands"),
    "too many names": ({}, ("--bands", "g,r,i,z,y"), "--bands: among des-g, des-r, des-z"),
    "a band twice": ({}, ("--bands", "des-g,des-g"), "bands of different names"),
    "bands that change": (
        {"image_band": np.array([BANDS] * 22 + [BANDS[::-1]])},
        (),
        "found des-z, des-r, des-g in row 22",
    ),
    "a scale that changes": (
        {"image_scale": np.repeat([0.262, 0.4], [20, 3])[:, None] + np.zeros((1, 3))},
        (),
        "one pixel scale expected, 0.262 arcsec, found 0.4",
    ),
    "a larger side": ({}, ("--side", "64"), "--side: at most 12 pixels"),
    "oblong images": ({"image_array": np.zeros((COUNT, 3, 8, 9))}, (), "8 × 9 pixels; --side"),
    "no such image": ({}, ("--image", "pictures"), "--image: no array 'pictures'"),
    "no such column": ({}, ("--keep", "mass"), "--keep: no array 'mass'"),
    "a vector to keep": ({}, ("--keep", "mag"), "one value per row"),
    "other rows": ({"ra": np.zeros(4)}, ("--ra", "ra"), "another number of rows than 23"),
    "other rows of identifiers": (
        {"object_id": np.arange(COUNT + 1)},
        (),
        "'object_id' has another number of rows than 23",
    ),
    "other rows of redshifts": (
        {"z_spec": np.zeros(COUNT - 1)},
        (),
        "'z_spec' has another number of rows than 23",
    ),
    "other rows of a magnitude": (
        {"mag": None, "mag_g": np.zeros(4)},
        ("--bands", "des-g=g"),
        "'mag_g' has another number of rows than 23",
    ),
    "fewer magnitudes": (
        {"mag": np.zeros((COUNT - 1, 3))},
        (),
        "--magnitude: 'mag' has another number of rows than 23",
    ),
    "more magnitudes": (
        {"mag": np.zeros((2 * COUNT, 3))},
        (),
        "--magnitude: 'mag' has another number of rows than 23",
    ),
    "names twice": (
        {"object_id": np.array(["a"] * COUNT)},
        (),
        "found 'a' twice; names repeated: 22",
    ),
    "flat, of no square": (
        {"image_array": np.zeros((COUNT, 100)), "image_band": None},
        ("--bands", "g,r,i"),
        "flat images of 3 bands",
    ),
    "no galaxies": ({"image_array": np.zeros((0, 3, 8, 8))}, (), "holds no galaxies"),
    "tiny images": ({"image_array": np.zeros((COUNT, 3, 2, 2))}, (), "4 to 1024 pixels"),
    "a galaxy of 400 MB": ({"image_array": np.zeros((1, 100_000_000), "f4")}, (), "256 MB of each"),
    "65 magnitudes": ({"mag": np.zeros((COUNT, 65))}, (), "--magnitude: at most 64 bands"),
    "two magnitudes": ({}, ("--magnitude", "ra", "--magnitude", "dec"), "des-z expected, found 2"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("writer", [write_hdf5, write_npz])
def test_what_is_wrong_is_named_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, writer: Any
) -> None:
    change, words, message = WRONG[name]
    values = {n: v for n, v in (columns() | change).items() if v is not None}

    path = writer(tmp_path / "survey", values)

    assert message in refusal(capsys, tmp_path / "parts", path, *words)


def test_a_name_in_two_files_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_npz(tmp_path / name, columns()) for name in "ab")

    assert "23 objects named twice" in refusal(capsys, tmp_path / "parts", first, second)


def test_names_with_one_hash_in_python_are_two(tmp_path: Path) -> None:
    names = np.arange(COUNT, dtype=np.int64)
    names[:4] = -1, -2, 2**61 - 1, 2**62 - 2
    path = write_npz(tmp_path / "a", columns() | {"object_id": names})

    assert convert(path, tmp_path / "parts") == 0


def test_files_that_differ_are_no_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_npz(tmp_path / "a", columns())
    second = write_npz(tmp_path / "b", columns(side=8))

    message = refusal(capsys, tmp_path / "parts", first, second)

    assert "b.npz: side 12 expected, as" in message


def test_lists_that_change_their_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [np.zeros((3, 8, 8)).tolist()] * 5 + [np.zeros((3, 9, 8)).tolist()]
    pa.parquet.write_table(pa.table({"image": images}), tmp_path / "a.parquet")

    message = refusal(capsys, tmp_path / "parts", tmp_path / "a.parquet", "--bands", "g,r,z")

    assert "lists of one length expected, found lengths [8, 9]" in message


@pytest.mark.parametrize("form", [form for form in WRITERS if form not in ("zarr 2", "zarr 3")])
def test_a_file_cut_off_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    path = WRITERS[form](tmp_path / "survey", columns())
    os.truncate(path, path.stat().st_size * 2 // 3)

    assert path.name in refusal(capsys, tmp_path / "parts", path)


@pytest.mark.parametrize("form", ["npz", "parquet with checksums"])
def test_a_damaged_pixel_is_noticed_where_the_format_has_checksums(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    values = columns() | {"image_array": np.full((COUNT, 3, 12, 12), 7.5, np.float32)}
    path = write_npz(tmp_path / "survey", values)
    if form != "npz":
        path = tmp_path / "survey.parquet"
        table = pa.table({name: listed(value) for name, value in values.items()})
        pa.parquet.write_table(
            table, path, write_page_checksum=True, compression="none", use_dictionary=False
        )
    content = path.read_bytes()
    at = content.index(np.full(100, 7.5, np.float32).tobytes()) + 200
    path.write_bytes(content[:at] + b"\x01" + content[at + 1 :])

    assert "survey" in refusal(capsys, tmp_path / "parts", path)


def test_other_files_and_missing_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("hello")
    assert "HDF5, Parquet, .npz or Zarr expected" in refusal(
        capsys, tmp_path / "parts", tmp_path / "a.txt"
    )
    assert "there is no such file" in refusal(capsys, tmp_path / "parts", tmp_path / "b.h5")
    (tmp_path / "empty").mkdir()
    assert "expected, found none" in refusal(capsys, tmp_path / "parts", tmp_path / "empty")


def test_a_file_of_another_command_names_that_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"image": torch.zeros(2)}, tmp_path / "survey.pt")
    (tmp_path / "a.fits").write_bytes(b"SIMPLE  =                    T".ljust(2880))
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "survey.pt", tmp_path / "folder/1.pt")
    out = tmp_path / "parts"
    assert "`cosmicai data split` makes" in refusal(capsys, out, tmp_path / "survey.pt")
    assert "`cosmicai data from-fits` makes" in refusal(capsys, out, tmp_path / "a.fits")
    assert "`cosmicai predict`" in refusal(capsys, out, tmp_path / "folder")


@pytest.mark.parametrize(
    ("write", "command"),
    [(write_hdf5, "convert"), (write_npz, "convert"), (write_parquet, "convert"), (None, "fits")],
)
@pytest.mark.parametrize(
    "words", [("predict",), ("data", "inspect"), ("data", "split", "--galaxies", "9")]
)
def test_a_file_that_is_no_partition_names_the_command_that_makes_them(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    write: Callable[..., Path] | None,
    command: str,
    words: tuple[str, ...],
) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(b"SIMPLE  =                    T".ljust(2880))
    if write is not None:
        path = write(tmp_path / "survey", columns(3))
    folder = [str(tmp_path / "parts")] if "split" in words else []
    assert main([*words, str(path), *folder]) in (1, 2)
    assert f"{command}` makes partitions of it" in capsys.readouterr().err


def test_partitions_that_are_there_are_kept_unless_all_is_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "parts"
    assert convert(write_npz(tmp_path / "a", columns()), folder) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    assert convert(write_npz(tmp_path / "a", columns()), folder) == 2
    assert "--overwrite" in capsys.readouterr().err
    twice = columns() | {"object_id": np.repeat("a", COUNT)}
    assert convert(write_npz(tmp_path / "b", twice), folder, "--overwrite") == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# -- hostile files -------------------------------------------------------------------------------


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return open, (str(self.path), "w")


def test_pickled_objects_in_npz_are_never_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    objects = np.empty(COUNT, object)
    objects[:] = [Touch(canary)] * COUNT
    path = write_npz(tmp_path / "a", columns() | {"evil": objects, "object_id": objects})
    assert canary.exists() is False

    assert "no array 'evil'" in refusal(capsys, tmp_path / "parts", path, "--keep", "evil")
    assert convert(path, tmp_path / "parts") == 0  # without what cannot be read
    assert carried(tmp_path / "parts", "object_id") == list(range(COUNT))
    assert not canary.exists()


@pytest.mark.parametrize("place", ["filters", "compressor", "in the archive", "fill value"])
def test_pickled_objects_in_zarr_are_never_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    import base64

    canary = tmp_path / "canary"
    store = write_zarr(tmp_path / "a", columns(), 2)
    described = store / "object_id" / ".zarray"
    metadata = json.loads(described.read_text())
    codec = {"id": "pickle", "protocol": 5}
    if place == "compressor":
        metadata["compressor"] = codec
    else:
        metadata |= {"filters": [codec], "compressor": None}
    payload = pickle.dumps(Touch(canary))
    if place == "fill value":
        metadata["fill_value"] = base64.b64encode(payload).decode()
    described.write_text(json.dumps(metadata))
    (store / "object_id" / "0").write_bytes(payload)
    path = store
    if place == "in the archive":
        path = tmp_path / "b.zarr.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for each in sorted(store.rglob("*")):
                if each.is_file():
                    archive.write(each, str(each.relative_to(store)))

    assert "expected, found pickle" in refusal(capsys, tmp_path / "parts", path)
    assert not canary.exists()


@pytest.mark.parametrize("way", ["external storage", "virtual", "external link", "soft link"])
def test_hdf5_reads_no_other_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    secret = tmp_path / "secret"
    values = columns()
    secret.write_bytes(values["image_array"].tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["image_array"] = values["image_array"]
    path = write_hdf5(tmp_path / "a", {n: v for n, v in values.items() if n != "image_array"})
    shape = values["image_array"].shape
    with h5py.File(path, "a") as file:
        if way == "external storage":
            file.create_dataset(
                "image_array", shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
            )
        elif way == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "image_array", shape)
            file.create_virtual_dataset("image_array", layout)
        elif way == "external link":
            file["image_array"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "image_array")
        else:
            file["image_array"] = h5py.SoftLink("/nowhere")

    message = refusal(capsys, tmp_path / "parts", path)

    assert "values are in other files" in message or "no array of images was found" in message


@pytest.mark.parametrize("linked", [("0", "image"), ("2", "image"), ("2", "mag")])
def test_hdf5_follows_no_link_inside_a_galaxys_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], linked: tuple[str, str]
) -> None:
    members = {"image": np.ones((3, 12, 12), np.float32), "mag": np.ones(3, np.float32)}
    with h5py.File(tmp_path / "other.h5", "w") as other:
        for name, values in members.items():
            other[name] = values
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for galaxy in "012":
            for name, values in members.items():
                link = h5py.ExternalLink(str(tmp_path / "other.h5"), name)
                file[f"{galaxy}/{name}"] = link if (galaxy, name) == linked else values

    message = refusal(capsys, tmp_path / "parts", path, "--bands", "g,r,z")

    assert "expected in this file" in message or "several arrays may be" in message


@pytest.mark.parametrize("what", ["chunk", "array"])
def test_zarr_follows_no_link_out_of_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    path, other = (write_zarr(tmp_path / name, columns(), 2) for name in "ab")
    array = path / "image_array"
    chunk = array / "0.0.0.0"
    linked = chunk if what == "chunk" else array
    elsewhere = other / linked.relative_to(path)
    assert elsewhere.exists()
    linked.rename(path / "kept")
    linked.symlink_to(elsewhere)

    assert "found a link to elsewhere" in refusal(capsys, tmp_path / "parts", path)

    linked.unlink()
    linked.symlink_to(path / "kept")
    assert convert(path, tmp_path / "parts", "--image", "image_array") == 0


@pytest.mark.parametrize("chunk", [(23, 1, 4, 4), (5, 3, 12, 12), (8, 2, 3, 12), (40, 3, 5, 7)])
@pytest.mark.parametrize("block", [4000, 20_000, 10**6])
def test_chunks_of_any_shape_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, ...], block: int
) -> None:
    """One across many galaxies, as h5py guesses them, need not fit a block."""
    image = columns()["image_array"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"maxshape": (None, 3, 12, 12), "compression": "gzip"}
        file.create_dataset("image", data=image, chunks=chunk, **options)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("image", data=image, chunks=chunk)
    monkeypatch.setattr("cosmicai_workbench.data.arrays.files.MAX_BLOCK_BYTES", block)
    monkeypatch.setattr("cosmicai_workbench.data.arrays.layout.BLOCK_BYTES", 4000)

    for name in ("a.h5", "a.zarr"):
        folder = tmp_path / f"{name} parts"
        assert convert(tmp_path / name, folder, "--bands", "g,r,z") == 0
        np.testing.assert_array_equal(by_torch(folder)[0], image)


@pytest.mark.parametrize(
    "shape", [(-3, 3, 8, 8), (3, -3, 8, 8), (2**62, 3, 8, 8), (3, 3, 8, 2**60)]
)
def test_an_npz_with_an_impossible_shape_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...]
) -> None:
    path = write_npz(tmp_path / "a", columns())
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode().ljust(117)
    members["image_array.npy"] = b"\x93NUMPY\x01\x00\x76\x00" + header + b"\n" + bytes(1000)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    assert "a.npz" in refusal(capsys, tmp_path / "parts", path)


def test_chunks_too_large_to_hold_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (20_000, 1, 64, 64), "f4", chunks=(20_000, 1, 64, 64))

    message = refusal(capsys, tmp_path / "parts", tmp_path / "a.h5", "--bands", "r")

    assert "chunks of at most 256 MB expected, found 312 MB (20000, 1, 64, 64)" in message


def test_a_file_that_claims_more_than_fits_the_disk_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("image", shape=(10**12, 5, 64, 64), chunks=(10, 5, 64, 64), dtype="f4")

    message = refusal(capsys, tmp_path / "parts", tmp_path / "a.zarr", "--bands", "u,g,r,i,z")

    assert "MB are free" in message


def deflated(megabytes: int, bits: int) -> bytes:
    """Return a zlib (15) or gzip (31) stream of zeros: a thousandth of what it unpacks to."""
    packer = zlib.compressobj(1, zlib.DEFLATED, bits)
    block = bytes(2**24)
    first, again = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * (megabytes // 16 - 1) + packer.flush()


def bomb(folder: Path, form: str) -> Path:
    """Write a small file, one chunk or text of which unpacks to a gigabyte."""
    values = columns()
    if form == "hdf5":
        path = write_hdf5(folder / "a", values, chunks=True, compression="gzip")
        with h5py.File(path, "a") as file:
            file["image_array"].id.write_direct_chunk((0, 0, 0, 0), deflated(1024, 15))
    elif form == "parquet":
        import pyarrow.parquet as pq

        table = pq.read_table(write_parquet(folder / "a", values))
        names = pa.DictionaryArray.from_arrays(np.zeros(COUNT, np.int32), ["x" * 48 * 2**20])
        at = table.schema.get_field_index("object_id")
        path = folder / "a.parquet"
        pq.write_table(
            table.set_column(at, "object_id", names), path, compression="zstd", store_schema=False
        )
    else:
        zarr_format = int(form[-1])
        path = folder / "a.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
        codec = zarr.codecs.GzipCodec() if zarr_format == 3 else {"id": "zlib", "level": 1}
        for name, value in values.items():
            if value.dtype.kind != "U":
                options = {"compressors": codec} if name == "image_array" else {}
                group.create_array(name, data=value, **options)
        (chunk,) = (each for each in (path / "image_array").rglob("*0*") if each.is_file())
        chunk.write_bytes(deflated(1024, 31 if zarr_format == 3 else 15))
    assert sum(each.stat().st_size for each in (path, *path.rglob("*"))) < 16 * 2**20
    return path


BOUNDED = """
import pathlib, re, resource, sys
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.arrays import files
files.MAX_MEMORY_BYTES = 512 * 2**20
before = resource.getrlimit(resource.RLIMIT_DATA)
code = main(sys.argv[1:])
assert resource.getrlimit(resource.RLIMIT_DATA) == before
peak = re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
print(code, int(peak[1]) // 1024)
"""


@pytest.mark.parametrize("form", ["zarr2", "zarr3", "hdf5", "parquet"])
def test_what_unpacks_to_more_than_is_declared_is_bounded(tmp_path: Path, form: str) -> None:
    words = [
        "data",
        "convert",
        bomb(tmp_path, form),
        tmp_path / "parts",
        "--bands",
        ",".join(BANDS),
    ]
    run = subprocess.run(
        [sys.executable, "-c", BOUNDED, *map(str, words)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    code, peak = map(int, run.stdout.split()[-2:])
    assert code == 2
    assert peak < 900
    assert f"{tmp_path / 'a'}." in run.stderr
    # HDF5 does not tell why a filter failed.
    assert "that a conversion may" in run.stderr or "filter returned failure" in run.stderr
    assert not [*tmp_path.glob("parts*")]
