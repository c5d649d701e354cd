"""The kinds of files that are made up: how they are written, changed and read."""

import io
import json
import pickle
import pickletools
import random
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cupola.data.coco import CocoDataset
from cupola.data.nuscenes_infos import info_samples
from cupola.data.nuscenes_tables import Tables
from cupola.data.panoptic import CocoPanopticDataset
from cupola.errors import BundleError, CheckpointError, DataError, InputError
from cupola.files.images import read_image, read_size
from cupola.files.pickles import Placeholder, Sealed, _Type, load_plain_pickle
from cupola.files.tokenizer import read_tokenizer
from cupola.weights import read_checkpoint
from fuzz.mutate import change_bytes, change_json, change_pickle
from fuzz.oracle import Kind

# With what describes an array, which is inert where a file leaves it in the place of a value.
PLAIN_TYPES = (
    int,
    float,
    complex,
    str,
    bytes,
    bool,
    type(None),
    bytearray,
    np.generic,
    Sealed,
    _Type,
)
CAMERA = {"data_path": "samples/a.jpg", "cam_intrinsic": np.eye(3), "img_path": "a.jpg"}
CAMERA |= {"sensor2lidar_rotation": np.eye(3), "sensor2lidar_translation": np.zeros(3)}
CAMERA |= {"cam2img": np.eye(3).tolist(), "lidar2cam": np.eye(4).tolist()}
BOXES = {
    "gt_names": np.array(["car"]),
    "gt_boxes": np.zeros((1, 7)),
    "valid_flag": np.array([True]),
}
INFO = {"token": "t", "timestamp": 1, "cams": {"CAM_FRONT": CAMERA}, **BOXES}
THINGS = [{"bbox_3d": [0.0] * 7, "velocity": [0.0, 0.0], "bbox_label_3d": 0}]
LAYOUTS = (
    {"infos": [INFO, INFO], "metadata": {"version": "v1.0-mini"}},
    {"data_list": [{"token": "t", "images": {"CAM_FRONT": CAMERA}, "instances": THINGS}],
     "metainfo": {"categories": {"car": 0}}},
    {"a": [1, 2.5, (True, None), {3, 4}, b"raw", OrderedDict(x=np.float32(2))],
     "b": np.array(["x", None, 3], object)},
)  # fmt: skip


def is_plain(value: Any, depth: int = 0) -> bool:
    """Whether a value consists of plain data; every number of its arrays is read."""
    if isinstance(value, np.ndarray):
        return is_plain(value.tolist(), depth + 1)
    if type(value) in (list, tuple, set, dict, OrderedDict, frozenset):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return depth > 50 or all(is_plain(each, depth + 1) for each in islice(items, 1000))
    return isinstance(value, PLAIN_TYPES)


def make_info(draw: random.Random) -> tuple[bytes, str]:
    data = pickle.dumps(draw.choice(LAYOUTS), protocol=draw.randint(0, 5))
    return change_pickle(data, draw), ".pkl"


def read_info(path: Path) -> None:
    """Both the reader of plain pickles and that of info files."""
    try:
        value = load_plain_pickle(path.read_bytes())
    except pickle.UnpicklingError:
        value = None
    if not is_plain(value):
        raise AssertionError(f"not plain: {value!r:.300}")
    info_samples(path)


@cache
def checkpoints() -> tuple[bytes, ...]:
    """A state dict in both of PyTorch's formats, and as a plain pickle of arrays."""
    weights = OrderedDict(
        w=torch.ones(2, 3), b=torch.arange(4), p=torch.nn.Parameter(torch.ones(1))
    )
    content = {"state_dict": weights, "meta": {"epoch": 3}, "size": torch.Size([1])}
    files = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        files.append(file.getvalue())
    return (*files, pickle.dumps({"model": {"w": np.ones((2, 3), np.float32)}}, 2))


def make_checkpoint(draw: random.Random) -> tuple[bytes, str]:
    data = draw.choice(checkpoints())
    if draw.random() < 0.3:
        return change_bytes(data, draw), ".pth"
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return (change_pickle(data, draw) if draw.random() < 0.5 else _legacy(data, draw)), ".pth"
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        packing = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                content = change_pickle(content, draw)
            elif draw.random() < 0.2:
                content = change_bytes(content, draw)
            if draw.random() < 0.97:
                new.writestr(name, content, packing)
    return file.getvalue(), ".pth"


