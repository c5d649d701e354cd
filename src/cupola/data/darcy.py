"""Steady Darcy flow: -div(a grad u) = f on the unit square, u = 0 on its edge.

The coefficient is 12 or 3 by the sign of a Gaussian field, as in the FNO paper's data
(arXiv 2010.08895, section 5.2). Finite volumes on cell centers with harmonic means, second order.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cupola.data.gaussian import neumann_field
from cupola.errors import DataError
from cupola.registry import DATASETS

Array = NDArray[np.float64]

HIGH, LOW = 12.0, 3.0  # permeabilities of the two materials


def coefficient(size: int, rng: np.random.Generator) -> Array:
    """A random two-valued permeability, [size, size]."""
    return np.where(neumann_field(size, 2.0, 3.0, rng) >= 0, HIGH, LOW)


def _conductances(a: Array, axis: int) -> Array:
    """Conductances of all faces along an axis: harmonic means, half cells at the edges."""
    a = np.moveaxis(a, axis, 0)
    inner = 2 * a[1:] * a[:-1] / (a[1:] + a[:-1])
    faces = np.concatenate([2 * a[:1], inner, 2 * a[-1:]])
    return np.moveaxis(faces, 0, axis)


def solve_darcy(a: Array, f: Array | float = 1.0) -> Array:
    """The pressure u on the cell centers, [N, N], for a permeability a > 0 [N, N] and source f."""
    if a.ndim != 2 or a.shape[0] != a.shape[1] or a.min() <= 0:
        raise DataError(f"the permeability must be positive and square, got shape {a.shape}")
    n = a.shape[0]
    down, right = _conductances(a, 0), _conductances(a, 1)
    cell = np.arange(n * n).reshape(n, n)
    diagonal = down[:-1] + down[1:] + right[:, :-1] + right[:, 1:]
    rows = [cell, cell[:-1], cell[1:], cell[:, :-1], cell[:, 1:]]
    columns = [cell, cell[1:], cell[:-1], cell[:, 1:], cell[:, :-1]]
    values = [diagonal, -down[1:-1], -down[1:-1], -right[:, 1:-1], -right[:, 1:-1]]
    flat = [np.concatenate([part.ravel() for part in parts]) for parts in (values, rows, columns)]
    # Imported here, because they take 20 MB, and whoever imports a dataset imports this file.
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    matrix = coo_matrix((flat[0], (flat[1], flat[2])), shape=(n * n, n * n)).tocsc()
    source = np.broadcast_to(f, a.shape).ravel() / (n * n)
    return np.asarray(spsolve(matrix, source)).reshape(n, n)


def darcy_sample(size: int, seed: int, index: int) -> tuple[Array, Array]:
    """(permeability, pressure) number `index`, each [size, size]."""
    a = coefficient(size, np.random.default_rng([seed, index]))
    return a, solve_darcy(a)


@DATASETS.register_module()
class Darcy:
    """Generated samples: {"x": [1, N, N] 1 where permeable, "y": [1, 1, N, N] pressure / std}."""

    def __init__(
        self, size: int = 32, count: int = 1000, seed: int = 0, std: float = 0.005
    ) -> None:
        self.size, self.count, self.seed, self.std = size, count, seed, std
        self._cache: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index not in self._cache:
            a, u = darcy_sample(self.size, self.seed, index)
            x = torch.from_numpy(a == HIGH).float()[None]
            y = torch.from_numpy(u / self.std).float()[None, None]
            self._cache[index] = {"x": x, "y": y}
        return self._cache[index]

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stacks samples: {"x": [B, 1, N, N], "y": [B, 1, 1, N, N]}."""
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
