"""What a detection predictor takes as an image, alone and in lists."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.errors import InputError
from cupola.runtime import Predictor
from cupola.runtime.io.image_sources import to_pixels

EXAMPLE = Path("src/cupola/bundles/shipped/detr-digits/example/image.png")


@pytest.fixture(scope="module")
def predictor() -> Any:
    return Predictor.load("detr-digits")


@pytest.fixture(scope="module")
def pixels() -> Any:
    return np.asarray(Image.open(EXAMPLE).convert("RGB"))


class HasArray:
    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(self.values, dtype)


def with_alpha(pixels: Any) -> Any:
    return np.concatenate((pixels, np.full((*pixels.shape[:2], 1), 255, np.uint8)), axis=2)


SAME: dict[str, Callable[[Any], Any]] = {
    "str": lambda p: str(EXAMPLE),
    "pathlib": lambda p: EXAMPLE,
    "bytes": lambda p: EXAMPLE.read_bytes(),
    "bytearray": lambda p: bytearray(EXAMPLE.read_bytes()),
    "memoryview": lambda p: memoryview(EXAMPLE.read_bytes()),
    "open file": lambda p: io.BytesIO(EXAMPLE.read_bytes()),
    "PIL": lambda p: Image.open(EXAMPLE),
    "PIL RGBA": lambda p: Image.open(EXAMPLE).convert("RGBA"),
    "array": lambda p: p,
    "not contiguous": lambda p: p[::-1][::-1],
    "float 0..1": lambda p: p / 255,
    "float16": lambda p: (p / 255).astype(np.float16),
    "float 0..255": lambda p: p.astype(np.float32),
    "int64": lambda p: p.astype(np.int64),
    "uint16": lambda p: p.astype(np.uint16) * 257,
    "with alpha": with_alpha,
    "tensor": torch.tensor,
    "float tensor": lambda p: torch.tensor(p) / 255,
    "bfloat16 tensor 0..255": lambda p: torch.tensor(p).bfloat16(),
    "tensor with gradient": lambda p: torch.tensor(p / 255).requires_grad_(),
    "tensor [C, H, W]": lambda p: torch.tensor(p).permute(2, 0, 1),
    "tensor with alpha": lambda p: torch.tensor(with_alpha(p)),
    "__array__": HasArray,
}


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_image_gives_the_same_pixels(kind: str, pixels: Any) -> None:
    read = to_pixels(SAME[kind](pixels))
    assert read.dtype == np.uint8 and np.array_equal(read, pixels)


def test_gray_images_and_masks() -> None:
    gray = np.arange(15, dtype=np.uint8).reshape(3, 5)
    for source in (gray, gray[..., None], torch.tensor(gray), torch.tensor(gray)[None]):
        assert np.array_equal(to_pixels(source), np.stack([gray] * 3, -1))
    assert to_pixels(gray > 5).max() == 255
    clear = np.zeros((2, 2, 4), np.uint8)
    assert (to_pixels(clear) == 255).all()  # transparency is laid over white


def test_a_pil_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "JPEG", exif=exif)
    assert to_pixels(Image.open(stream)).shape == to_pixels(stream.getvalue()).shape == (6, 4, 3)


def test_twelve_bits_in_sixteen_are_read_alike_from_every_source() -> None:
    values = np.linspace(0, 4095, 35).round().astype(np.uint16).reshape(5, 7)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    expected = np.stack([(values / 4095 * 255).round()] * 3, -1)
    for source in (stream.getvalue(), Image.open(stream), values, torch.tensor(values)):
        assert np.array_equal(to_pixels(source), expected)


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"x")
    file.close()
    return file


WRONG: list[tuple[Any, str]] = [
    ("https://example.org/a.jpg", "a URL is not downloaded"),
    ("S3://bucket/a.jpg", "a URL is not downloaded"),
    (Path("https://example.org/a.jpg"), "a URL is not downloaded"),
    ("data:image/png;base64,AAAA", "a URL is not downloaded"),
    ("missing.jpg", "No such file"),
    (io.StringIO("text"), "open it with mode 'rb'"),
    (closed_file(), "cannot be read"),
    (torch.zeros(8, 8, 3).to_sparse(), "expected a dense one"),
    (torch.zeros(8, 8, 3, device="meta"), "expected a dense one"),
    (None, "expected a path, .* got None"),
    (3, "got int"),
    (np.zeros((3, 8, 8), np.uint8), r"needs \.transpose\(1, 2, 0\)"),
    (np.zeros((8, 8, 2), np.uint8), r"got uint8 \[8, 8, 2\]"),
    (np.zeros((0, 8, 3), np.uint8), r"got uint8 \[0, 8, 3\]"),
    (np.zeros(8, np.uint8), r"got uint8 \[8\]"),
    (np.zeros((8, 8, 3), complex), "got complex128"),
    (np.full((8, 8, 3), -1.5), "before any normalization"),
    (np.full((8, 8, 3), 1.5), "values from 1.5 to 1.5"),
    (np.full((8, 8, 3), 300), "values from 300 to 300"),
    (np.full((8, 8, 3), np.nan), "values from nan"),
    (torch.zeros(2, 3, 8, 8, 8), r"got float32 \[2, 3, 8, 8, 8\]"),
    (np.zeros((8000, 8000), np.uint8), "8000 x 8000 pixels is more than"),
]


@pytest.mark.parametrize(("source", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_no_image_is_named(source: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        to_pixels(source)
    assert "\n" not in str(caught.value)


def test_a_list_gives_what_its_images_give_alone(predictor: Any, pixels: Any) -> None:
    wide = pixels[:64]
    sources = [EXAMPLE, wide, Image.fromarray(pixels), torch.tensor(wide), EXAMPLE.read_bytes()]
    many = predictor(sources, threshold=0.3)
    for source, found in zip(sources, many, strict=True):
        alone = predictor(source, threshold=0.3)
        assert found.labels.tolist() == alone.labels.tolist() and len(found) > 0
        torch.testing.assert_close(found.boxes, alone.boxes, atol=1e-2, rtol=0)
        assert found.draw().size == alone.draw().size


def test_generators_tuples_and_stacks_are_batched(
    predictor: Any, pixels: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = type(predictor).run
    monkeypatch.setattr(
        type(predictor),
        "run",
        lambda self, samples: sizes.append(len(samples)) or run(self, samples),
    )
    taken = 0

    def images() -> Iterator[Any]:
        nonlocal taken
        for _ in range(11):
            taken += 1
            yield pixels

    assert len(predictor(images())) == 11 and taken == 11
    assert sizes == [8, 3]
    assert len(predictor((EXAMPLE, EXAMPLE))) == 2
    stack = np.stack([pixels, pixels])
    assert len(predictor(stack)) == len(predictor(torch.tensor(stack).permute(0, 3, 1, 2))) == 2
    assert predictor([]) == []
    assert predictor(iter([pixels]))[0].names == predictor.labels


def test_images_of_many_sizes_keep_their_order(predictor: Any, pixels: Any) -> None:
    exact, predictor.exact = predictor.exact, None
    short, predictor.short = predictor.short, None
    long, predictor.long = predictor.long, None
    try:
        images = [np.ascontiguousarray(pixels[: 128 - n]) for n in range(40)]
        found = predictor(image for image in images)
        assert [each.image().shape[0] for each in found] == [128 - n for n in range(40)]
    finally:
        predictor.exact, predictor.short, predictor.long = exact, short, long


def test_an_error_in_a_list_names_the_index(predictor: Any, pixels: Any) -> None:
    with pytest.raises(InputError, match=r"images\[1\]: .*missing\.jpg"):
        predictor([EXAMPLE, "missing.jpg"])
    with pytest.raises(InputError, match=r"images\[0\]: image: expected .*, got list"):
        predictor([[1, 2], [3, 4]])
    with pytest.raises(InputError, match="got dict"):
        predictor({"image": pixels})
    with pytest.raises(InputError, match="threshold: expected a number"):
        predictor(pixels, threshold="high")
