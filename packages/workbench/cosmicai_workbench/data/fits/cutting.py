"""Cutouts of objects from a field, all bands on the r band's pixels, and aperture magnitudes."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from cosmicai.facts import BAND_NAMES, IMAGE_SIZE, R_BAND, ZERO_POINT
from numpy.typing import NDArray

from cosmicai_workbench.data.fits.fields import BandImage, Field

Registration = Literal["subpixel", "nearest"]

_MARGIN = 8
"""Pixels around a cutout that the cubic spline is fitted on; its reach fades tenfold in two."""
_READY_CUT = 2.0
"""How far, in pixels, the object may be from the middle of an image that is a cutout already."""
_SUBPIXELS = 10
_SOFTENING = np.array([1.4, 0.9, 1.2, 1.8, 7.4]) * 0.1
"""SDSS asinh softening b in nanomaggies (Lupton et al. 1999; u, g, r, i, z)."""

EDGE = "too near an image's edge"
MASKED = "masked pixels"


@dataclass(frozen=True)
class Cutout:
    """One object: float32 (5, side, side), nanomaggies; its place in it (x, y), pixels."""

    image: NDArray[np.float32]
    position: tuple[float, float]


@dataclass(frozen=True)
class Rejected:
    """Why an object has no cutout."""

    reason: str
    detail: str


class FieldCutter:
    """Cuts objects out of one field.

    Parameters
    ----------
    field
        The images.
    registration
        ``subpixel``: the r band is cut at whole pixels, untouched, and the others are brought onto
        the same pixels through both WCS, by cubic spline. ``nearest``: every band is cut at its own
        nearest whole pixel, so no pixel is interpolated and bands may be off by half a pixel.
    side
        Pixels on a side of a cutout.
    """

    def __init__(self, field: Field, registration: Registration, side: int = IMAGE_SIZE) -> None:
        self._field = field
        self._registration = registration
        self._side = side

    def cut(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> dict[int, Cutout | Rejected]:
        """Cut out the objects on the field's r image; keys are indices into ``ra``."""
        reference = self._field.bands[R_BAND]
        place = _world_to_pixel(reference, ra, dec)
        rows = np.flatnonzero(_inside(reference, place))
        if not len(rows):
            return {}
        place = place[rows]
        corner = self._corner(reference, place)
        layers = [self._layers(band, ra[rows], dec[rows], corner) for band in self._field.bands]
        return {
            int(row): self._assemble([band[item] for band in layers], place[item] - corner[item])
            for item, row in enumerate(rows)
        }

    def _layers(
        self,
        band: BandImage,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        corner: NDArray[np.int64],
    ) -> list[NDArray[np.float32] | None]:
        """Cut every object out of one band; None where the image ends."""
        reference = self._field.bands[R_BAND]
        if band is reference:
            return [self._whole_pixels(band, place) for place in corner]
        if self._registration == "nearest":
            own = self._corner(band, _world_to_pixel(band, ra, dec))
            return [self._whole_pixels(band, place) for place in own]
        # The mapping is smooth: over 32 pixels the four corners give it to 1e-4 of a pixel.
        ends = corner[:, None, None, :] + (self._side - 1) * np.stack(
            np.meshgrid((0, 1), (0, 1)), axis=-1
        )
        there = _pixel_to_pixel(reference, band, ends)
        scale = (reference.pixel_scale / band.pixel_scale) ** 2
        return [self._registered(band, places, scale) for places in there]

    def _corner(self, band: BandImage, places: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the first pixel (x, y) of the cutouts whose centres are nearest to ``places``.

        An image that is a cutout already is taken whole, where the object is about in its middle.
        """
        offset = np.nan_to_num(places, nan=-1e6) - (self._side - 1) / 2
        corner: NDArray[np.int64] = np.rint(offset).astype(np.int64)
        if band.pixels.shape == (self._side, self._side):
            corner[(np.abs(offset) <= _READY_CUT).all(axis=1)] = 0
        return corner

    def _whole_pixels(
        self, band: BandImage, corner: NDArray[np.int64]
    ) -> NDArray[np.float32] | None:
        # Not astropy's Cutout2D, which cuts the same but where the object is midway between two
        # corners, and takes four times as long.
        x, y = corner
        ny, nx = band.pixels.shape
        if x < 0 or y < 0 or x + self._side > nx or y + self._side > ny:
            return None
        return band.pixels[y : y + self._side, x : x + self._side]

    def _registered(
        self, band: BandImage, ends: NDArray[np.float64], area: float
    ) -> NDArray[np.float32] | None:
        """Interpolate ``band`` on a grid whose corner pixels lie at ``ends`` (2, 2, xy).

        ``area``: of a pixel of the grid, in pixels of ``band``; the flux of a pixel grows with it.
        """
        from scipy.ndimage import map_coordinates

        ny, nx = band.pixels.shape
        lowest, highest = ends.min(axis=(0, 1)), ends.max(axis=(0, 1))
        if (lowest < -0.5).any() or (highest > np.array((nx, ny)) - 0.5).any():
            return None
        x0, y0 = np.maximum(0, np.floor(lowest).astype(int) - _MARGIN)
        x1, y1 = np.ceil(highest).astype(int) + _MARGIN + 1
        patch = band.pixels[y0:y1, x0:x1]
        step = np.linspace(0, 1, self._side)
        weight = np.stack((1 - step, step))  # of the first and the last pixel of a row
        x, y = np.einsum("ai,bj,abk->kij", weight, weight, ends)
        grid = [y - y0, x - x0]
        # A spline would spread a masked pixel over the patch: fill it, and mask what it touches.
        masked = ~np.isfinite(patch)
        layer: NDArray[np.float32] = map_coordinates(
            np.where(masked, np.float32(0), patch), grid, order=3, mode="nearest"
        )
        if masked.any():
            touched = map_coordinates(masked.astype(np.float32), grid, order=1, mode="nearest")
            layer[touched > 0] = np.nan
        return layer * np.float32(area)

    def _assemble(
        self, layers: list[NDArray[np.float32] | None], place: NDArray[np.float64]
    ) -> Cutout | Rejected:
        whole: list[NDArray[np.float32]] = []
        for name, band, layer in zip(BAND_NAMES, self._field.bands, layers, strict=True):
            if layer is None:
                return Rejected(EDGE, f"in {name}: {band.path.name}")
            masked = int((~np.isfinite(layer)).sum())
            if masked:
                return Rejected(MASKED, f"{masked} in {name}: {band.path.name}")
            whole.append(layer)
        return Cutout(np.stack(whole).astype(np.float32), (float(place[0]), float(place[1])))


def aperture_magnitudes(
    cutout: Cutout, radius: float, softening: NDArray[np.float64] = _SOFTENING
) -> NDArray[np.float64]:
    """Return asinh AB magnitudes (5,) in a circle of ``radius`` pixels, which the cutout holds.

    Asinh magnitudes (Lupton et al. 1999), as SDSS publishes: equal to the usual ones but for
    objects near the noise, where they stay finite even if the flux is negative.
    """
    from photutils.aperture import CircularAperture

    circle = CircularAperture(cutout.position, radius).to_mask(
        method="subpixel", subpixels=_SUBPIXELS
    )
    share = circle.to_image(cutout.image.shape[1:])
    flux = (cutout.image * share).sum(axis=(1, 2), dtype=np.float64)
    magnitude: NDArray[np.float64] = ZERO_POINT - 2.5 / np.log(10) * (
        np.arcsinh(flux / (2 * softening)) + np.log(softening)
    )
    return magnitude


def _world_to_pixel(
    band: BandImage, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where ICRS positions (N,) are on the image, (N, 2) as (x, y) from 0.

    NaN far from the image, where its projection need not be defined.
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import pixel_to_skycoord, skycoord_to_pixel

    places = np.full((len(ra), 2), np.nan)
    ny, nx = band.pixels.shape
    middle = pixel_to_skycoord(nx / 2, ny / 2, band.wcs)
    reach = np.hypot(nx, ny) * band.pixel_scale / 3600
    near = np.flatnonzero(SkyCoord(ra, dec, unit="deg").separation(middle).deg < reach)
    if len(near):
        sky = SkyCoord(ra[near], dec[near], unit="deg")
        places[near] = np.stack(skycoord_to_pixel(sky, band.wcs, mode="all"), axis=1)
    return places


def _pixel_to_pixel(
    source: BandImage, target: BandImage, places: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Map pixels (…, 2) of one image to those of another through the sky."""
    from astropy.wcs.utils import pixel_to_pixel

    x, y = pixel_to_pixel(source.wcs, target.wcs, places[..., 0], places[..., 1])
    return np.stack((x, y), axis=-1)


def _inside(band: BandImage, places: NDArray[np.float64]) -> NDArray[np.bool_]:
    ny, nx = band.pixels.shape
    x, y = places.T
    inside: NDArray[np.bool_] = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    return inside
