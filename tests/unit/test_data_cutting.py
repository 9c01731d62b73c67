"""Cutouts from synthetic fields whose sources are where we put them."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from cosmicai.errors import InvalidInput
from cosmicai.facts import BAND_NAMES
from cosmicai_workbench.data.fits.cutting import (
    EDGE,
    MASKED,
    Cutout,
    FieldCutter,
    Registration,
    Rejected,
    aperture_magnitudes,
)
from cosmicai_workbench.data.fits.fields import Field, find_fields, read_band

SCALE = 0.396
# Where the reference point lies on each band's pixels: bands of a real camera never line up.
OFFSETS = {"u": (0.3, -0.4), "g": (-2.6, 1.2), "r": (0.0, 0.0), "i": (0.45, 0.45), "z": (1.5, -0.7)}
SIZE = 100
SIGMA = 2.0
FLUX = 50.0


def wcs_of(band: str, turn: float = 0.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [50.0 + OFFSETS[band][0], 50.0 + OFFSETS[band][1]]
    step = SCALE / 3600
    wcs.wcs.cd = step * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return wcs


def source_image(x: float, y: float, flux: float = FLUX) -> np.ndarray:
    grid_y, grid_x = np.mgrid[0:SIZE, 0:SIZE]
    distance = (grid_x - x) ** 2 + (grid_y - y) ** 2
    return (flux / (2 * np.pi * SIGMA**2) * np.exp(-distance / (2 * SIGMA**2))).astype(np.float32)


def write_field(
    folder: Path,
    ra: float,
    dec: float,
    *,
    unit: str | None = "nanomaggy",
    spoil: dict[str, float] | None = None,
) -> None:
    """Write five frames with one source at (ra, dec); band k has flux FLUX · (k+1)."""
    for number, band in enumerate(BAND_NAMES, start=1):
        wcs = wcs_of(band)
        x, y = wcs.all_world2pix(ra, dec, 0)
        pixels = source_image(float(x), float(y), FLUX * number)
        if spoil and band in spoil:
            pixels[int(y) + 3, int(x) - 3] = spoil[band]
        header = wcs.to_header()
        if unit:
            header["BUNIT"] = unit
        fits.PrimaryHDU(pixels, header).writeto(folder / f"frame-{band}-000001.fits")


def read_field(folder: Path) -> Field:
    (files,) = find_fields([folder])
    return files.read()


RA, DEC = 150.0005, 2.0003


def test_bands_are_registered_on_the_r_bands_pixels(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC)
    cut = FieldCutter(read_field(tmp_path), "subpixel").cut(np.array([RA]), np.array([DEC]))[0]
    assert isinstance(cut, Cutout)
    x, y = cut.position
    assert 15 <= x <= 16
    assert 15 <= y <= 16
    grid_y, grid_x = np.mgrid[0:32, 0:32]
    for number, layer in enumerate(cut.image, start=1):
        assert layer.sum() == pytest.approx(FLUX * number, rel=2e-3)
        centroid = (layer * grid_x).sum() / layer.sum(), (layer * grid_y).sum() / layer.sum()
        assert centroid == pytest.approx((x, y), abs=0.01)
    expected = source_image(x, y)[:32, :32]
    np.testing.assert_allclose(cut.image[0], expected, atol=0.01 * expected.max())
    np.testing.assert_allclose(cut.image[2], 3 * expected, rtol=1e-3, atol=1e-6)  # r is untouched


@pytest.mark.parametrize("side", [12, 33, 64])
@pytest.mark.parametrize("registration", ["subpixel", "nearest"])
def test_cutouts_of_any_side_are_those_of_astropy(
    tmp_path: Path, registration: Registration, side: int
) -> None:
    write_field(tmp_path, RA, DEC)
    field = read_field(tmp_path)
    cut = FieldCutter(field, registration, side).cut(np.array([RA]), np.array([DEC]))[0]
    assert isinstance(cut, Cutout)
    assert cut.image.shape == (5, side, side)
    for number, (layer, band) in enumerate(zip(cut.image, field.bands, strict=True), start=1):
        place = SkyCoord(RA, DEC, unit="deg")
        if registration == "nearest" or band is field.bands[2]:
            np.testing.assert_array_equal(layer, Cutout2D(band.pixels, place, side, band.wcs).data)
        expected = source_image(*cut.position, FLUX * number)[:side, :side]
        if registration == "subpixel":
            np.testing.assert_allclose(layer, expected, atol=0.01 * expected.max())


def test_nearest_cuts_whole_pixels_of_every_band(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC)
    field = read_field(tmp_path)
    cut = FieldCutter(field, "nearest").cut(np.array([RA]), np.array([DEC]))[0]
    assert isinstance(cut, Cutout)
    for layer, band in zip(cut.image, field.bands, strict=True):
        x, y = (float(value) for value in band.wcs.all_world2pix(RA, DEC, 0))
        x0, y0 = round(x - 15.5), round(y - 15.5)
        np.testing.assert_array_equal(layer, band.pixels[y0 : y0 + 32, x0 : x0 + 32])


def test_turned_and_scaled_band_keeps_place_and_flux(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC)
    path = tmp_path / "frame-i-000001.fits"
    wcs = wcs_of("i", turn=0.3)
    wcs.wcs.cd = wcs.wcs.cd * 0.8
    x, y = wcs.all_world2pix(RA, DEC, 0)
    grid_y, grid_x = np.mgrid[0:SIZE, 0:SIZE]
    sigma = SIGMA / 0.8
    spread = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / (2 * sigma**2))
    header = wcs.to_header()
    header["BUNIT"] = "nanomaggy"
    pixels = (4 * FLUX / (2 * np.pi * sigma**2) * spread).astype(np.float32)
    fits.PrimaryHDU(pixels, header).writeto(path, overwrite=True)
    cut = FieldCutter(read_field(tmp_path), "subpixel").cut(np.array([RA]), np.array([DEC]))[0]
    assert isinstance(cut, Cutout)
    np.testing.assert_allclose(cut.image[3], cut.image[2] * 4 / 3, atol=0.01 * cut.image[2].max())


@pytest.mark.parametrize("registration", ["subpixel", "nearest"])
def test_images_that_are_cutouts_already_are_taken_whole(tmp_path: Path, registration: str) -> None:
    wcs = wcs_of("r")
    wcs.wcs.crpix = [17.4, 16.8]  # as a cut at round(x) - 16 leaves it
    header = wcs.to_header()
    header["BUNIT"] = "nanomaggy"
    pixels = source_image(16.4, 15.8)[:32, :32]
    for band in BAND_NAMES:
        fits.PrimaryHDU(pixels, header).writeto(tmp_path / f"object7_{band}.fits")
    cutter = FieldCutter(read_field(tmp_path), registration)  # type: ignore[arg-type]
    cut = cutter.cut(np.array([150.0]), np.array([2.0]))[0]
    assert isinstance(cut, Cutout)
    assert cut.position == pytest.approx((16.4, 15.8), abs=1e-4)
    np.testing.assert_allclose(cut.image, np.broadcast_to(pixels, cut.image.shape), atol=1e-5)


def test_objects_off_the_field_are_not_cut_and_edges_are_named(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC)
    r = wcs_of("r")
    edge = r.all_pix2world([[10.0, 50.0]], 0)[0]
    # 14.4 pixels from the edge in r's terms, but g lies 2.6 pixels further left.
    g_only = r.all_pix2world([[17.5, 50.0]], 0)[0]
    ra = np.array([RA, edge[0], g_only[0], 151.0, 330.0])
    dec = np.array([DEC, edge[1], g_only[1], 2.0, -2.0])
    cuts = FieldCutter(read_field(tmp_path), "subpixel").cut(ra, dec)
    assert sorted(cuts) == [0, 1, 2]
    for row, band in ((1, "u"), (2, "g")):
        reject = cuts[row]
        assert isinstance(reject, Rejected)
        assert reject.reason == EDGE
        assert f"in {band}" in reject.detail


@pytest.mark.parametrize("band", BAND_NAMES)
@pytest.mark.parametrize("registration", ["subpixel", "nearest"])
def test_masked_pixels_reject_the_object(tmp_path: Path, band: str, registration: str) -> None:
    write_field(tmp_path, RA, DEC, spoil={band: np.nan})
    cutter = FieldCutter(read_field(tmp_path), registration)  # type: ignore[arg-type]
    reject = cutter.cut(np.array([RA]), np.array([DEC]))[0]
    assert isinstance(reject, Rejected)
    assert reject.reason == MASKED
    assert f"in {band}" in reject.detail


def test_aperture_magnitudes_are_those_of_the_light_inside() -> None:
    image = np.zeros((5, 32, 32), dtype=np.float32)
    image[:] = source_image(15.3, 15.8, 100.0)[:32, :32]
    radius = 5.0
    inside = 100.0 * (1 - np.exp(-(radius**2) / (2 * SIGMA**2)))
    magnitude = aperture_magnitudes(Cutout(image, (15.3, 15.8)), radius)
    assert magnitude == pytest.approx(22.5 - 2.5 * np.log10(inside), abs=0.005)


def test_magnitudes_stay_finite_below_the_noise() -> None:
    image = np.full((5, 32, 32), -1e-3, dtype=np.float32)
    magnitude = aperture_magnitudes(Cutout(image, (15.5, 15.5)), 5.0)
    assert np.isfinite(magnitude).all()
    assert (magnitude > 22.5).all()


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("nanomaggy", 1.0), ("nanomaggies", 1.0), ("uJy", 1 / 3.631), ("Jy", 1e6 / 3.631)],
)
def test_units_become_nanomaggies(tmp_path: Path, unit: str, factor: float) -> None:
    write_field(tmp_path, RA, DEC, unit=unit)
    path = tmp_path / "frame-r-000001.fits"
    raw = fits.getdata(path)
    np.testing.assert_allclose(read_band(path).pixels, raw * factor, rtol=1e-6)


def test_counts_need_a_zero_point(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC, unit="adu")
    path = tmp_path / "frame-r-000001.fits"
    with pytest.raises(InvalidInput, match="--zero-point"):
        read_band(path)
    np.testing.assert_allclose(
        read_band(path, zero_point=25.0).pixels, fits.getdata(path) * 0.1, rtol=1e-6
    )


def test_a_missing_band_is_named(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC)
    (tmp_path / "frame-z-000001.fits").unlink()
    with pytest.raises(InvalidInput, match="none found in z"):
        find_fields([tmp_path])


def test_cutouts_of_several_objects_are_several_fields(tmp_path: Path) -> None:
    for name in ("first", "second"):
        for band in BAND_NAMES:
            (tmp_path / f"{name}_{band}.fits").write_bytes(b"")
    (tmp_path / "psField-000001.fits").write_bytes(b"")
    assert [Path(field.name).name for field in find_fields([tmp_path])] == ["first_*", "second_*"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"nothing", "whole FITS"), (b"SIMPLE  =                    T", "FITS")],
)
def test_damaged_images_are_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "frame-r-1.fits"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        read_band(path)


def test_truncated_image_is_named(tmp_path: Path) -> None:
    write_field(tmp_path, RA, DEC)
    path = tmp_path / "frame-r-000001.fits"
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InvalidInput, match="frame-r-000001"):
        read_band(path)


@pytest.mark.parametrize("suffix", [".bz2", ".gz"])
def test_compressed_images_are_read_and_damaged_ones_named(tmp_path: Path, suffix: str) -> None:
    write_field(tmp_path, RA, DEC)
    plain = tmp_path / "frame-r-000001.fits"
    compress = {".bz2": bz2.compress, ".gz": gzip.compress}[suffix]
    packed = tmp_path / f"frame-r-000001.fits{suffix}"
    packed.write_bytes(compress(plain.read_bytes()))
    np.testing.assert_array_equal(read_band(packed).pixels, read_band(plain).pixels)
    packed.write_bytes(packed.read_bytes()[:500])
    with pytest.raises(InvalidInput, match="whole FITS"):
        read_band(packed)


def test_image_without_coordinates_is_named(tmp_path: Path) -> None:
    path = tmp_path / "frame-r-1.fits"
    header = fits.Header({"BUNIT": "nanomaggy"})
    fits.PrimaryHDU(np.zeros((40, 40), np.float32), header).writeto(path)
    with pytest.raises(InvalidInput, match="celestial WCS"):
        read_band(path)