def _legacy(data: bytes, draw: random.Random) -> bytes:
    """The old format with one of its pickles changed."""
    stream, pieces = io.BytesIO(data), []
    for _ in range(5):
        begin = stream.tell()
        try:
            list(pickletools.genops(stream))
        except ValueError:
            break
        pieces.append(data[begin : stream.tell()])
    if not pieces:
        return change_bytes(data, draw)
    chosen = draw.randrange(len(pieces))
    rest = data[sum(map(len, pieces)) :]
    pieces[chosen] = change_pickle(pieces[chosen], draw)
    return b"".join(pieces) + rest


def read_weights(path: Path) -> None:
    """Every number of every tensor is read."""
    for key, tensor in read_checkpoint(path).items():
        assert isinstance(key, str) and not isinstance(key, Placeholder)
        if tensor.numel() < 10**7:
            tensor.clone()


HEADER = {
    "__metadata__": {"format": "pt"},
    "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "I64", "shape": [4], "data_offsets": [24, 56]},
    "h": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [56, 64]},
}


def make_safetensors(draw: random.Random) -> tuple[bytes, str]:
    pick = draw.random()
    header = change_json(HEADER, draw) if pick < 0.7 else HEADER
    text = json.dumps(header).encode()
    size = len(text) if draw.random() < 0.9 else draw.choice((0, 2**31, 2**63, len(text) + 1))
    data = struct.pack("<Q", size) + text + bytes(range(64))
    return (data if pick < 0.6 else change_bytes(data, draw)), ".safetensors"


PICTURE = Image.effect_noise((16, 12), 50).convert("RGB")
FOLDER_COCO = {
    "images": [{"id": 1, "file_name": "log.png", "width": 16, "height": 12},
               {"id": 2, "file_name": "a/b.jpg", "width": 16, "height": 12}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0,
         "segmentation": [[1, 1, 6, 1, 6, 6, 1, 6]]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 4, 4], "iscrowd": 1,
         "segmentation": {"size": [12, 16], "counts": [0, 4, 188]}},
        {"id": 3, "image_id": 2, "category_id": 2, "bbox": [0, 0, 4, 4], "iscrowd": 0,
         "segmentation": {"size": [12, 16], "counts": "04l5"}},
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}  # fmt: skip
PANOPTIC = {
    "images": [{"id": 1, "file_name": "log.png", "width": 16, "height": 12}],
    "annotations": [
        {"image_id": 1, "file_name": "log.png",
         "segments_info": [{"id": 7, "category_id": 1, "iscrowd": 0}, {"id": 9, "category_id": 2}]},
    ],
    "categories": [{"id": 1, "name": "cat", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
}  # fmt: skip


def make_json(*seeds: Any) -> Callable[[random.Random], tuple[bytes, str]]:
    """Files of changed values, of which some are no JSON."""

    def make(draw: random.Random) -> tuple[bytes, str]:
        data = json.dumps(change_json(draw.choice(seeds), draw)).encode()
        return (data if draw.random() < 0.9 else change_bytes(data, draw)), ".json"

    return make


def write_image(path: Path) -> None:
    """An image beside the file."""
    (path.parent / "images" / "a").mkdir(exist_ok=True, parents=True)
    PICTURE.save(path.parent / "images" / "a" / "b.jpg")
    PICTURE.save(path.parent / "images" / "log.png")


def read_coco(path: Path) -> None:
    """Every sample of a file, whose images are there or not."""
    data = CocoDataset(str(path.parent), path.name, test_mode=True, with_mask=True)
    for index in range(min(len(data), 3)):
        data.ground_truth(index)
        data.truth(index)
        data[index]


def read_panoptic(path: Path) -> None:
    prefix = {"img": "images", "seg": "images"}
    data = CocoPanopticDataset(str(path.parent), path.name, prefix)
    for index in range(min(len(data), 3)):
        data[index]


PLACE = {"translation": [0.0, 1.0, 2.0], "rotation": [1.0, 0.0, 0.0, 0.0]}
NUSCENES: dict[str, list[dict[str, Any]]] = {
    "sensor": [{"token": "s0", "channel": "LIDAR_TOP"}, {"token": "s1", "channel": "CAM_FRONT"}],
    "calibrated_sensor": [
        {"token": f"c{i}", "sensor_token": f"s{i}", "camera_intrinsic": np.eye(3).tolist(), **PLACE}
        for i in range(2)
    ],
    "ego_pose": [{"token": "e", **PLACE}],
    "sample_data": [
        {"token": f"d{i}", "sample_token": "t", "calibrated_sensor_token": f"c{i}",
         "ego_pose_token": "e", "is_key_frame": True, "filename": "samples/a.jpg"}
        for i in range(2)
    ],
    "scene": [{"token": "n", "name": "scene-1"}],
    "sample": [{"token": "t", "scene_token": "n", "timestamp": 10**6}],
    "sample_annotation": [
        {"token": "a", "sample_token": "t", "instance_token": "i", "size": [1.0, 2.0, 3.0],
         "num_lidar_pts": 1, "num_radar_pts": 0, "prev": "", "next": "", **PLACE},
    ],
    "instance": [{"token": "i", "category_token": "k"}],
    "category": [{"token": "k", "name": "vehicle.car"}],
}  # fmt: skip


def write_tables(path: Path) -> None:
    """A folder with the tables of one file."""
    folder = path.parent / "tables"
    folder.mkdir(exist_ok=True)
    try:
        tables = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        tables = {}
    content = tables if isinstance(tables, dict) else {}
    for name in NUSCENES:
        (folder / f"{name}.json").write_text(json.dumps(content.get(name)))


def read_nuscenes(path: Path) -> None:
    """Every sample of the tables."""
    found = Tables(path.parent, "tables").samples()
    for index in range(min(len(found), 3)):
        found[index]


FORMATS = (
    "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "EPS", "ICO", "TGA", "PCX", "SGI",
    "DDS", "JPEG2000", "MSP", "XBM", "IM", "PDF", "SPIDER", "QOI", "MPO", "DIB",
)  # fmt: skip


@cache
def pictures() -> tuple[bytes, ...]:
    """A small image in each of Pillow's formats and modes."""
    found = []
    for mode in ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK", "F", "LA", "I"):
        picture = PICTURE.convert(mode) if mode != "I;16" else PICTURE.convert("I").convert("I;16")
        for kind in FORMATS:
            for options in (
                {},
                {"compression": "tiff_lzw"},
                {"save_all": True},
                {"optimize": True},
            ):
                file = io.BytesIO()
                try:
                    picture.save(file, kind, **options)
                except Exception:
                    continue
                found.append(file.getvalue())
    return tuple(dict.fromkeys(found))


def make_image(draw: random.Random) -> tuple[bytes, str]:
    data = change_bytes(draw.choice(pictures()), draw, 3)
    if data.startswith(b"\x89PNG") and draw.random() < 0.7:
        data = _with_checksums(data)
    return data, draw.choice([".png", ".jpg", ".tif"])


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the right checksums, so that its changes are looked at."""
    found, at = data[:8], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        found += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return found


def read_picture(path: Path) -> None:
    """Its size and its pixels, which must agree."""
    size = read_size(path)
    pixels = read_image(path)
    assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8, (pixels.shape, size)


@cache
def tokenizers() -> tuple[dict[str, Any], ...]:
    """Small tokenizers of each model, with all parts that a file may program."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    pieces = [("<unk>", 0.0), ("▁a", -1.0), ("a", -2.0), ("b", -2.5)]
    made = []
    for model in (
        models.BPE({**letters, "ab": 300, "abc": 301}, [("a", "b"), ("ab", "c")]),
        models.Unigram(pieces, 0, True),
        models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"),
        models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
    ):
        tokenizer = Tokenizer(model)
        steps = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("a", "b")]
        tokenizer.normalizer = normalizers.Sequence(steps)
        cuts = [pre_tokenizers.Digits(True), pre_tokenizers.Split("b", "isolated")]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel()])
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.TemplateProcessing("a $A", special_tokens=[("a", 1)])
        tokenizer.add_special_tokens(["<s>"])
        tokenizer.enable_padding(length=8)
        tokenizer.enable_truncation(100)
        made.append(json.loads(tokenizer.to_str()))
    return tuple(made)


