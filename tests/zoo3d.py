"""Published multi-camera detectors against ours: goldens in `goldens/zoo3d`, see its README."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import golden
from cupola.registry import build
from cupola.runtime.building import without_pretrained
from goldens import seeded

FOLDER = Path(__file__).parent / "goldens" / "zoo3d"


class Zoo3D(golden.Golden):
    """One golden, the model of its config with the golden's weights, and its inputs."""

    folder = FOLDER

    @cached_property
    def model(self) -> Any:
        """In eval mode, with the formula's weights; the state keys are the original's, in order."""
        model = build(without_pretrained(self.config["model"]))
        about = self.json["weights"]
        keys = [(key, tuple(shape)) for key, shape, _ in about["keys"]]
        own = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
        assert sorted(own) == sorted(keys)
        own_values = {
            key: self.weight(key, shape, dtype)
            for key, shape, dtype in about["keys"]
            if key not in about["tied"]
        }
        tied = {key: own_values[source] for key, source in about["tied"].items()}
        model.load_state_dict({**own_values, **tied})
        return model.eval()

    def weight(self, key: str, shape: list[int], dtype: str) -> Tensor:
        """The formula of a key, or what `weights.special` says instead."""
        rule = self.json["weights"]["special"].get(key)
        plain = torch.from_numpy(
            np.asarray(seeded.seeded_weight(key, shape, self.prefix, dtype.replace("torch.", "")))
        )
        if rule is None:
            return plain
        if isinstance(rule, dict):
            return torch.tensor(rule["constant"]).view(shape)
        if match := re.fullmatch(r"([\d.]+) \* formula", rule):
            return plain * float(match[1])
        if match := re.fullmatch(r"([\d.]+) \+ formula", rule):
            return plain + float(match[1])
        if match := re.fullmatch(r'([\d.]+) \* seeded_weight\("([^"]+)", shape, prefix\)', rule):
            other = seeded.seeded_weight(match[2], shape, self.prefix)
            return torch.from_numpy(other) * float(match[1])
        if match := re.match(r'seeded_input\("([^"]+)", shape, prefix\)', rule):
            return torch.from_numpy(seeded.seeded_input(match[1], shape, self.prefix))
        match = re.match(r'seeded_uniform\("([^"]+)", shape, 0, 1, prefix\)', rule)
        assert match is not None, rule
        return torch.from_numpy(seeded.seeded_uniform(match[1], shape, 0, 1, self.prefix))

    def check(self, name: str, ours: Tensor, largest: float, rms: float | None = None) -> None:
        """The largest and the root mean square difference to a stored output."""
        about = self.json["outputs"][name]
        assert list(ours.shape) == list(about["shape"]), (name, ours.shape, about["shape"])
        found = seeded.flat_sample(ours.detach().numpy(), about.get("flat_stride") or 1)
        stored = self.tensors[f"out.{name}"].reshape(-1)
        off = np.abs(found.reshape(-1).astype(np.float64) - stored.astype(np.float64))
        assert off.max(initial=0) <= largest, (name, off.max())
        assert rms is None or np.sqrt((off**2).mean()) <= rms, (name, np.sqrt((off**2).mean()))

    def check_detections(self, prefix: str, found: Any, score: float, place: float) -> None:
        """Scores in order; boxes after matching rows by score and label."""
        scores, labels = self.output(f"{prefix}_scores"), self.output(f"{prefix}_labels")
        assert len(found) == len(scores)
        assert (found.scores - scores).abs().max() < score
        if self.json["outputs"][f"{prefix}_boxes"]["flat_stride"] != 1:
            return
        boxes = self.output(f"{prefix}_boxes").reshape(-1, 9)
        exact = "donot_use_mm_for_euclid_dist"
        distance = torch.cdist(found.boxes, boxes, compute_mode=exact)
        distance = distance + 1e3 * (found.labels[:, None] != labels)
        assert distance.min(1).values.max() < place
        assert distance.min(0).values.max() < place

    def check_losses(self, losses: dict[str, Tensor], prefix: str = "loss/") -> None:
        """Every loss of the original, by its name, to 2e-4 of its value."""
        names = {n.removeprefix(prefix) for n in self.json["outputs"] if n.startswith(prefix)}
        assert losses.keys() == names
        for name, value in losses.items():
            expected = float(self.output(f"{prefix}{name}").reshape(-1)[0])
            assert abs(float(value) - expected) <= 2e-4 * abs(expected), name
