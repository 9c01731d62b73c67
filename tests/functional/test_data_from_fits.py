"""From images and a catalogue to partitions, through the command line."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from cosmicai.partition.reader import open_partition
from cosmicai_workbench.cli.main import main

SHARED = Path(__file__).parents[3] / "shared" / "data" / "sdss_frame"
BANDS = ("u", "g", "r", "i", "z")


def wcs_at(ra: float) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, 2.0]
    wcs.wcs.crpix = [50.5, 50.5]
    wcs.wcs.cdelt = [-0.396 / 3600, 0.396 / 3600]
    return wcs


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Two fields, 150.00 and 150.01 in RA; a source of 100 nanomaggies at the middle of each."""
    folder = tmp_path / "frames"
    folder.mkdir()
    y, x = np.mgrid[0:100, 0:100] - 49.5
    for number, ra in enumerate((150.0, 150.01), start=1):
        for band in BANDS:
            pixels = 100 / (2 * np.pi * 4) * np.exp(-(x**2 + y**2) / 8)
            if number == 2 and band == "i":
                pixels[80, 80] = np.nan
            header = wcs_at(ra).to_header()
            header["BUNIT"] = "nanomaggy"
            fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(
                folder / f"frame-{band}-00000{number}.fits"
            )
    return folder


def catalogue(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def place(field_ra: float, x: float, y: float) -> tuple[float, float]:
    ra, dec = wcs_at(field_ra).all_pix2world(x, y, 0)
    return float(ra), float(dec)


def carried(path: Path) -> dict[str, list[object]]:
    with open_partition(path, batch_size=1) as reader:
        catalogue = reader.catalogue()
    assert catalogue is not None
    return {name: column.plain() for name, column in catalogue.columns.items()}


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with open_partition(path, batch_size=100) as reader:
        batches = [*reader]
    return (
        np.concatenate([batch.image for batch in batches]),
        np.concatenate([batch.magnitude for batch in batches]),
        np.concatenate([batch.redshift for batch in batches]),
    )


def test_objects_become_partitions_and_the_rest_is_accounted_for(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge, masked = place(150.0, 95, 50), place(150.01, 78, 78)
    rows: list[dict[str, object]] = [
        {"Name": "far", "RA": 20.0, "Dec": -40.0, "z": 0.1},
        {"Name": "first", "RA": 150.0, "Dec": 2.0, "z": 0.12},
        {"Name": "edge", "RA": edge[0], "Dec": edge[1], "z": 0.1},
        {"Name": "second", "RA": 150.01, "Dec": 2.0, "z": -9999},
        {"Name": "masked", "RA": masked[0], "Dec": masked[1], "z": 0.1},
        {"Name": "lost", "RA": "", "Dec": 2.0, "z": 0.1},
    ]
    source, folder = catalogue(tmp_path / "objects.csv", rows), tmp_path / "parts"
    command = ["data", "from-fits", str(frames), str(source), str(folder), "--json"]
    assert main([*command, "--size", "0.03"]) == 0  # one galaxy a partition
    report = json.loads(capsys.readouterr().out)
    assert report["galaxies"] == 2
    assert report["fields"] == 2
    assert report["rejected"] == {
        "off every image": 1,
        "too near an image's edge": 1,
        "masked pixels": 1,
        "no position": 1,
    }
    with (folder / "rejects.csv").open() as file:
        rejects = {row["object_id"]: row for row in csv.DictReader(file)}
    assert set(rejects) == {"far", "edge", "masked", "lost"}
    assert "frame-i-000002" in rejects["masked"]["detail"]

    for number, name in ((1, "first"), (2, "second")):
        assert carried(folder / f"{number}.pt")["object_id"] == [name]
        image, magnitude, redshift = read(folder / f"{number}.pt")
        assert image.shape == (1, 5, 32, 32)
        inside = 100 * (1 - np.exp(-((3.0 / 0.396) ** 2) / 8))
        np.testing.assert_allclose(magnitude, 22.5 - 2.5 * np.log10(inside), atol=0.005)
        assert redshift[0] == pytest.approx(0.12) if number == 1 else np.isnan(redshift[0])


def test_fits_table_with_magnitudes_is_taken_as_it_is(frames: Path, tmp_path: Path) -> None:
    table = Table({"ra": [150.0, 150.01], "dec": [2.0, 2.0], "redshift": [0.1, 0.2]})
    for number, band in enumerate(BANDS):
        table[f"mag_{band}"] = [17.0 + number, -9999.0 if band == "u" else 18.0]
    source, folder = tmp_path / "objects.fits", tmp_path / "parts"
    table.write(source)
    assert main(["data", "from-fits", str(frames), str(source), str(folder)]) == 0
    _, magnitude, redshift = read(folder / "1.pt")
    np.testing.assert_allclose(magnitude, [[17, 18, 19, 20, 21]])
    np.testing.assert_allclose(redshift, [0.1])
    assert "no magnitude" in (folder / "rejects.csv").read_text()


def test_extinction_is_subtracted_from_measured_magnitudes(frames: Path, tmp_path: Path) -> None:
    row: dict[str, object] = {"ra": 150.0, "dec": 2.0}
    plain = catalogue(tmp_path / "plain.csv", [row])
    dust: dict[str, object] = {f"extinction_{band}": 0.25 for band in BANDS}
    unknown = {"ra": 150.01, "dec": 2.0} | dust | {"extinction_z": ""}
    dusty = catalogue(tmp_path / "dusty.csv", [row | dust, unknown])
    for source in (plain, dusty):
        assert (
            main(["data", "from-fits", str(frames), str(source), str(source.with_suffix(""))]) == 0
        )
    np.testing.assert_allclose(
        read(tmp_path / "plain" / "1.pt")[1] - read(tmp_path / "dusty" / "1.pt")[1], 0.25, atol=1e-5
    )
    assert "no extinction" in (tmp_path / "dusty" / "rejects.csv").read_text()


@pytest.mark.parametrize(
    ("header", "row", "reason"),
    [
        ("name,x,y", "a,1,2", "columns ra and dec"),
        ("ra,dec", "", "at least one object"),
        ("ra,dec", "north,2", "not numbers"),
        ("ra,dec,mag_u,mag_g", "150,2,17,18", "mag_r"),
        ("ra,dec,id", "150,2,a\n150,2,b\n150,2,a", "found 'a' twice; names repeated: 1"),
    ],
)
def test_bad_catalogues_are_named(
    frames: Path,
    tmp_path: Path,
    header: str,
    row: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "objects.csv"
    source.write_text(f"{header}\n{row}\n")
    assert main(["data", "from-fits", str(frames), str(source), str(tmp_path / "parts")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


def test_a_catalogue_with_u_g_r_i_z_has_magnitudes_and_no_redshift(
    frames: Path, tmp_path: Path
) -> None:
    row: dict[str, object] = {"ra": 150.0, "dec": 2.0, "u": 19, "g": 18, "r": 17, "i": 16, "z": 15}
    source = catalogue(tmp_path / "objects.csv", [row])
    assert main(["data", "from-fits", str(frames), str(source), str(tmp_path / "parts")]) == 0
    _, magnitude, redshift = read(tmp_path / "parts" / "1.pt")
    np.testing.assert_allclose(magnitude, [[19, 18, 17, 16, 15]])
    assert np.isnan(redshift[0])


def test_no_object_on_the_images_is_an_error_that_says_why(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = catalogue(tmp_path / "objects.csv", [{"ra": 20.0, "dec": -40.0}])
    assert main(["data", "from-fits", str(frames), str(source), str(tmp_path / "parts")]) == 2
    assert "1 off every image" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


def test_a_damaged_field_leaves_the_folder_as_it_was(
    frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [{"ra": 150.0, "dec": 2.0}, {"ra": 150.01, "dec": 2.0}]
    source, folder = catalogue(tmp_path / "objects.csv", rows), tmp_path / "parts"
    command = ["data", "from-fits", str(frames), str(source), str(folder), "--size", "0.03"]
    assert main(command) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {
        "1.pt", "1.catalogue.csv", "2.pt", "2.catalogue.csv", "rejects.csv", "from-fits.json"
    }  # fmt: skip
    capsys.readouterr()
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "already holds 2 partitions, such as 1.pt;" in told
    assert "--overwrite" in told
    damaged = frames / "frame-g-000002.fits"
    damaged.write_bytes(damaged.read_bytes()[:20000])
    assert main([*command, "--overwrite"]) == 2
    assert "frame-g-000002" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not [*tmp_path.glob(".parts*")]


@pytest.mark.parametrize(
    "options", [["--aperture", "9"], ["--aperture", "-1"], ["--registration", "bilinear"]]
)
def test_bad_options_are_named(
    frames: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = catalogue(tmp_path / "objects.csv", [{"ra": 150.0, "dec": 2.0}])
    command = ["data", "from-fits", str(frames), str(source), str(tmp_path / "parts"), *options]
    assert main(command) == 2
    assert options[0].lstrip("-") in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.shared
def test_real_sdss_sources_match_an_independent_cut(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is absent")
    with np.load(SHARED / "real_cutouts_2583.npz") as archive:
        expected, meta = archive["images"], archive["meta"]
    rows: list[dict[str, object]] = [
        {"object_id": f"source{number}", "ra": ra, "dec": dec}
        for number, (ra, dec, *_) in enumerate(meta)
    ]
    source = catalogue(tmp_path / "objects.csv", rows)
    cuts = {}
    for registration in ("nearest", "subpixel"):
        folder = tmp_path / registration
        command = ["data", "from-fits", str(SHARED), str(source), str(folder)]
        assert main([*command, "--registration", registration, "--aperture", "2.772"]) == 0
        cuts[registration], magnitude, _ = read(folder / "1.pt")
        assert carried(folder / "1.pt")["object_id"] == [row["object_id"] for row in rows]
    # Theirs are 64 pixels wide about round(x), ours 32 about the nearest centre: a pixel apart.
    for number, wide in enumerate(expected):
        for band in range(5):
            found = [
                np.array_equal(
                    wide[band, 16 + dy : 48 + dy, 16 + dx : 48 + dx], cuts["nearest"][number, band]
                )
                for dy in (0, 1)
                for dx in (0, 1)
            ]
            assert sum(found) == 1, (number, band)
    np.testing.assert_array_equal(cuts["nearest"][:, 2], cuts["subpixel"][:, 2])
    # meta: r in an aperture of 7 pixels (2.772 arcsec), centred on a whole pixel.
    np.testing.assert_allclose(magnitude[:, 2], meta[:, 2], atol=0.05)
    # Registered bands line up: the lone galaxies lie in g and i where they do in r. (0 and 1 are
    # saturated stars; 4 and 8 are blends of two colours.)
    lone = (2, 3, 5, 6, 7, 9, 10)
    registered, nearest = (
        np.array([band_spread(cuts[name][number]) for number in lone])
        for name in ("subpixel", "nearest")
    )
    assert registered.max() < 0.25
    assert np.median(registered) < np.median(nearest) / 3


def band_spread(image: np.ndarray) -> float:
    """Return how far apart, in pixels, the centroids of g, r and i lie."""
    y, x = np.mgrid[0:12, 0:12]
    centroids = []
    for band in (1, 2, 3):
        core = np.clip(image[band, 10:22, 10:22], 0, None) ** 2
        centroids.append(((core * x).sum() / core.sum(), (core * y).sum() / core.sum()))
    return float(np.ptp(centroids, axis=0).max())


@pytest.mark.parametrize("side", [24, 48])
def test_cutouts_of_another_side(tmp_path: Path, frames: Path, side: int) -> None:
    rows = [{"ra": 150.0, "dec": 2.0}, {"ra": 150.01, "dec": 2.0}]
    folder = tmp_path / "out"
    words = ["data", "from-fits", str(frames), str(catalogue(tmp_path / "c.csv", rows))]
    assert main([*words, str(folder), "--side", str(side)]) == 0
    with open_partition(folder / "1.pt") as reader:
        assert (reader.side, reader.num_samples) == (side, 2)
        assert reader.bands == BANDS
        assert reader.imaging.pixel_scale == pytest.approx(0.396, abs=1e-4)
        assert reader.imaging.photometric_system is None
        (batch,) = reader
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    expected = 100 / (2 * np.pi * 4) * np.exp(-(x**2 + y**2) / 8)
    np.testing.assert_allclose(batch.image[0, 2], expected, atol=0.02)
    assert main([*words, str(folder), "--side", "1025"]) == 2


def test_the_aperture_may_be_as_large_as_the_cutout(tmp_path: Path, frames: Path) -> None:
    table = catalogue(tmp_path / "c.csv", [{"ra": 150.0, "dec": 2.0}])
    words = ["data", "from-fits", str(frames), str(table), str(tmp_path / "out")]
    assert main([*words, "--aperture", "8"]) == 2
    assert main([*words, "--aperture", "8", "--side", "64"]) == 0
