"""Images and catalogues as telescopes, archives and other programs write them."""

import bz2
import gzip
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from cosmicai.errors import InvalidInput
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.cli.main import main
from cosmicai_workbench.data.fits.fields import find_fields, read_band
from cosmicai_workbench.data.fits.objects import Objects, read_objects

BANDS = "ugriz"
SIZE = 64


def pixels() -> np.ndarray:
    y, x = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    return np.exp(-(x**2 + y**2) / 8).astype(np.float32)


def header(**cards: Any) -> fits.Header:
    found = fits.Header()
    values = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0,
        "CRPIX1": (SIZE + 1) / 2, "CRPIX2": (SIZE + 1) / 2, "CUNIT1": "deg", "CUNIT2": "deg",
        "CDELT1": -0.396 / 3600, "CDELT2": 0.396 / 3600, "BUNIT": "nanomaggy",
    }  # fmt: skip
    for name, value in (values | cards).items():
        if value is not None:
            found[name] = value
    return found


def image(**cards: Any) -> fits.PrimaryHDU:
    return fits.PrimaryHDU(pixels(), header(**cards))


def field(folder: Path, name: str, hdu: Any = None, pack: Callable[[bytes], bytes] = bytes) -> Path:
    """Write the five files of a field; ``{}`` in the name is the band."""
    folder.mkdir(exist_ok=True)
    for band in BANDS:
        path = folder / name.format(band)
        (hdu or image()).writeto(path, overwrite=True)
        path.write_bytes(pack(path.read_bytes()))
    return folder


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "sdss{}_cut.fits",
        "cutout_150.0000_2.0000_{}.fits",
        "rings.v3.skycell.1405.053.stk.{}.unconv.fits",
        "DECam{}.fits",
        "gri_{}.fits",
        "obj_{}.FIT",
        "obj_{}.fts",
    ],
)
def test_fields_are_found_by_what_differs_in_their_names(tmp_path: Path, name: str) -> None:
    (found,) = find_fields([field(tmp_path / "f", name)])
    assert [path.name for path in found.paths] == [name.format(band) for band in BANDS]


def test_positions_in_names_part_fields(tmp_path: Path) -> None:
    field(tmp_path / "f", "cutout_150.0000_2.0000_{}.fits")
    field(tmp_path / "f", "cutout_151.0000_2.0000_{}.fits")
    assert len(find_fields([tmp_path / "f"])) == 2


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = field(tmp_path / "f", "obj_{}.fits")
    for other in ("._obj_{}.fits", "obj_{}.weight.fits", "mask_{}.fits", "obj_{}_ivar.fits"):
        field(folder, other, pack=lambda _: b"\0\5\x16\7")
    (folder / "psField-002583-2-0136.fits").write_bytes(b"")
    (found,) = find_fields([folder])
    assert [path.name for path in found.paths] == [f"obj_{band}.fits" for band in BANDS]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["sdssr_cut.fits"], "1 FITS files in .*sdssr_cut.fits.*differ only in the band"),
        (["notes.txt"], "no FITS files"),
        (["obj_r.fits", "obj_g.fits"], r"none found in u, i, z"),
        ([f"obj_{b}.fits" for b in BANDS] + ["obj_r.fits.bz2"], "both the r band"),
        ([f"{a}_{b}.fits" for a in BANDS for b in BANDS], "belongs to both"),
    ],
)
def test_names_that_tell_no_field_are_explained(
    tmp_path: Path, names: list[str], said: str
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidInput, match=said):
        find_fields([tmp_path])


