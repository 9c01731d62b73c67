"""Painted galaxies: profiles, flux, shape, noise, determinism."""

import numpy as np
import pytest
from cosmicai_workbench.data.morphology import Morphology, draw_morphology
from cosmicai_workbench.data.painting import PIXEL, SDSS, paint, paint_noiseless
from cosmicai_workbench.data.photometry import load_split
from cosmicai_workbench.data.sersic import sersic_mixture, sersic_profile
from cosmicai_workbench.data.synthesis import BLOCK, synthesize


def shape_of(
    *,
    bulge_share: float = 0.0,
    radius: float = 1.5,
    axis_ratio: float = 1.0,
    angle: float = 0.0,
    centre: tuple[float, float] = (0.0, 0.0),
) -> Morphology:
    return Morphology(
        bulge_share=np.full((1, 5), bulge_share),
        bulge_radius=np.array([radius]),
        disk_radius=np.array([radius]),
        bulge_axis_ratio=np.array([axis_ratio]),
        disk_axis_ratio=np.array([axis_ratio]),
        angle=np.array([angle]),
        centre=np.array([centre]),
    )


SEEING = np.full((1, 5), 1.2)
FLUX = np.array([[20.0, 80.0, 150.0, 200.0, 240.0]])


@pytest.mark.parametrize(("index", "tolerance"), [(1.0, 0.06), (4.0, 0.13)])
def test_mixture_follows_the_sersic_profile(index: float, tolerance: float) -> None:
    share, variance = sersic_mixture(index, 6)
    assert share.sum() == pytest.approx(1)
    radius = np.linspace(0.1, 2.5, 100)
    mixture = (share * np.exp(-(radius[:, None] ** 2) / (2 * variance)) / variance).sum(axis=1)
    ratio = mixture / sersic_profile(radius, index)
    assert np.abs(ratio / np.median(ratio) - 1).max() < tolerance
    inside = (share * (1 - np.exp(-1 / (2 * variance)))).sum()
    assert inside == pytest.approx(0.5, abs=0.015)  # half the light within the half-light radius


def test_every_band_holds_its_flux() -> None:
    image = paint_noiseless(FLUX, shape_of(radius=1.0), SEEING)
    assert image.dtype == np.float32
    assert image.sum(axis=(2, 3)) == pytest.approx(FLUX, rel=0.01)


@pytest.mark.parametrize("side", [32, 64, 9, 120])
def test_image_matches_gaussians_summed_one_by_one(side: int) -> None:
    shape = shape_of(bulge_share=0.4, axis_ratio=0.5, angle=0.7, centre=(0.3, -0.2))
    image = paint_noiseless(FLUX, shape, SEEING, side)[0, 2]
    y, x = np.mgrid[0:side, 0:side] - (side - 1) / 2
    blur = (1.2 / 2.354820045 / PIXEL) ** 2 + 1 / 12
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    expected = np.zeros((side, side))
    for part, index in ((0.4, 4), (0.6, 1)):
        for share, variance in zip(*sersic_mixture(index, 6), strict=True):
            major = variance * (1.5 / PIXEL) ** 2
            covariance = turn @ np.diag([major, major * 0.25]) @ turn.T + blur * np.eye(2)
            offset = np.stack((x - 0.3, y + 0.2))
            distance = np.einsum("iyx,ij,jyx->yx", offset, np.linalg.inv(covariance), offset)
            peak = 150.0 * part * share / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
            expected += peak * np.exp(-distance / 2)
    np.testing.assert_allclose(image, expected, rtol=2e-4, atol=1e-6)


def test_noise_is_that_of_the_sky_where_there_is_no_galaxy() -> None:
    rng = np.random.default_rng(0)
    shape = Morphology(
        *(np.repeat(getattr(shape_of(radius=0.5), name), 200, axis=0) for name in FIELDS)
    )
    image = paint(np.full((200, 5), 1e-3), shape, rng)
    assert image.std(axis=(0, 2, 3)) == pytest.approx(SDSS.sky_noise, rel=0.05)


FIELDS = tuple(Morphology.__dataclass_fields__)


def test_bright_galaxies_have_photon_noise() -> None:
    shape, rng = shape_of(), np.random.default_rng(0)
    flux = FLUX * 1000
    images = np.stack([paint(flux, shape, rng)[0, 2, 15, 15] for _ in range(300)])
    # Seeing varies from image to image and moves the peak far more than noise; so only a floor.
    assert images.std() > np.sqrt(images.mean() * SDSS.flux_per_electron[2])


def test_luminous_red_galaxies_are_bulges_and_blue_ones_disks() -> None:
    sample = load_split("train")
    shape = draw_morphology(sample, np.random.default_rng(0))
    colour = sample.magnitude[:, 1] - sample.magnitude[:, 2] - 2 * sample.redshift
    assert np.median(shape.bulge_share[colour > 0.75, 2]) > 0.6
    assert np.median(shape.bulge_share[colour < 0.45, 2]) < 0.25
    # Bulges are redder, so their share grows from u to z.
    assert (np.diff(shape.bulge_share, axis=1) > 0).all()


def test_same_seed_same_galaxies_whatever_the_count() -> None:
    short = next(synthesize(3, "test", 7))
    long = [*synthesize(BLOCK + 1, "test", 7)]
    assert [len(block) for block in long] == [BLOCK, 1]
    np.testing.assert_array_equal(short.image, long[0].image[:3])
    np.testing.assert_array_equal(short.redshift, long[0].redshift[:3])
    other = next(synthesize(3, "test", 8))
    assert not np.array_equal(short.image, other.image)
