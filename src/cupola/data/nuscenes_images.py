"""The images of a nuScenes sample: read, resized or cropped, and as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cupola.data.multiview_augmentation import Crop, RandomCrop
from cupola.data.nuscenes_samples import CameraView
from cupola.data.photometric import PhotometricDistortion
from cupola.errors import DataError
from cupola.files import locate
from cupola.files.images import read_image
from cupola.structures import normalize, pad_to_multiple
from cupola.structures.images import fit_size

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSettings:
    """How images are prepared; `scale` is (width, height) as in the published configs.

    `ratio` scales them besides; `crop` replaces both. `raw` leaves them as they are, BGR in
    0..255, for the model's data_preprocessor.
    """

    mean: Sequence[float] = (103.53, 116.28, 123.675)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    scale: tuple[int, int] | None = None
    ratio: float = 1.0
    pad_size_divisor: int = 1
    channel_order: str = "bgr"
    bgr_to_rgb: bool = False
    distortion: PhotometricDistortion | None = None
    crop: RandomCrop | None = None
    raw: bool = False


def read_view(root: Path, camera: CameraView) -> NDArray[np.uint8]:
    """The image of a camera, RGB [H, W, 3], at the first place below `root` that has it."""
    tried = []
    for file in dict.fromkeys(camera.files()):
        if not isinstance(file, str | Path):
            raise DataError(f"{root}: the file name of a camera is {file!r:.60}; expected a text")
        name = Path(file)
        if name.is_absolute() and name.is_relative_to(root.absolute()):
            name = name.relative_to(root.absolute())
        if name.is_absolute() or ".." in name.parts:
            continue  # another machine's; a part of it follows
        path = locate(root, name)
        if path.exists():
            return read_image(path, error=DataError)
        tried.append(str(path))
    if not tried:
        locate(root, camera.file)
    raise DataError(f"{tried[0]}: the image is missing{''.join(f', {t} too' for t in tried[1:])}")


def resized(image: Pixels, settings: ImageSettings, crop: Crop | None) -> tuple[Pixels, Array]:
    """The crop, or the image at the largest size within `scale`, and its matrix [4, 4]."""
    height, width = image.shape[:2]
    size = (width, height)
    if crop is not None:
        return crop(image), crop.matrix(size)
    if settings.scale is not None:
        size = fit_size(size, min(settings.scale), max(settings.scale))
    size = (int(size[0] * settings.ratio), int(size[1] * settings.ratio))
    if size == (width, height):
        return image, np.eye(4)
    scaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return scaled, np.diag([size[0] / width, size[1] / height, 1.0, 1.0])


def finished(views: NDArray[Any], settings: ImageSettings) -> dict[str, torch.Tensor]:
    """RGB images [N, H, W, 3] as "images", or as "raw_images" for the model to normalize."""
    bgr = settings.raw or (settings.channel_order == "bgr" and not settings.bgr_to_rgb)
    ordered = np.ascontiguousarray((views[..., ::-1] if bgr else views).transpose(0, 3, 1, 2))
    pixels = torch.from_numpy(ordered)  # [N, 3, H, W]
    if settings.raw:
        return {"raw_images": pixels}
    normalized = normalize(pixels, settings.mean, settings.std)
    return {"images": pad_to_multiple(normalized, settings.pad_size_divisor)}