# -- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("OBJ_{}.FITS.BZ2", bz2.compress),
        ("OBJ_{}.FITS.GZ", gzip.compress),
        ("obj_{}.fits.gz", bytes),
        ("obj_{}.fits.bz2", bytes),
    ],
)
def test_compression_shows_in_the_content(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    path = field(tmp_path / "f", name, pack=pack) / name.format("r")
    (found,) = find_fields([tmp_path / "f"])
    np.testing.assert_array_equal(read_band(path).pixels, pixels())
    assert found.paths[2] == path


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_2"])
def test_tile_compressed_images_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "obj_r.fits.fz"
    compressed = fits.CompImageHDU(pixels(), header(), compression_type=kind)
    fits.HDUList([fits.PrimaryHDU(), compressed]).writeto(path)
    np.testing.assert_allclose(read_band(path).pixels, pixels(), atol=0.01)


@pytest.mark.parametrize("name", ["MASK", "DQ", "WEIGHT", "ERR", "VAR_1"])
def test_masks_and_weights_are_not_taken_for_the_image(tmp_path: Path, name: str) -> None:
    path = tmp_path / "obj_r.fits"
    other = fits.ImageHDU(np.ones((SIZE, SIZE), np.int16), header(), name=name)
    sky = fits.ImageHDU(pixels(), header(), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), other, sky]).writeto(path)
    np.testing.assert_array_equal(read_band(path).pixels, pixels())


def test_a_primary_header_may_describe_the_pixels_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "obj_r.fits"
    fits.HDUList([fits.PrimaryHDU(None, header()), fits.ImageHDU(pixels())]).writeto(path)
    assert read_band(path).pixel_scale == pytest.approx(0.396)


@pytest.mark.parametrize(
    ("cards", "said"),
    [
        ({"CTYPE1": None}, "found no CTYPE1"),
        ({"CTYPE1": None, "CTYPE2": None}, "no CTYPE1 and no CTYPE2"),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, "CTYPE1 'LINEAR'"),
        ({"CDELT1": None, "CDELT2": None}, "pixel scale expected"),
        ({"CDELT1": 0.0, "CDELT2": 0.0}, "coordinates|pixel scale above 0"),
        ({"BUNIT": "mag"}, "magnitudes do not add up"),
        ({"BUNIT": "mag(AB)"}, "magnitudes do not add up"),
        ({"BUNIT": "dex"}, "do not add up"),
        ({"BUNIT": "MJy/sr"}, "a unit of flux expected"),
        ({"BUNIT": "ADU"}, "--zero-point"),
        ({"BUNIT": None}, "'none'"),
    ],
)
def test_headers_that_do_not_say_enough_are_explained(
    tmp_path: Path, cards: dict[str, Any], said: str
) -> None:
    path = tmp_path / "obj_r.fits"
    image(**cards).writeto(path)
    with pytest.raises(InvalidInput, match=said):
        read_band(path)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("nanomaggies", 1), ("nanomaggy/pixel", 1), ("JY", 1e9 / 3631), ("3.631e-06 Jy", 1)],
)
def test_units_of_flux_however_they_are_written(tmp_path: Path, unit: str, factor: float) -> None:
    path = tmp_path / "obj_r.fits"
    image(BUNIT=unit).writeto(path)
    np.testing.assert_allclose(read_band(path).pixels, pixels() * factor, rtol=1e-5)


# -- catalogues ----------------------------------------------------------------------------------


def text(folder: Path, content: str | bytes) -> Path:
    path = folder / "objects.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(folder: Path, columns: dict[str, Any], name: str = "objects.fits") -> Path:
    path = folder / name
    forms = {"ecsv": "ascii.ecsv", "vot": "votable"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Table(columns).write(path, format=forms.get(name.rpartition(".")[2], "fits"))
    return path


def ids(objects: Objects) -> tuple[str, list[Any]]:
    column = objects.catalogue.columns["object_id"]
    return column.info.dtype, column.plain()


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffobjid,ra,dec\n7,150.0,2.0\n",
        "#Table1\nobjid,ra,dec\n7,150.0,2.0\n",
        "# mine\n# ra, dec in deg\n\nobjid,ra,dec\r\n7,150.0,2.0\r\n",
        '"objid" , "ra","dec"\n"7","150.0","2.0"\n',
        " OBJID , RA , Dec \n 7, 150.0 , 2.0\n",
    ],
)
def test_csv_as_programs_write_it(tmp_path: Path, content: str) -> None:
    objects = read_objects(text(tmp_path, content))
    assert ids(objects) == ("int64", [7])
    assert (objects.ra.tolist(), objects.dec.tolist()) == ([150.0], [2.0])


