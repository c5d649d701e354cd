"""GRIB files through cfgrib: levels, heights and dates as in any other file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cupola.data.fields import open_fields
from cupola.errors import DataError
from lazy import LazyModule

eccodes: Any = LazyModule("eccodes")


def message(name: str, level: tuple[str, int], hour: int, value: float) -> bytes:
    """One field on 5 x 8 points, from 90 degrees north and 0 degrees east."""
    handle = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    settings = {
        "Ni": 8,
        "Nj": 5,
        "iDirectionIncrementInDegrees": 45.0,
        "jDirectionIncrementInDegrees": 45.0,
        "longitudeOfLastGridPointInDegrees": 315.0,
        "latitudeOfFirstGridPointInDegrees": 90.0,
        "latitudeOfLastGridPointInDegrees": -90.0,
        "longitudeOfFirstGridPointInDegrees": 0.0,
        "dataDate": 20180101,
        "dataTime": 100 * hour,
        "typeOfLevel": level[0],
        "level": level[1],
        "shortName": name,
    }
    for key, setting in settings.items():
        eccodes.codes_set(handle, key, setting)
    values = value + np.arange(40, dtype=float)
    eccodes.codes_set_values(handle, values)
    try:
        return bytes(eccodes.codes_get_message(handle))
    finally:
        eccodes.codes_release(handle)


def test_fields_of_a_grib_file(tmp_path: Path) -> None:
    pytest.importorskip("cfgrib")
    parts = [
        message(*each)
        for hour in (0, 6, 12)
        for each in (
            ("2t", ("heightAboveGround", 2), hour, 280.0 + hour),
            ("10u", ("heightAboveGround", 10), hour, 5.0),
            ("z", ("isobaricInhPa", 500), hour, 50000.0),
            ("z", ("isobaricInhPa", 850), hour, 10000.0),
        )
    ]
    path = tmp_path / "era5.grib"
    path.write_bytes(b"".join(parts))
    source = open_fields(path)
    assert set(source.channels) == {"t2m", "u10", "z500", "z850"}
    assert source.segments == (3,)
    assert source.grid.rows == (90.0, 45.0, 0.0, -45.0, -90.0)
    t2m, z850 = source.read(0, 2, source.select(["t2m", "z850"]))
    np.testing.assert_allclose(t2m.ravel(), 292.0 + np.arange(40), atol=1e-2)
    np.testing.assert_allclose(z850[0, 0], 10000.0, atol=1.0)
    assert not list(tmp_path.glob("*.idx"))  # nothing is written beside the file


def test_what_is_not_grib(tmp_path: Path) -> None:
    (tmp_path / "bad.grib").write_bytes(b"GRIB" + bytes(100))
    with pytest.raises(DataError, match=r"not a readable GRIB file|holds no fields"):
        open_fields(tmp_path / "bad.grib")
