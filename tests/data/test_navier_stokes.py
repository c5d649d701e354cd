"""The flow solver against an exact solution, its energy budget and its order."""

import math

import pytest
import torch

from cupola.data.navier_stokes import (
    Flow,
    NavierStokes,
    NavierStokesSolver,
    random_vorticity,
    trajectories,
)
from cupola.errors import DataError


def taylor_green(size: int, wave: int) -> torch.Tensor:
    angle = torch.arange(size, dtype=torch.float64) * (2 * math.pi / size)
    return 2 * wave * torch.cos(wave * angle)[:, None] * torch.cos(wave * angle)[None, None]


@pytest.mark.parametrize("wave", [1, 3])
def test_decaying_vortex(wave: int) -> None:
    """Taylor-Green: advection vanishes, vorticity decays as exp(-2 nu k^2 t)."""
    flow = Flow(size=32, viscosity=0.02, drag=0.0, forcing=0.0, dt=0.005)
    start = taylor_green(32, wave)
    end = NavierStokesSolver(flow).advance(start, 400)
    exact = start * math.exp(-2 * 0.02 * wave**2 * 2.0)
    torch.testing.assert_close(end, exact, atol=2e-5, rtol=1e-5)


def test_velocity_is_the_stream_functions_and_has_this_curl() -> None:
    solver = NavierStokesSolver(Flow(size=32))
    w = random_vorticity(Flow(size=32), 2, seed=1)
    u, v = solver.velocity(w)
    u_hat, v_hat = torch.fft.rfft2(u), torch.fft.rfft2(v)
    divergence = torch.fft.irfft2(1j * solver.kx * u_hat + 1j * solver.ky * v_hat)
    assert divergence.abs().max() < 1e-10
    curl = torch.fft.irfft2(1j * solver.kx * v_hat - 1j * solver.ky * u_hat)
    inner = solver.k2 * 0 + 1
    inner[16], inner[:, 16] = 0, 0  # a derivative has no Nyquist part
    torch.testing.assert_close(
        torch.fft.rfft2(curl) * inner, torch.fft.rfft2(w) * inner, atol=1e-8, rtol=1e-8
    )


def test_energy_budget_of_a_turbulent_flow() -> None:
    flow = Flow(size=48, dt=0.005)
    solver = NavierStokesSolver(flow)
    w = solver.advance(random_vorticity(flow, 2, seed=0), 600)
    before, power_before = solver.energy(w), solver.power(w)
    after_w = solver.advance(w, 10)
    change = (solver.energy(after_w) - before) / (10 * flow.dt)
    expected = (power_before + solver.power(after_w)) / 2
    torch.testing.assert_close(change, expected, rtol=5e-3, atol=1e-4)


def test_second_order_in_time() -> None:
    start = random_vorticity(Flow(size=32), 1, seed=3)

    def at(dt: float) -> torch.Tensor:
        return NavierStokesSolver(Flow(size=32, dt=dt)).advance(start, round(0.4 / dt))

    fine = at(0.00125)
    ratio = (at(0.02) - fine).norm() / (at(0.01) - fine).norm()
    assert 3.4 < ratio < 4.8


def test_dealiasing_conserves_energy_without_friction() -> None:
    flow = Flow(size=32, viscosity=1e-12, drag=0.0, forcing=0.0, dt=0.002)
    solver = NavierStokesSolver(flow)
    w = solver.advance(random_vorticity(flow, 1, seed=2), 1)
    end = solver.advance(w, 200)
    torch.testing.assert_close(solver.energy(end), solver.energy(w), rtol=1e-5, atol=0)


def test_dataset_windows_and_reproducibility() -> None:
    keys = {"count": 2, "snapshots": 5, "steps": 2, "interval": 0.1, "spin_up": 0.2, "size": 16}
    data = NavierStokes(**keys, seed=7, std=2.0)
    assert len(data) == 6
    batch = data.collate([data[0], data[5]])
    assert batch["x"].shape == (2, 1, 16, 16)
    assert batch["y"].shape == (2, 2, 1, 16, 16)
    torch.testing.assert_close(data[1]["x"], data[0]["y"][0])
    torch.testing.assert_close(NavierStokes(**keys, seed=7)[5]["x"], 2 * data[5]["x"])
    one = trajectories(Flow(size=16), 1, 2, 0.1, 0.2, seed=7)
    torch.testing.assert_close(one[0, 0] / 2.0, data[0]["x"][0])


def test_shifts_keep_the_equation_and_depend_on_the_epoch() -> None:
    keys = {"count": 1, "snapshots": 2, "interval": 0.1, "spin_up": 0.2, "size": 16}
    plain, moved = NavierStokes(**keys), NavierStokes(**keys, shifts=True)
    sample = moved[0]
    candidates = [
        plain.fields[0, 0].roll((4 * i, j), dims=(0, 1)) for i in range(4) for j in range(16)
    ]
    assert any(torch.equal(sample["x"][0], candidate) for candidate in candidates)
    solver = NavierStokesSolver(Flow(size=16))
    expected = solver.advance(sample["x"], 10).float()
    torch.testing.assert_close(sample["y"][0], expected, atol=1e-5, rtol=1e-5)
    moved.set_epoch(1)
    assert not torch.equal(moved[0]["x"], sample["x"])
    moved.set_epoch(0)
    assert torch.equal(moved[0]["x"], sample["x"])


def test_errors() -> None:
    with pytest.raises(DataError, match="size must be even"):
        Flow(size=15)
    with pytest.raises(DataError, match="must be positive"):
        Flow(viscosity=0.0)
    with pytest.raises(DataError, match="2 steps does not fit into 2 snapshots"):
        NavierStokes(snapshots=2, steps=2)
    with pytest.raises(DataError, match="shorter than a step"):
        trajectories(Flow(size=16), 1, 2, 0.001, 0.0, seed=0)
    wild = Flow(size=16, dt=5.0, forcing=50.0)
    with pytest.raises(DataError, match=r"blew up within 50 steps; use a dt below 5\.0"):
        NavierStokesSolver(wild).advance(100 * random_vorticity(wild, 1, seed=0), 50)