@pytest.mark.parametrize("word", ["null", "NULL", "", "NaN", "--", "N/A"])
def test_words_for_no_value(tmp_path: Path, word: str) -> None:
    rows = f"objid,ra,dec,z\n1,150,2,0.1\n2,150,2,{word}\n3,{word},2,0.3\n"
    objects = read_objects(text(tmp_path, rows))
    np.testing.assert_allclose(objects.redshift, [0.1, np.nan, 0.3], equal_nan=True)
    np.testing.assert_allclose(objects.ra, [150, 150, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("cells", "dtype", "expected"),
    [
        (["000123", "000124"], "str", ["000123", "000124"]),
        (["1_000", "1_001"], "str", ["1_000", "1_001"]),
        (["1e5", "2e5"], "str", ["1e5", "2e5"]),
        (["1.23457E+11", "7"], "str", ["1.23457E+11", "7"]),
        (["+7", "-7", ""], "str", ["+7", "-7", None]),
        (["1.5", "2"], "str", ["1.5", "2"]),
        (["7.0", "8.0"], "int64", [7, 8]),
        (["1237648720693755918", "-5"], "int64", [1237648720693755918, -5]),
        (["10447232093863055360", "1"], "uint64", [10447232093863055360, 1]),
        (["NGC 1234 β", "null"], "str", ["NGC 1234 β", None]),
        (["7", ""], "int64", [7, None]),
        (["", ""], "int64", [None, None]),
    ],
)
def test_identifiers_keep_their_type(
    tmp_path: Path, cells: list[str], dtype: str, expected: list[Any]
) -> None:
    rows = "".join(f"{cell},150,2\n" for cell in cells)
    assert ids(read_objects(text(tmp_path, f"objid,ra,dec\n{rows}"))) == (dtype, expected)


def test_identifiers_of_fits_tables_keep_their_type(tmp_path: Path) -> None:
    masked = MaskedColumn([1, 2], mask=[False, True])
    place = {"ra": [150.0, 150.1], "dec": [2.0, 2.0]}
    assert ids(read_objects(table(tmp_path, {"objid": masked, **place}))) == ("int64", [1, None])
    large = np.array([10447232093863055360, 1], np.uint64)
    path = table(tmp_path, {"objid": large, **place}, "objects.v2.fits")
    assert ids(read_objects(path)) == ("uint64", large.tolist())
    path = table(tmp_path, {"objid": [b"SDSS J1  ", b"000"], **place}, "bytes.fits")
    assert ids(read_objects(path)) == ("str", ["SDSS J1", "000"])
    path = table(tmp_path, {"objid": [7.0, 8.0], **place}, "floats.fits")
    assert ids(read_objects(path)) == ("int64", [7, 8])


def test_rounded_identifiers_are_refused(tmp_path: Path) -> None:
    rows = "objid,ra,dec\n1.23764872069375E+18,150,2\n1.5E+18,150,2\n"
    with pytest.raises(InvalidInput, match="cannot tell such long names apart"):
        read_objects(text(tmp_path, rows))


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        (10.0 * units.hourangle, 2.0 * units.deg),
        (np.radians(150.0) * units.rad, np.radians(2.0) * units.rad),
        (9000 * units.arcmin, 7200 * units.arcsec),
    ],
)
def test_units_of_positions_are_obeyed(tmp_path: Path, ra: Any, dec: Any) -> None:
    columns = {"ra": np.array([ra.value]) * ra.unit, "dec": np.array([dec.value]) * dec.unit}
    names = ["objects.ecsv", "objects.vot", "objects.fits"]
    for name in names[: 1 if ra.unit == units.hourangle else None]:  # others cannot hold hours
        objects = read_objects(table(tmp_path, columns, name))
        np.testing.assert_allclose((objects.ra[0], objects.dec[0]), (150, 2), rtol=1e-12)


