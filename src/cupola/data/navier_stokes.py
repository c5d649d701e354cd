"""Two-dimensional Navier-Stokes in vorticity form on a torus, pseudo-spectral.

    dw/dt + u . grad w = nu lap w - mu w + f,   u = (dpsi/dy, -dpsi/dx),   lap psi = -w

Products are dealiased by the 2/3 rule. Diffusion and drag are integrated by Crank-Nicolson,
advection by Heun's two-stage method: second order in time. Letters: B flows, N grid points a side.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from cupola.data.gaussian import periodic_field
from cupola.errors import DataError
from cupola.registry import DATASETS


@dataclass(frozen=True)
class Flow:
    """Physics and time step. The defaults give a statistically steady Kolmogorov flow."""

    size: int = 64
    length: float = 2 * math.pi
    viscosity: float = 5e-3
    drag: float = 0.1  # without it the largest eddies keep growing
    forcing: float = 1.0  # amplitude of the driving velocity, sin(wave y)
    wave: int = 4
    dt: float = 0.01

    def __post_init__(self) -> None:
        if self.size < 8 or self.size % 2:
            raise DataError(f"size must be even and at least 8, got {self.size}")
        if self.viscosity <= 0 or self.dt <= 0:
            raise DataError("viscosity and dt must be positive")


class NavierStokesSolver:
    """Steps vorticities [B, N, N] (row y, column x), all flows at once, in float64."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        N, unit = flow.size, 2 * math.pi / flow.length
        self.ky = unit * torch.fft.fftfreq(N, 1 / N, dtype=torch.float64)[:, None]
        self.kx = unit * torch.fft.rfftfreq(N, 1 / N, dtype=torch.float64)[None, :]
        self.k2 = self.ky**2 + self.kx**2
        self.inverse = torch.where(self.k2 > 0, 1 / self.k2.clamp(min=1e-30), 0.0)
        limit = unit * N / 3
        self.kept = ((self.ky.abs() < limit) & (self.kx < limit)).double()
        y = torch.arange(N, dtype=torch.float64) * (flow.length / N)
        wave = flow.wave * unit
        # The curl of (forcing sin(wave y), 0) is -forcing wave cos(wave y).
        force = (-flow.forcing * wave * torch.cos(wave * y))[:, None].expand(N, N)
        self.force = torch.fft.rfft2(force)
        loss = (flow.viscosity * self.k2 + flow.drag) * flow.dt / 2
        self.explicit, self.implicit = 1 - loss, 1 / (1 + loss)

    def velocity(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """(u, v) along x and y, each [B, N, N], of vorticities [B, N, N]."""
        psi = torch.fft.rfft2(w) * self.inverse
        return torch.fft.irfft2(1j * self.ky * psi), torch.fft.irfft2(-1j * self.kx * psi)

    def _tendency(self, w_hat: Tensor) -> Tensor:
        psi = w_hat * self.inverse
        parts = torch.stack(
            [1j * self.ky * psi, -1j * self.kx * psi, 1j * self.kx * w_hat, 1j * self.ky * w_hat]
        )
        u, v, wx, wy = torch.fft.irfft2(parts)
        return self.force - torch.fft.rfft2(u * wx + v * wy) * self.kept

    def advance(self, w: Tensor, steps: int) -> Tensor:
        """`steps` steps of dt: [B, N, N] -> [B, N, N]; DataError if the flow blows up."""
        w_hat, dt = torch.fft.rfft2(w.double()) * self.kept, self.flow.dt
        for _ in range(steps):
            first = self._tendency(w_hat)
            guess = (self.explicit * w_hat + dt * first) * self.implicit
            second = self._tendency(guess)
            w_hat = (self.explicit * w_hat + dt / 2 * (first + second)) * self.implicit
        out = torch.fft.irfft2(w_hat)
        if not torch.isfinite(out).all():
            raise DataError(
                f"the flow blew up within {steps} steps; use a dt below {dt} or more viscosity"
            )
        return out

    def energy(self, w: Tensor) -> Tensor:
        """Mean kinetic energy of each flow: [B, N, N] -> [B]."""
        u, v = self.velocity(w)
        return (u * u + v * v).mean(dim=(-2, -1)) / 2

    def power(self, w: Tensor) -> Tensor:
        """Rate of change of the energy by forcing, viscosity and drag: [B, N, N] -> [B]."""
        flow, (u, _) = self.flow, self.velocity(w)
        N, unit = flow.size, 2 * math.pi / flow.length
        y = torch.arange(N, dtype=torch.float64) * (flow.length / N)
        driven = (u * flow.forcing * torch.sin(flow.wave * unit * y)[:, None]).mean(dim=(-2, -1))
        enstrophy = (w * w).mean(dim=(-2, -1))
        return driven - flow.viscosity * enstrophy - 2 * flow.drag * self.energy(w)


def random_vorticity(flow: Flow, count: int, seed: int) -> Tensor:
    """Smooth random initial states [count, N, N]; each depends on (seed, index) only."""
    fields = [
        periodic_field(flow.size, 2.5, 7.0, np.random.default_rng([seed, index]))
        for index in range(count)
    ]
    return torch.from_numpy(np.stack(fields))


def trajectories(
    flow: Flow, count: int, snapshots: int, interval: float, spin_up: float, seed: int
) -> Tensor:
    """`count` flows after `spin_up` time units, one snapshot every `interval`: [count, T, N, N]."""
    steps = round(interval / flow.dt)
    if steps < 1:
        raise DataError(f"interval {interval} is shorter than a step of {flow.dt}")
    solver = NavierStokesSolver(flow)
    w = solver.advance(random_vorticity(flow, count, seed), round(spin_up / flow.dt))
    frames = [w.float()]
    for _ in range(snapshots - 1):
        w = solver.advance(w, steps)
        frames.append(w.float())
    return torch.stack(frames, dim=1)


@DATASETS.register_module()
class NavierStokes:
    """Windows of generated flows: {"x": [1, N, N], "y": [steps, 1, N, N]}, divided by `std`.

    Flows are computed together on first use; a few dozen of 64 x 64 take about a minute. For more,
    write them with `cupola data navier-stokes` and read them with FieldDataset.

    shifts: roll each window by a random amount under which the equation is invariant: any number
        of points in x, whole periods of the forcing in y.
    """

    def __init__(
        self,
        count: int = 16,
        snapshots: int = 64,
        steps: int = 1,
        interval: float = 0.25,
        spin_up: float = 10.0,
        seed: int = 0,
        std: float = 1.0,
        shifts: bool = False,
        **flow: Any,
    ) -> None:
        if steps >= snapshots:
            raise DataError(f"a window of {steps} steps does not fit into {snapshots} snapshots")
        self.flow = Flow(**flow)
        self.count, self.snapshots, self.steps = count, snapshots, steps
        self.interval, self.spin_up, self.seed, self.std = interval, spin_up, seed, std
        self.shifts, self._epoch = shifts, 0
        self._fields: Tensor | None = None

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the random shifts, which depend on (seed, epoch, index)."""
        self._epoch = epoch

    @property
    def fields(self) -> Tensor:
        """All snapshots, [count, T, N, N], in units of `std`."""
        if self._fields is None:
            raw = trajectories(
                self.flow, self.count, self.snapshots, self.interval, self.spin_up, self.seed
            )
            self._fields = raw / self.std
        return self._fields

    def __len__(self) -> int:
        return self.count * (self.snapshots - self.steps)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        flow, start = divmod(index, self.snapshots - self.steps)
        window = self.fields[flow, start : start + self.steps + 1, None]
        if self.shifts:
            rng = np.random.default_rng([self.seed, self._epoch, index])
            period = self.flow.size // math.gcd(self.flow.size, self.flow.wave)
            down = period * int(rng.integers(self.flow.size // period))
            window = window.roll((down, int(rng.integers(self.flow.size))), dims=(-2, -1))
        return {"x": window[0], "y": window[1:]}

    def write_examples(self, folder: Path) -> None:
        """Writes all flows, in physical units, as examples of a bundle: [count, T, 1, N, N]."""
        folder.mkdir(parents=True, exist_ok=True)
        fields = (self.fields * self.std)[:, :, None].half().contiguous()
        save_file({"fields": fields}, folder / "flows.safetensors")
        request = {"inputs": [], "parameters": {"example": 0, "steps": 2}}
        (folder / "request.json").write_text(json.dumps(request) + "\n")

    @staticmethod
    def collate(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stacks samples: {"x": [B, 1, N, N], "y": [B, T, 1, N, N]}."""
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
