"""DetInferencer: images in, dicts and drawings out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cupola.bundles import shipped_names
from cupola.bundles.hub import is_hub_id
from cupola.bundles.model_index import find_published
from cupola.compat.mmdet.detector import Detector, detect, init_detector, read_again
from cupola.compat.mmdet.results import DetDataSample
from cupola.config import Config
from cupola.errors import InputError
from cupola.runtime.devices import available
from cupola.runtime.load import is_config, load_predictor
from cupola.structures import PanopticSegmentation
from cupola.structures.masks import encode_rle

WRITTEN = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # drawings keep these endings
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


class DetInferencer:
    """`DetInferencer(config, checkpoint)(images)` as in MMDetection 3.x.

    `model` is the path of a config, what `Predictor.load` takes (a bundle), which needs no
    `weights`, or a name in the index of a wheel of MMDetection (`rtmdet-s`), whose published
    `weights` are downloaded if none are given. `device` is as in init_detector. `scope`, `palette`
    and `show_progress` are accepted and have no effect.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        weights: str | Path | None = None,
        device: str | None = None,
        scope: str | None = "mmdet",
        palette: Any = "none",
        show_progress: bool = True,
    ) -> None:
        if model is None:
            raise InputError(
                "DetInferencer: name a config or a bundle; weights alone do not say it"
            )
        if _is_published(model):
            model, published = find_published(str(model))
            weights = weights or published
        if is_config(model):
            self.model = init_detector(model, weights, palette, device)
        else:
            predictor = load_predictor(model, weights, device=device or available()[:2][-1])
            self.model = Detector(predictor, Config(dict(predictor.config)))

    def __call__(
        self,
        inputs: Any,
        batch_size: int = 1,
        return_vis: bool = False,
        show: bool = False,
        wait_time: int = 0,
        no_save_vis: bool = False,
        draw_pred: bool = True,
        pred_score_thr: float = 0.3,
        return_datasamples: bool = False,
        print_result: bool = False,
        no_save_pred: bool = True,
        out_dir: str | Path = "",
        texts: str | Sequence[str] | None = None,
        stuff_texts: Any = None,
        custom_entities: bool = False,
        tokens_positive: Any = None,
    ) -> dict[str, Any]:
        """{"predictions": one per image, "visualization": drawings [H, W, 3] RGB if asked for}.

        `inputs` is an image, a folder of images, or a list of them; one may be a dict with `img` or
        `img_path`. A prediction is a dict of lists
        (labels, scores, bboxes, masks as COCO's RLE) and perhaps "panoptic_seg", the ids of the
        segments as colors [H, W, 3], or a DetDataSample with `return_datasamples`. With `out_dir`
        drawings are written to `vis` in it under the images' names, and returned; with
        no_save_pred=False predictions are written to `preds`. `wait_time` has no effect.
        `texts` is what a detector that searches for a text looks for, in all images or one for
        each; names are between full stops, with and without `custom_entities`. `stuff_texts` and
        `tokens_positive` are refused.
        """
        if show:
            raise InputError("DetInferencer: there is no window to show; use return_vis or out_dir")
        refused = {"stuff_texts": stuff_texts, "tokens_positive": tokens_positive}
        for option, given in refused.items():
            if given is not None:
                raise InputError(
                    f"DetInferencer: {option} is not included; name what to find in texts"
                )
        predictions: list[Any] = []
        drawings: list[Any] = []
        images = list(images_of(inputs))
        for batch in self._batches(images, max(1, batch_size), texts):
            for sample, source, name in batch:
                plain = as_dict(sample)
                predictions.append(read_again(sample, source) if return_datasamples else plain)
                saves = bool(out_dir) and not no_save_vis
                if return_vis or saves:
                    drawn = sample.draw(pred_score_thr if draw_pred else 2.0)
                    drawings.append(np.asarray(drawn))
                    if saves:
                        drawn.save(_file(out_dir, "vis", name[0]))
                if out_dir and not no_save_pred and not return_datasamples:
                    _save(out_dir, name[1], plain)
        if print_result:
            print({"predictions": predictions})
        return {"predictions": predictions, "visualization": drawings}

    def _batches(
        self, images: list[Any], size: int, texts: str | Sequence[str] | None
    ) -> Iterator[list[tuple[DetDataSample, Any, tuple[str, str]]]]:
        each_own = texts is not None and not isinstance(texts, str)
        if each_own and len(texts or ()) != len(images):
            raise InputError(f"texts: {len(texts or ())} for {len(images)} images")
        size = 1 if each_own else size
        for start in range(0, len(images), size):
            text = texts[start] if each_own and texts is not None else texts
            found = detect(self.model, images[start : start + size], start, text)
            yield [(each, image, _name(image, start + i)) for i, (each, image) in enumerate(found)]


def _is_published(model: str | Path) -> bool:
    """Whether a model can only be meant as a name of the index."""
    known = is_config(model) or is_hub_id(model) or str(model) in shipped_names()
    return not known and not Path(model).exists()


def images_of(inputs: Any) -> Iterator[Any]:
    """The images of an input: itself, those in a folder by name, or those of a list."""
    if isinstance(inputs, str | Path) and Path(inputs).is_dir():
        found = sorted(p for p in Path(inputs).iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"{inputs}: holds no image ({', '.join(SUFFIXES)})")
        yield from map(str, found)
    elif isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        yield from map(_content, inputs)
    else:
        yield _content(inputs)


def _content(image: Any) -> Any:
    """The image of a dict with `img` or `img_path`; other images are as they are."""
    if not isinstance(image, Mapping):
        return image
    found = image.get("img", image.get("img_path"))
    if found is None:
        raise InputError(f"images: a dict has `img` or `img_path`, got {sorted(map(str, image))}")
    return found


def as_dict(sample: DetDataSample) -> dict[str, Any]:
    """labels, scores and bboxes of all detections as lists; masks and the panoptic map if any."""
    instances = sample.pred_instances
    plain = {key: getattr(instances, key).tolist() for key in ("labels", "scores", "bboxes")}
    if instances.masks is not None:
        plain["masks"] = [encode_rle(mask) for mask in instances.masks]
    if sample.found.panoptic is not None:
        plain["panoptic_seg"] = as_colors(sample.found.panoptic)
    return plain


def as_colors(found: PanopticSegmentation) -> NDArray[np.uint8]:
    """The ids of segments as R + 256 G + 65536 B, 0 where there is none: [H, W, 3]."""
    ids = np.where(found.ids == found.void, 0, found.ids.numpy()).astype(np.int64)
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)


def _save(out_dir: str | Path, number: str, plain: dict[str, Any]) -> None:
    """A prediction as JSON, its panoptic map as a PNG beside it, whose path replaces it."""
    kept = dict(plain)
    if "panoptic_seg" in kept:
        path = _file(out_dir, "preds", f"{number}_panoptic_seg.png")
        Image.fromarray(kept.pop("panoptic_seg")).save(path)
        kept["panoptic_seg_path"] = plain["panoptic_seg_path"] = str(path)
        del plain["panoptic_seg"]
    _file(out_dir, "preds", f"{number}.json").write_text(json.dumps(kept))


def _name(image: Any, index: int) -> tuple[str, str]:
    """The names of a drawing, with its ending, and of a prediction."""
    if not isinstance(image, str | Path):
        return f"{index:08d}.jpg", str(index)
    path = Path(image)
    return (path.name if path.suffix.lower() in WRITTEN else f"{path.stem}.jpg"), path.stem


def _file(folder: str | Path, kind: str, name: str) -> Path:
    path = Path(folder) / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
