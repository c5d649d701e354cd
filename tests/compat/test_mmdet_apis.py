"""A script written for mmdet.apis runs with one import changed."""

import copy
import json
import logging
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cupola
from cupola.bundles import Bundle
from cupola.compat.mmdet import Detector, DetInferencer, inference_detector, init_detector
from cupola.config import Config
from cupola.errors import CheckpointError, ConfigError, InputError
from cupola.files.images import read_image
from cupola.runtime.devices import available
from cupola.structures import Detections, PanopticSegmentation, Segment
from cupola.structures.masks import decode_rle
from cupola.weights.reading import read_checkpoint

SHIPPED = Bundle.load("detr-digits")
EXAMPLE = SHIPPED.path / "example/image.png"
NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """detr-digits as a config and a checkpoint of MMDetection 3.x."""
    folder = tmp_path_factory.mktemp("mmdet")
    model = dict(SHIPPED.model_config)
    model["data_preprocessor"] = {
        "type": "mmdet.DetDataPreprocessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
    }
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (128, 128), "keep_ratio": False},
        {"type": "PackDetInputs"},
    ]
    content = {
        "default_scope": "mmdet",
        "model": model,
        "test_dataloader": {"dataset": {"type": "CocoDataset", "pipeline": pipeline}},
    }
    (folder / "detr.py").write_text(Config(content).dump())
    meta = {"dataset_meta": {"classes": NAMES, "palette": None}, "epoch": 3}
    state = read_checkpoint(SHIPPED.weights_path)
    torch.save({"meta": meta, "state_dict": state}, folder / "detr.pth")
    return str(folder / "detr.py"), str(folder / "detr.pth")


@pytest.fixture(scope="module")
def model(files: tuple[str, str]) -> Any:
    return init_detector(*files, device="cpu")


def test_a_script_of_version_3(model: Any) -> None:
    result = inference_detector(model, str(EXAMPLE))
    found = result.pred_instances
    wanted = cupola.Predictor.load("detr-digits")(EXAMPLE, threshold=0.0)
    torch.testing.assert_close(found.bboxes, wanted.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores, wanted.scores)
    assert torch.equal(found.labels, wanted.labels)
    assert model.dataset_meta["classes"] == model.CLASSES == NAMES
    assert model.cfg.model.type == "DETR"
    best = found[found.scores > 0.5]
    assert 0 < len(best) < len(found) == 25
    assert isinstance(best.cpu().numpy().bboxes, np.ndarray)
    assert len(found[0]) == len(found[-1]) == len(found[[3]]) == 1 and len(found[:7]) == 7
    assert "masks" not in found and found.get("masks") is None
    assert result.img_path == str(EXAMPLE) and result.ori_shape == (128, 128)
    assert result.draw(0.5).size == (128, 128)
    assert found.to_dict().keys() == set(found.all_keys()) == {"bboxes", "scores", "labels"}
    assert result.to_dict()["pred_instances"]["bboxes"] is found.bboxes
    assert "pred_instances" in result and "pred_panoptic_seg" not in result
    assert result.get("pred_instances") is found and result.get("ori_shape") == (128, 128)
    assert result.get("gt_instances") is None
    with pytest.raises(AttributeError, match=r"docs/migrate\.md"):
        result.pred_panoptic_seg  # noqa: B018


def test_a_detector_has_what_its_model_has(model: Any) -> None:
    assert model.to("cpu").eval() is model and not model.training
    assert next(iter(model.parameters())).device.type == "cpu"
    assert model.bbox_head is model.model.bbox_head
    assert len(model.state_dict()) == len(model.model.state_dict())
    with pytest.raises(AttributeError, match="no_such_part"):
        model.no_such_part  # noqa: B018
    with pytest.raises(InputError, match="cuda"):
        model.to("cuda:99")
    assert copy.copy(model).CLASSES == NAMES and pickle.loads(pickle.dumps(model)).CLASSES == NAMES


def test_arrays_are_bgr_as_cv2_reads_them(model: Any) -> None:
    import cv2

    one = inference_detector(model, cv2.imread(str(EXAMPLE)))
    many = inference_detector(model, [cv2.imread(str(EXAMPLE)), EXAMPLE])
    wanted = inference_detector(model, EXAMPLE)
    for result in (one, *many):
        torch.testing.assert_close(
            result.pred_instances.scores, wanted.pred_instances.scores, atol=1e-5, rtol=0
        )


