"""Drives through generated streets: motion, calibration, the cache, batches of frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cupola.data.driving_streets import PERIOD, DrivingStreets
from cupola.errors import DataError
from cupola.registry import DATASETS
from cupola.structures import boxes3d

SMALL = {"split": "val", "count": 2, "frames": 3, "size": (32, 48), "min_pixels": 1}


@pytest.fixture(scope="module")
def streets() -> DrivingStreets:
    return DATASETS.build({"type": "DrivingStreets", **SMALL})


def test_a_clip_is_a_function_of_seed_split_and_index(streets: DrivingStreets) -> None:
    again = DrivingStreets(**SMALL)
    assert torch.equal(streets[4]["images"], again[4]["images"])
    assert not torch.equal(streets[4]["images"], streets[1]["images"])
    with pytest.raises(DataError, match="unknown split 'dev'"):
        DrivingStreets("dev")


def test_agents_move_with_their_velocities_in_the_fixed_frame(streets: DrivingStreets) -> None:
    clip = streets.clip(0)
    moving = 0
    for t in range(len(clip.boxes) - 1):
        places = [clip.ego_pose[k][:3, :3] @ clip.boxes[k][:, :3].T for k in (t, t + 1)]
        places = [(p + clip.ego_pose[k][:3, 3:]).T for p, k in zip(places, (t, t + 1), strict=True)]
        for row, agent in enumerate(clip.agents[t]):
            if agent not in clip.agents[t + 1]:
                continue
            later = int(np.nonzero(clip.agents[t + 1] == agent)[0][0])
            velocity = clip.ego_pose[t][:2, :2] @ clip.boxes[t][row, 7:9]
            step = (places[1][later] - places[0][row])[:2]
            np.testing.assert_allclose(step / PERIOD, velocity, atol=1e-3)
            moving += bool(np.hypot(*velocity) > 0.5)
    assert moving >= 2
    assert np.linalg.norm(clip.ego_pose[1][:3, 3]) > 0.1
    np.testing.assert_allclose(np.diff(clip.timestamp), PERIOD)


def test_the_calibration_of_a_frame_projects_its_boxes(streets: DrivingStreets) -> None:
    sample = streets[2]
    product = sample["intrinsics"] @ sample["extrinsics"]
    torch.testing.assert_close(product, sample["lidar2img"], rtol=1e-4, atol=1e-3)
    centers = boxes3d.bottom_to_center(sample["boxes"])[:, :3]
    pixels, depth = boxes3d.project(centers[None], sample["lidar2img"][:, None])
    inside = (pixels > 0).all(-1) & (pixels < torch.tensor([48, 32])).all(-1) & (depth > 0.2)
    assert inside.any(0).float().mean() > 0.6  # a near one's center may be out of every image


def test_the_ground_and_a_standing_agent_agree(streets: DrivingStreets) -> None:
    scene, _ = streets.street(0)
    later = scene.after(1.0)
    back = later.after(-1.0)
    assert later.street.along != 0
    assert back.street.along == pytest.approx(0, abs=1e-9)
    assert back.street.across == pytest.approx(0, abs=1e-9)
    for before, after in zip(scene.agents, back.agents, strict=True):
        np.testing.assert_allclose(before.box, after.box, atol=1e-9)


def test_agents_never_collide() -> None:
    dataset = DrivingStreets("train", count=6)
    for index in range(6):
        scene, _ = dataset.street(index)
        for seconds in np.arange(0, 5.6, 0.5):
            places = np.stack([agent.position[:2] for agent in scene.after(seconds).agents])
            widths = [agent.size[1] / 2 for agent in scene.agents]
            assert (np.hypot(*places.T) > 0.95 + np.array(widths)).all()
            gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
            apart = np.add.outer(widths, widths)
            np.fill_diagonal(gaps, 100)
            assert (gaps > apart).all()


def test_rendered_drives_are_kept(tmp_path: Path) -> None:
    settings = {**SMALL, "count": 1, "cache": tmp_path / "clips"}
    first = DrivingStreets(**settings)
    plain = DrivingStreets(**{**SMALL, "count": 1})
    drawn = first[1]
    kept = DrivingStreets(**settings)
    assert kept.clip(0).images.filename is not None  # mapped, not rendered
    for key, value in plain[1].items():
        same = kept[1][key]
        assert torch.equal(same, value) if isinstance(value, torch.Tensor) else same == value
        assert key == "token" or drawn[key] is not None
    with pytest.raises(DataError, match="rendered with other settings; empty the cache"):
        DrivingStreets(**{**settings, "min_pixels": 5})[0]
    with pytest.raises(DataError, match="without a cache folder"):
        plain.fill_cache(1)


def test_batches_of_frames_have_what_a_stream_needs(streets: DrivingStreets) -> None:
    batch = DrivingStreets.collate([streets[0], streets[4]])
    assert batch["prev_exists"].tolist() == [0, 1]
    assert batch["streams"] == ["val-0-0", "val-0-1"]
    assert batch["intrinsics"].shape == batch["extrinsics"].shape == (2, 6, 4, 4)
    assert batch["ego_pose"].shape == (2, 4, 4)
    assert batch["timestamp"].dtype == torch.float64
    assert [list(each) for each in streets.sequences] == [[0, 1, 2], [3, 4, 5]]
