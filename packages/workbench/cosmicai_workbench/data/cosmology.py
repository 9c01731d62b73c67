"""Distances in the flat universe of the size relation: H0 = 70 km/s/Mpc, Omega_m = 0.3."""

import numpy as np
from numpy.typing import NDArray


def luminosity_distance(redshift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the luminosity distance in megaparsecs."""
    from astropy.cosmology import FlatLambdaCDM

    cosmology = FlatLambdaCDM(H0=70, Om0=0.3, Tcmb0=0)
    distance: NDArray[np.float64] = cosmology.luminosity_distance(redshift).to_value("Mpc")
    return distance
