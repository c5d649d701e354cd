"""What a folder holds that a storage initializer has filled: found, or an error that lists it."""

import json
from pathlib import Path

import pytest

from cupola.bundles.model_folders import FoundModel, find_models
from cupola.errors import BundleError

BUNDLE = {"name": "digits", "version": "3", "task": "detection"}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
CONFIG = "model = dict(type='DETR')\n"


def write(folder: Path, **files: object) -> Path:
    """Files by name; __ in a name is a dot, a dict is JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def pair(folder: Path) -> Path:
    return write(folder, detr__py=CONFIG, detr__pth="")


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        find_models(folder)
    text = str(caught.value)
    assert str(folder) in text and "\n" not in text
    return text


def test_a_bundle_keeps_its_name(tmp_path: Path) -> None:
    write(tmp_path, config__json=BUNDLE, weights__safetensors="", card__md="")
    pair(tmp_path / "more")  # belongs to the bundle
    assert find_models(tmp_path) == [FoundModel(tmp_path)]


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    write(tmp_path / "models", config__json=LLAMA, model__safetensors="", modeling_own__py="x = 1")
    pair(tmp_path / "models/original")
    assert find_models(tmp_path / "models") == [FoundModel(tmp_path / "models")]
    (found,) = find_models(tmp_path)
    assert (found.path, found.name) == (tmp_path / "models", "models")


def test_an_adapter(tmp_path: Path) -> None:
    write(tmp_path, adapter_config__json={"peft_type": "LORA"}, adapter_model__safetensors="")
    assert find_models(tmp_path) == [FoundModel(tmp_path)]


def test_a_config_with_its_checkpoint(tmp_path: Path) -> None:
    pair(tmp_path)
    write(tmp_path, README__md="", metafile__yml="Models: []\n", train_log__json="{}\n{}\n")
    (found,) = find_models(tmp_path)
    assert (found.config, found.checkpoint) == (tmp_path / "detr.py", tmp_path / "detr.pth")
    assert (found.name, found.version) == ("detr", None)


def test_bases_are_not_models_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, base__py=CONFIG, top__py="_base_ = './base.py'\nwork_dir = 'x'\n", a__pth="")
    (found,) = find_models(tmp_path)
    assert found.config == tmp_path / "top.py"


def test_a_config_and_its_checkpoint_in_two_folders(tmp_path: Path) -> None:
    write(tmp_path / "configs", detr__py=CONFIG)
    write(tmp_path / "checkpoints", detr__pth="")
    (found,) = find_models(tmp_path)
    assert found.config == tmp_path / "configs/detr.py"
    assert found.checkpoint == tmp_path / "checkpoints/detr.pth"


def test_fourcastnet_with_its_statistics(tmp_path: Path) -> None:
    write(tmp_path, AFNO__yaml="afno_backbone:\n  nettype: afno\n", backbone__ckpt="")
    write(tmp_path / "stats", global_means__npy="", global_stds__npy="")
    (found,) = find_models(tmp_path)
    assert found.statistics == {
        "means": tmp_path / "stats/global_means.npy",
        "stds": tmp_path / "stats/global_stds.npy",
    }


def test_folders_of_several_models(tmp_path: Path) -> None:
    write(tmp_path / "a", config__json=BUNDLE)
    write(tmp_path / "b", config__json=LLAMA)
    pair(tmp_path / "c")
    write(tmp_path, README__md="", notes__json={})
    found = find_models(tmp_path)
    assert [(model.path.name, model.name) for model in found] == [
        ("a", None), ("b", "b"), ("c", "c"),
    ]  # fmt: skip


def test_names_and_versions_of_nested_folders(tmp_path: Path) -> None:
    write(tmp_path / "chat/2", config__json=LLAMA)
    write(tmp_path / "models--org--tiny/snapshots/abc", config__json=LLAMA)
    write(tmp_path / "models--org--tiny/blobs", abc="")
    assert {(model.name, model.version) for model in find_models(tmp_path)} == {
        ("chat", "2"), ("tiny", None),
    }  # fmt: skip


def test_hidden_entries_and_links_of_kubernetes(tmp_path: Path) -> None:
    real = write(tmp_path / "..2026_11_26", config__json=BUNDLE, weights__safetensors="")
    (tmp_path / "..data").symlink_to(real.name)
    for name in ("config.json", "weights.safetensors"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "lost+found").mkdir()
    write(tmp_path / ".cache/huggingface", config__json=LLAMA)
    assert find_models(tmp_path) == [FoundModel(tmp_path)]
    linked = tmp_path.parent / f"{tmp_path.name}-link"  # as for an image that is mounted as a model
    linked.symlink_to(tmp_path)
    assert find_models(linked) == [FoundModel(linked)]


def test_links_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "v3", config__json=BUNDLE)
    (tmp_path / "current").symlink_to("v3")
    (tmp_path / "v3" / "loop").symlink_to(tmp_path)
    (tmp_path / "all").symlink_to(tmp_path)
    assert [model.path.name for model in find_models(tmp_path)] == ["v3"]
    pair(tmp_path / "own")
    (tmp_path / "own/latest.pth").symlink_to("detr.pth")
    assert len(find_models(tmp_path / "own")) == 1


def test_nothing_that_can_be_served(tmp_path: Path) -> None:
    assert "is not a folder" in refusal(tmp_path / "missing")
    assert "it is empty" in refusal(tmp_path)
    (tmp_path / "lost+found").mkdir()
    write(tmp_path, __hidden="")
    assert "it is empty" in refusal(tmp_path)
    write(tmp_path, weights__pth="", labels__txt="")
    (tmp_path / "images").mkdir()
    assert "found labels.txt, weights.pth, images" in refusal(tmp_path)
    write(tmp_path, **{f"{n}__txt": "" for n in range(30)})
    assert "and 21 more" in refusal(tmp_path)


def test_an_archive_of_torchserve(tmp_path: Path) -> None:
    write(tmp_path / "model-store", detr__mar="")
    text = refusal(tmp_path)
    assert "found model-store" in text and "detr.mar is an archive of TorchServe" in text


def test_it_is_unclear_what_belongs_together(tmp_path: Path) -> None:
    pair(tmp_path)
    write(tmp_path, epoch_1__pth="")
    assert "found detr.py and detr.pth, epoch_1.pth; leave one of each" in refusal(tmp_path)
    write(tmp_path, dino__py=CONFIG)
    assert "found detr.py, dino.py and detr.pth, epoch_1.pth" in refusal(tmp_path)


def test_a_model_beside_folders_of_models(tmp_path: Path) -> None:
    pair(tmp_path)
    write(tmp_path / "other", config__json=BUNDLE)
    text = refusal(tmp_path)
    assert "holds a model (detr.py, detr.pth) and folders with models (other)" in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("import os\nmodel = os.environ['X']\n", "detr.py"),
        ("work_dir = 'x'\n", "detr.py have no `model`"),
        ("model = dict(\n", "detr.py"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, config: str, said: str) -> None:
    write(tmp_path, detr__py=config, detr__pth="")
    text = refusal(tmp_path)
    assert "no config for detr.pth" in text and said in text


def test_a_config_json_that_is_none(tmp_path: Path) -> None:
    write(tmp_path, config__json="[]")
    assert "expected an object" in refusal(tmp_path)
    write(tmp_path, config__json="{")
    assert "is not JSON" in refusal(tmp_path)


def test_more_entries_than_a_model_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupola.bundles.model_folders.MOST_ENTRIES", 5)
    write(tmp_path / "sub", **{f"{n}__txt": "" for n in range(5)})
    assert "more than 5 entries" in refusal(tmp_path)