@pytest.mark.parametrize("unit", ["h", "hr", "hourangle", "hms"])
def test_hours_in_fits_tables_are_obeyed(tmp_path: Path, unit: str) -> None:
    path = table(tmp_path, {"ra": [10.0], "dec": [2.0]})
    fits.setval(path, "TUNIT1", value=unit, ext=1)
    assert read_objects(path).ra.tolist() == [150.0]


@pytest.mark.parametrize("unit", ["pix", "Jy", "furlongs"])
def test_units_of_no_angle_are_refused(tmp_path: Path, unit: str) -> None:
    path = table(tmp_path, {"ra": [10.0], "dec": [2.0]})
    fits.setval(path, "TUNIT1", value=unit, ext=1)
    with pytest.raises(InvalidInput, match="column ra: a unit of angle expected"):
        read_objects(path)


@pytest.mark.parametrize(
    ("ra", "dec"),
    [
        ("10:00:00.0", "+02:00:00.0"),
        ("10h00m00.0s", "+02d00m00.0s"),
        ("10 00 00", "02 00 00"),
        ("150d", "2d"),
    ],
)
def test_sexagesimal_positions_are_read(tmp_path: Path, ra: str, dec: str) -> None:
    objects = read_objects(text(tmp_path, f"ra,dec\n{ra},{dec}\n,\n"))
    np.testing.assert_allclose(objects.ra, [150, np.nan], equal_nan=True)
    np.testing.assert_allclose(objects.dec, [2, np.nan], equal_nan=True)


@pytest.mark.parametrize("cells", [["10:00:00", "150.0"], ["north", "1"], ["25:61:00", "1:0:0"]])
def test_positions_that_mean_nothing_are_named(tmp_path: Path, cells: list[str]) -> None:
    rows = "".join(f"{cell},2\n" for cell in cells)
    with pytest.raises(InvalidInput, match="column ra is not numbers"):
        read_objects(text(tmp_path, f"ra,dec\n{rows}"))


def test_stokes_parameters_are_no_magnitudes(tmp_path: Path) -> None:
    columns = {"OBJID": [b"1237"], "RA": [150.0], "DEC": [2.0]}
    vectors = {"Q": np.zeros((1, 5), "f4"), "U": np.zeros((1, 5), "f4")}
    assert read_objects(table(tmp_path, columns | vectors)).magnitude is None
    scalars = {"Q": [0.0], "U": [0.1], "z": [0.2]}
    objects = read_objects(table(tmp_path, columns | scalars, "scalars.fits"))
    assert objects.magnitude is None
    assert objects.redshift.tolist() == [0.2]


def test_columns_of_one_element_and_of_five(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        {
            "ra": np.array([[150.0]]),
            "dec": np.array([[2.0]]),
            "z": np.array([[0.1]]),
            "dered": np.array([[20.0, 19, 18, 17.5, -9999]]),
        },
    )
    objects = read_objects(path)
    assert objects.redshift.tolist() == [0.1]
    assert objects.magnitude is not None
    np.testing.assert_allclose(objects.magnitude, [[20, 19, 18, 17.5, np.nan]], equal_nan=True)


