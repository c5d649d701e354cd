"""Photometric distortion of the images of several cameras, as the published trainings use it.

Letters: N cameras, (H, W) image. Source: mmdet3d's PhotoMetricDistortionMultiViewImage and
PhotoMetricDistortion3D; the scheme is SSD's (arXiv 1512.02325, section 3.6).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Distortion:
    """The random parameters for one image; None skips a step."""

    brightness: float | None
    contrast_first: bool
    contrast: float | None
    saturation: float | None
    hue: float | None
    channels: tuple[int, ...] | None


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation, hue and the order of channels, each with probability 1/2.

    brightness_delta is in gray levels of 0..255, hue_delta in degrees. With `shared` all images
    of a sample get the same distortion, as in MMDetection3D's MultiViewWrapper; the original
    repository draws one for each image.
    """

    brightness_delta: float = 32
    contrast_range: Sequence[float] = (0.5, 1.5)
    saturation_range: Sequence[float] = (0.5, 1.5)
    hue_delta: float = 18
    shared: bool = False

    def draw(self, rng: np.random.Generator) -> Distortion:
        """Draws the parameters of one image from the sample's generator."""

        def perhaps(low: float, high: float) -> float | None:
            return float(rng.uniform(low, high)) if rng.random() < 0.5 else None

        return Distortion(
            brightness=perhaps(-self.brightness_delta, self.brightness_delta),
            contrast_first=bool(rng.random() < 0.5),
            contrast=perhaps(*self.contrast_range),
            saturation=perhaps(*self.saturation_range),
            hue=perhaps(-self.hue_delta, self.hue_delta),
            channels=tuple(rng.permutation(3).tolist()) if rng.random() < 0.5 else None,
        )

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """RGB images [N, H, W, 3], 0..255 -> the same, float; values may leave that range."""
        drawn = [self.draw(rng) for _ in range(1 if self.shared else len(images))]
        chosen = drawn * len(images) if self.shared else drawn
        return np.stack([distort(p, d) for p, d in zip(images, chosen, strict=True)])


def distort(image: Pixels, drawn: Distortion, limited: bool = False) -> Pixels:
    """Applies a distortion to one image [H, W, 3].

    With `limited` saturation stays within 1, as in MMDetection 3.x.
    """
    out = image.astype(np.float32)
    if drawn.brightness is not None:
        out = out + np.float32(drawn.brightness)
    if drawn.contrast is not None and drawn.contrast_first:
        out = out * np.float32(drawn.contrast)
    changed = drawn.saturation is not None or drawn.hue is not None
    if changed or (drawn.brightness or 0) < 0:  # pixels below 0 change on the way to HSV and back
        saturation = 1.0 if drawn.saturation is None else drawn.saturation
        out = _recolor(out, saturation, drawn.hue or 0.0, limited and saturation > 1)
    if drawn.contrast is not None and not drawn.contrast_first:
        out = out * np.float32(drawn.contrast)
    return out if drawn.channels is None else out[..., list(drawn.channels)]


def _recolor(image: Pixels, saturation: float, hue: float, limited: bool) -> Pixels:
    """Scales the saturation and rotates the hue by degrees in HSV.

    Each channel is value - chroma * f(hue + its offset); only chroma and hue change. Where the
    value is negative the chroma is added, since OpenCV's saturation is chroma / |value|.
    """
    value = image.max(-1)
    chroma = value - image.min(-1)
    red, green, blue = np.moveaxis(image, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sector = np.select(
            [value == red, value == green],
            [(green - blue) / chroma, 2 + (blue - red) / chroma],
            4 + (red - green) / chroma,
        )
    sector = np.where(chroma > 0, sector, 0) + hue / 60
    places = (sector[..., None] + np.array([5, 3, 1], np.float32)) % 6
    share = np.clip(np.minimum(places, 4 - places), 0, 1)
    strong = saturation * chroma
    strong = (np.minimum(strong, np.abs(value)) if limited else strong) * np.sign(value)
    scaled = (value[..., None] - strong[..., None] * share).astype(np.float32)
    return np.asarray(scaled)
