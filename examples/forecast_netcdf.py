"""Forecast from a snapshot in a netCDF file, step by step, into another netCDF file.

cupola data navier-stokes --out flows.nc --count 1 --snapshots 9 \\
    --size 32 --viscosity 0.02 --wave 2 --dt 0.02 --interval 0.2
python examples/forecast_netcdf.py flows.nc forecast.nc --steps 8
"""

import argparse
from pathlib import Path

import cupola
from cupola.data.cf import ForecastLayout, forecast_writer
from cupola.data.fields import open_fields
from cupola.structures.grids import relative_l2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("start", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", default="afno-navier-stokes")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()

    predictor = cupola.Predictor.load(args.bundle)
    fields = open_fields(args.start)
    channels = fields.select(predictor.channels)  # an error names a channel that is missing
    start = fields.read(0, 0)[channels]  # [C, H, W] in physical units

    layout = ForecastLayout(
        predictor.channels, predictor.grid, predictor.interval, predictor.interval_unit
    )
    with forecast_writer(args.out, layout) as writer:
        writer.append(start)
        for step, state in enumerate(predictor.stream(start, args.steps), 1):
            writer.append(state[0].numpy())  # state: [members, C, H, W]
            if step < fields.segments[0]:  # the file also contains what really happened
                truth = state.new_tensor(fields.read(0, step)[channels])
                print(f"step {step}: relative L2 {float(relative_l2(state[0], truth).mean()):.3f}")


if __name__ == "__main__":
    main()