@pytest.mark.parametrize("name", ["objects.v2.fits", "J_A+A_399_141.1.dat", "o.ecsv", "o.vot"])
def test_the_content_says_the_format(tmp_path: Path, name: str) -> None:
    form = {"ecsv": "ascii.ecsv", "vot": "votable"}.get(name.rpartition(".")[2], "fits")
    path = tmp_path / name
    Table({"objid": [7], "ra": [150.0], "dec": [2.0]}).write(path, format=form)
    assert ids(read_objects(path)) == ("int64", [7])
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert ids(read_objects(packed)) == ("int64", [7])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfera,dec\n", "CSV in UTF-8"),
        ("ra,dec\n150,2\n150\n", "row 2 has 1 values, and the header 2"),
        ("ra,dec,ra\n150,2,3\n", "different names"),
        ("ra,dec,RA\n150,2,3\n", "one column ra expected"),
        ("", "at least one object"),
        (b"SIMPLE  =", "cannot be read|at least one"),
        (b"\x1f\x8bbroken", "cannot be read"),
    ],
)
def test_tables_that_cannot_be_read_are_named(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_objects(text(tmp_path, content))


def test_chosen_columns_reach_the_partitions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = field(tmp_path / "f", "obj_{}.fits")
    rows = "objid,ra,dec,mass,Class\n007,150,2,1.5,E\n008,20,2,,S\n"
    source, parts = text(tmp_path, rows), tmp_path / "parts"
    command = ["data", "from-fits", str(folder), str(source), str(parts)]
    assert main([*command, "--keep", "mass", "--keep", "class"]) == 0
    with open_partition(parts / "1.pt", batch_size=1) as reader:
        catalogue, rejected = reader.catalogue(), reader.rejected()
    assert catalogue is not None
    assert rejected is not None
    assert {name: c.plain() for name, c in catalogue.columns.items()} == {
        "object_id": ["007"], "ra": [150.0], "dec": [2.0], "mass": [1.5], "Class": ["E"],
    }  # fmt: skip
    assert {name: c.plain() for name, c in rejected.columns.items()} == {
        "object_id": ["008"], "ra": [20.0], "dec": [2.0], "mass": [None], "Class": ["S"],
        "rejected_because": ["off every image"],
    }  # fmt: skip
    assert main([*command, "--keep", "radius", "--overwrite"]) == 2
    assert "column 'radius' to keep expected" in capsys.readouterr().err


def test_three_commands_from_a_table_to_a_catalogue_that_joins_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    field(tmp_path / "frames", "obj_{}.fits")
    rows = ["objid,ra,dec,mass,survey", "1237648720693755918,150,2,1.5,A", "12,20,2,,B"]
    text(tmp_path, "\n".join([*rows, ""]))
    model = Path(__file__).parents[2] / "models" / "astromae-small"
    keep = ["--keep", "mass", "--keep", "survey"]
    assert main(["data", "from-fits", "frames", "objects.csv", "partitions", *keep]) == 0
    assert main(["predict", "partitions", "--model", str(model), "-o", "runs/mine"]) == 0
    assert main(["results", "export", "runs/mine", "--to", "fits", "-o", "mine.fits"]) == 0

    found = Table.read("mine.fits")
    assert found["object_id"].tolist() == [1237648720693755918, 12]
    assert found["ra"].tolist() == [150.0, 20.0]
    assert str(found["ra"].unit) == "deg"
    assert [str(text) for text in found["reason"].filled("")] == ["", "off every image"]
    assert found["flags"].tolist()[1] == 1  # no prediction
    assert np.isfinite(found["redshift"][0])
    assert found["z_lo68"][0] < found["redshift"][0] < found["z_hi68"][0]
    back = pd.read_csv("objects.csv").merge(
        Table.read("mine.fits").to_pandas(), left_on="objid", right_on="object_id", how="left"
    )
    assert back["flags"].notna().all()
    assert back["ra_y"].tolist() == [150.0, 20.0]
    assert main(["results", "export", "runs/mine", "--to", "parquet", "-o", "mine.parquet"]) == 0
    mine = pd.read_csv("objects.csv")
    joined = mine.merge(
        pd.read_parquet("mine.parquet"), left_on="objid", right_on="object_id", how="left"
    )
    assert joined["mass_x"].equals(joined["mass_y"])
    assert joined["survey_y"].tolist() == ["A", "B"]
    assert joined["ra_y"].tolist() == [150.0, 20.0]


def test_the_readmes_lines_for_ones_own_galaxies_run_as_typed(tmp_path: Path) -> None:
    """In a shell, in the environment of `make setup`."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    lines = readme.partition("## Your own galaxies")[2].partition("```sh\n")[2].partition("```")[0]
    field(tmp_path / "frames", "obj_{}.fits")
    text(tmp_path, "objid,ra,dec\n1237648720693755918,150,2\n12,20,2\n")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["bash", "-e", "-c", lines],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/latest/catalogue.fits").is_file()
    assert (tmp_path / "runs/latest/report.html").is_file()
    assert len((tmp_path / "redshifts.csv").read_text().splitlines()) == 3
