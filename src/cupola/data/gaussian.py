"""Gaussian random fields with covariance (-Laplacian + tau^2)^-alpha, the usual PDE inputs.

Source: the data of the FNO paper (arXiv 2010.08895, section 5); lengths are in box sides.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import idctn, ifft2

Array = NDArray[np.float64]


def _spectrum(k2: Array, alpha: float, tau: float) -> Array:
    # The factor makes the variance the same whatever the correlation length.
    amplitude = tau ** (alpha - 1.0) * (k2 + tau**2) ** (-alpha / 2)
    amplitude.flat[0] = 0.0  # mean zero
    return amplitude


def periodic_field(size: int, alpha: float, tau: float, rng: np.random.Generator) -> Array:
    """A doubly periodic field on the unit box: [size, size], mean 0."""
    k = 2 * np.pi * np.fft.fftfreq(size, 1 / size)
    amplitude = _spectrum(k[:, None] ** 2 + k**2, alpha, tau)
    noise = rng.standard_normal((2, size, size))
    field = ifft2(amplitude * (noise[0] + 1j * noise[1])) * size * size
    return np.asarray(field.real)


def neumann_field(size: int, alpha: float, tau: float, rng: np.random.Generator) -> Array:
    """A field with zero normal derivative on the unit box, on cell centers: [size, size]."""
    k = np.pi * np.arange(size)
    amplitude = _spectrum(k[:, None] ** 2 + k**2, alpha, tau)
    noise = rng.standard_normal((size, size))
    return np.asarray(idctn(amplitude * noise, norm="ortho") * size)