def test_results_of_version_2(model: Any) -> None:
    result = inference_detector(model, EXAMPLE)
    by_class = result.by_class()
    assert len(by_class) == 10 and sum(map(len, by_class)) == 25
    label = int(result.pred_instances.labels[0])
    assert by_class[label].shape[1] == 5
    assert by_class[label][0, 4] == pytest.approx(float(result.pred_instances.scores[0]))


def test_options_of_init_detector(files: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cupola"):
        changed = init_detector(
            Path(files[0]), cfg_options={"model.test_cfg.max_per_img": 7}, device="cpu"
        )
    assert "are random" in caplog.text
    assert len(inference_detector(changed, EXAMPLE).pred_instances) == 7
    from mmengine.config import Config as PeerConfig

    peer = init_detector(PeerConfig.fromfile(files[0]), files[1], device="cpu")
    assert peer.CLASSES == NAMES
    assert init_detector(Config.load(files[0]).to_dict(), files[1], device="cpu").CLASSES == NAMES


def test_devices(files: tuple[str, str]) -> None:
    with pytest.raises(InputError, match="device 'cuda:99': not on this machine"):
        init_detector(*files, device="cuda:99")
    with pytest.raises(InputError, match="device 'gpu': not a device; name one of 'cpu'"):
        DetInferencer(*files, device="gpu")
    assert DetInferencer(*files).model.predictor.device == torch.device(available()[:2][-1])


def test_each_image_is_decoded_once(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(source: Any, **options: Any) -> Any:
        read.append(str(source))
        return read_image(source, **options)

    monkeypatch.setattr("cupola.runtime.io.image_sources.read_image", counted)
    images = []
    for number in range(3):
        images.append(str(tmp_path / f"{number}.png"))
        shutil.copy(EXAMPLE, images[-1])
    model = init_detector(*files, device="cpu")
    samples = inference_detector(model, images)
    assert read == images
    assert [sample.ori_shape for sample in samples] == [read_image(EXAMPLE).shape[:2]] * 3
    read.clear()
    inferencer = DetInferencer(*files, device="cpu")
    inferencer(images, batch_size=2, return_vis=True, out_dir=tmp_path / "out")
    assert read == images
    with open(EXAMPLE, "rb") as file:
        assert inference_detector(model, file).draw().size == read_image(EXAMPLE).shape[1::-1]
    with pytest.raises(InputError, match=r"images\[1\]: .*missing.png"):
        inferencer([images[0], "missing.png"])


def test_errors(files: tuple[str, str], model: Any) -> None:
    with pytest.raises(
        CheckpointError, match="offline mode is on; download the file and pass its path"
    ):
        init_detector(files[0], "https://download.example.org/detr.pth", device="cpu")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        init_detector(files[0], "missing.pth", device="cpu")
    with pytest.raises(ConfigError, match="expected a path or a dict, got int"):
        init_detector(3, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="test_pipeline: expected a list of transforms as a conf"):
        inference_detector(model, EXAMPLE, test_pipeline=lambda data: data)
    with pytest.raises(InputError, match="test_pipeline: the test pipeline resizes by scale_fact"):
        inference_detector(model, EXAMPLE, test_pipeline=[{"type": "Resize", "scale_factor": 0.5}])


def test_another_pipeline(model: Any) -> None:
    """As video_demo.py has it: the config's pipeline with another first step or size."""
    load = {"type": "mmdet.LoadImageFromNDArray"}
    image = read_image(EXAMPLE)[..., ::-1]
    small = [load, {"type": "Resize", "scale": (64, 64)}, {"type": "PackDetInputs"}]
    found = inference_detector(model, image, test_pipeline=small)
    assert found.ori_shape == (128, 128) and found.pred_instances.bboxes.max() > 64
    seen: list[Any] = []
    predict = model.model.predict
    model.model.predict = lambda batch: seen.append(batch["pixels"].shape) or predict(batch)
    try:
        inference_detector(model, [image, image], test_pipeline=small)
        inference_detector(model, image)
    finally:
        model.model.predict = predict
    assert seen == [(2, 3, 64, 64), (1, 3, 128, 128)]


def test_the_third_argument_of_version_2_is_a_device(files: tuple[str, str]) -> None:
    assert init_detector(*files, "cpu").predictor.device.type == "cpu"
    with pytest.raises(InputError, match="device 'cuda:99': not on this machine"):
        init_detector(*files, "cuda:99")


class Segmenter:
    """A predictor of one mask and of two segments."""

    name, labels, max_batch, max_image_pixels = "toy", ("a", "b"), 4, 10_000

    def __call__(self, images: Any, threshold: float) -> Any:
        mask = torch.zeros(1, 5, 6, dtype=torch.bool)
        mask[0, 1:3, 2:4] = True
        ids = torch.full((5, 6), 2, dtype=torch.int32)
        ids[mask[0]] = 1000
        segments = (Segment(1000, 0, True, 0.9, 4), Segment(1, 1, False, 0.5, 5))
        ids[4, :5] = 1
        box = torch.tensor([[2.0, 1, 4, 3]])
        found = Detections(box, torch.tensor([0.9]), torch.tensor([0]), ("a", "b"), masks=mask,
                           panoptic=PanopticSegmentation(ids, segments, 2))  # fmt: skip
        return [replace(found, image=lambda: np.zeros((5, 6, 3), np.uint8)) for _ in images]


def test_masks_and_segments_of_the_inferencer(files: tuple[str, str], tmp_path: Path) -> None:
    inferencer = DetInferencer(*files, device="cpu")
    inferencer.model = Detector(Segmenter(), inferencer.model.cfg)
    images = [np.zeros((5, 6, 3), np.uint8)] * 2
    result = inferencer(images, 1, True, False, 0, out_dir=tmp_path / "out")
    plain = result["predictions"][0]
    assert decode_rle(plain["masks"][0]).sum() == 4 and len(result["visualization"]) == 2
    colors = plain["panoptic_seg"].astype(int)
    assert {tuple(each) for each in colors.reshape(-1, 3)} == {(0, 0, 0), (232, 3, 0), (1, 0, 0)}
    names = sorted(path.name for path in (tmp_path / "out/vis").iterdir())
    assert names == ["00000000.jpg", "00000001.jpg"]
    saved = inferencer(images, out_dir=tmp_path, no_save_pred=False, no_save_vis=True)
    path = tmp_path / "preds/1_panoptic_seg.png"
    assert saved["predictions"][1]["panoptic_seg_path"] == str(path)
    assert np.array_equal(np.asarray(Image.open(path)), colors)
    written = json.loads((tmp_path / "preds/1.json").read_text())
    assert written == saved["predictions"][1]


def test_the_inferencer(files: tuple[str, str], tmp_path: Path, capsys: Any) -> None:
    inferencer = DetInferencer(*files, device="cpu")
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("b.png", "a.png"):
        Image.open(EXAMPLE).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    result = inferencer(str(folder), batch_size=2, out_dir=out, no_save_pred=False, return_vis=True)
    assert [set(each) for each in result["predictions"]] == [{"labels", "scores", "bboxes"}] * 2
    assert result["visualization"][0].shape == (128, 128, 3)
    assert sorted(p.name for p in (out / "vis").iterdir()) == ["a.png", "b.png"]
    assert json.loads((out / "preds/a.json").read_text()) == result["predictions"][0]
    single = inferencer(str(EXAMPLE), print_result=True, return_datasamples=True)
    assert len(single["predictions"][0].pred_instances) == 25 and single["visualization"] == []
    assert "DetDataSample" in capsys.readouterr().out
    shipped = DetInferencer("detr-digits")([EXAMPLE])["predictions"][0]
    assert shipped["scores"] == pytest.approx(result["predictions"][0]["scores"], abs=1e-5)
    named = inferencer([{"img_path": str(EXAMPLE)}, {"img": np.zeros((60, 60, 3), np.uint8)}])
    assert named["predictions"][0]["scores"] == pytest.approx(shipped["scores"], abs=1e-5)
    with pytest.raises(InputError, match=r"a dict has `img` or `img_path`, got ..image"):
        inferencer({"image": str(EXAMPLE)})
    for refused in ("stuff_texts", "tokens_positive"):
        with pytest.raises(InputError, match=f"{refused} is not included; name what to find"):
            inferencer(str(EXAMPLE), **{refused: "cat ."})
    with pytest.raises(InputError, match="no window to show"):
        inferencer(str(EXAMPLE), show=True)
    with pytest.raises(InputError, match="name a config"):
        DetInferencer(weights=files[1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        inferencer(str(tmp_path / "empty"))