def make_tokenizer(draw: random.Random) -> tuple[bytes, str]:
    return make_json(*tokenizers())(draw)


def read_a_tokenizer(path: Path) -> None:
    """Reading it, and texts there and back; a failure of those is the error of one request."""
    tokenizer = read_tokenizer(path, BundleError)
    for text in ("abc ab 12", "", "ü\U0001f600", "a" * 500):
        try:
            tokenizer.decode(tokenizer.encode(text).ids)
            tokenizer.decode([0, 2**31, 301])
        except InputError as error:
            assert str(error).isprintable()


KINDS = {
    "info": Kind(make_info, read_info, (DataError,)),
    "checkpoint": Kind(make_checkpoint, read_weights, (CheckpointError,)),
    "safetensors": Kind(make_safetensors, read_weights, (CheckpointError,)),
    "coco": Kind(make_json(FOLDER_COCO), read_coco, (DataError,), write_image),
    "panoptic": Kind(make_json(PANOPTIC), read_panoptic, (DataError,), write_image),
    "nuscenes": Kind(make_json(NUSCENES), read_nuscenes, (DataError,), write_tables),
    "image": Kind(make_image, read_picture, (InputError,)),
    "tokenizer": Kind(make_tokenizer, read_a_tokenizer, (BundleError,)),
}
