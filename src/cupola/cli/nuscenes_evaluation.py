"""`cupola evaluate MODEL --data NUSCENES --version v1.0-mini`: nuScenes' benchmark."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupola.data.nuscenes_tables import Tables
    from cupola.runtime.predictors.detection3d import Detection3DPredictor

RESULTS = Path("results_nusc.json")


def evaluate_nuscenes(
    predictor: "Detection3DPredictor",
    root: Path,
    version: str | None,
    split: str | None,
    results: Path = RESULTS,
) -> dict[str, float]:
    """The scores of all ten classes; none for samples without annotations.

    Every sample is predicted, and the detections are written to `results` in the format of
    nuscenes-devkit. DataError, InputError for a split or a version that is not there.
    """
    from cupola.data.nuscenes_splits import scenes_of
    from cupola.data.nuscenes_tables import Tables

    version = version or only_version(root)
    tables = Tables(root, version)
    scenes = scenes_of(tables, split)
    metric = predicted(predictor, tables, scenes)
    write_whole(results, json.dumps(metric.submission()))
    if not metric.truth and not tables.table("sample_annotation"):
        return {}
    scores: dict[str, float] = metric.compute()
    return scores


def only_version(root: Path) -> str:
    """The folder of tables under a root that has one; DataError otherwise."""
    from cupola.errors import DataError

    found = [path.parent.name for path in sorted(root.glob("*/sample_data.json"))]
    if len(found) != 1:
        listed = f"it has {', '.join(found)}" if found else "no folder of tables is there"
        raise DataError(f"{root}: name its --version, such as v1.0-mini; {listed}")
    return found[0]


def predicted(predictor: "Detection3DPredictor", tables: "Tables", scenes: Sequence[str]) -> Any:
    """The metric with the predictions of all samples of the scenes."""
    from rich.console import Console
    from rich.progress import track

    from cupola.data.nuscenes import NUSCENES_NAMES
    from cupola.data.nuscenes_images import read_view
    from cupola.data.nuscenes_truth import truth_from_tables
    from cupola.metrics.nuscenes import NuScenesMetric

    check_labels(predictor.labels, NUSCENES_NAMES)
    metric = NuScenesMetric(NUSCENES_NAMES)
    samples = tables.samples(scenes)
    moments = [tables.moment(token) for token in samples.tokens]
    order = list(range(len(samples)))
    if predictor.is_stream:
        order.sort(key=lambda at: moments[at])  # scene by scene, in time
    last, state = "", None
    console = Console(stderr=True)
    for at in track(order, "samples", console=console, disable=not console.is_terminal):
        record, (scene, seconds) = samples[at], moments[at]
        views = record.cameras
        wanted = predictor.camera_names or [view.name for view in views]
        chosen = [record.camera(name) for name in wanted]
        images = [read_view(tables.root, view) for view in chosen]
        matrices = [view.lidar2img for view in chosen]
        names = [view.name for view in chosen]
        if predictor.is_stream:
            pose = record.ego2global @ record.lidar2ego
            motion = {"ego_pose": pose, "timestamp": seconds, "can_bus": record.can_bus}
            sample = predictor.sample(images, matrices, names, **motion)
            found, state = predictor.run_frame(sample, state if scene == last else None)
            last = scene
        else:
            (found,) = predictor.run([predictor.sample(images, matrices, names)])
        metric.add(truth_from_tables(tables, record.token), found, predictor.labels)
    return metric


def check_labels(labels: Sequence[str], known: Sequence[str]) -> None:
    """DataError if the benchmark does not have a class of the model."""
    from cupola.errors import DataError

    if foreign := sorted(set(labels) - set(known)):
        raise DataError(f"nuScenes' benchmark has no classes {foreign}; it has {list(known)}")
    if not labels:
        raise DataError("the model's config does not name its classes")


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that it is never there in part."""
    draft = path.with_name(path.name + ".part")
    draft.parent.mkdir(parents=True, exist_ok=True)
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
