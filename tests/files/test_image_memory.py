"""No image that is accepted takes more memory than the largest one of plain RGB."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cupola.errors import InputError
from cupola.files.images import BYTES_PER_PIXEL, read_image

READ = """
import json, re, sys
from pathlib import Path
from cupola.files.images import read_image

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

limit, *names = sys.argv[1:]
for name in names:
    read_image(Path(name), max_pixels=int(limit))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    shape = read_image(Path(name), max_pixels=int(limit)).shape
    print(json.dumps((memory("VmHWM") - before, shape)))
"""
BAND = 8_000_000  # bytes of the parts of an image that are being converted
LIMIT = 2_500_000
# What bytes_needed says of one pixel: 7 is plain.
KINDS = {
    "rgb.png": (7, "RGB", {}),
    "rgba.png": (7, "RGBA", {}),
    "la.png": (7, "LA", {}),
    "gray16.png": (7, "I;16", {}),
    "palette.png": (7, "P", {"transparency": bytes(range(256))}),
    "turned.jpg": (
        7,
        "RGB",
        {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0"},
    ),
    "cmyk.jpg": (7, "CMYK", {}),
    "progressive.jpg": (10, "RGB", {"progressive": True, "subsampling": 0}),
    "lossy.webp": (12, "RGB", {"method": 0}),
    "lossless.webp": (12, "RGBA", {"method": 0, "lossless": True, "quality": 0}),
    "floats.tif": (8, "F", {"compression": "tiff_deflate", "strip_size": 2**30}),
    "alpha.tif": (8, "RGBA", {"compression": "tiff_lzw", "strip_size": 2**30}),
    "clear.gif": (7, "P", {"transparency": 3}),
}


def side(cost: int, pixels: int = LIMIT) -> int:
    """The side of the largest square that is accepted."""
    return int((pixels * BYTES_PER_PIXEL / cost) ** 0.5)


def write(path: Path, mode: str, size: int, options: dict[str, object]) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, size).astype(np.uint8), (size, size))
    gray = Image.fromarray(np.ascontiguousarray(ramp))
    if mode in ("RGBA", "LA"):
        image = gray.convert(mode)
        image.putalpha(gray)
    else:
        image = gray.convert("I").convert(mode) if mode == "I;16" else gray.convert(mode)
    image.save(path, **options)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_every_kind_takes_what_plain_pixels_take(tmp_path: Path) -> None:
    for name, (cost, mode, options) in KINDS.items():
        write(tmp_path / name, mode, side(cost), options)
    paths = [str(tmp_path / name) for name in KINDS]
    done = subprocess.run(
        [sys.executable, "-c", READ, str(LIMIT), *paths],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},  # what is freed is given back
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(zip(KINDS, map(json.loads, done.stdout.splitlines()), strict=True))
    plain = found["rgb.png"][0]
    assert plain < BYTES_PER_PIXEL * LIMIT + BAND
    too_much = {name: peak for name, (peak, _) in found.items() if peak > plain + BAND}
    assert not too_much, (plain, too_much)


@pytest.mark.parametrize("name", ["progressive.jpg", "lossy.webp", "floats.tif"])
def test_images_above_the_memory_of_the_limit_are_refused(tmp_path: Path, name: str) -> None:
    cost, mode, options = KINDS[name]
    write(tmp_path / name, mode, side(cost) + 20, options)
    with pytest.raises(InputError, match=r"pixels of such a \w+ file take 18 MB to decode, more"):
        read_image(tmp_path / name, max_pixels=LIMIT)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF decoder")
def test_avif_counts_its_planes() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (1500, 1000)).save(buffer, "AVIF", speed=10)
    with pytest.raises(InputError, match=r"such a AVIF file take 21 MB"):
        read_image(buffer.getvalue(), max_pixels=LIMIT)


def test_small_images_are_read_whatever_the_limit_counts(tmp_path: Path) -> None:
    write(tmp_path / "a.webp", "RGB", 100, {})
    assert read_image(tmp_path / "a.webp", max_pixels=10_000).shape == (100, 100, 3)
