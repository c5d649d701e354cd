"""Writes nuscenes_devkit_geometry.json; runs in nuscenes-devkit's environment.

python -c "from pathlib import Path; from cupola.data.driving.tables import write_scenes;
           write_scenes(Path('scenes'), count=2, frames=3, size=(60, 100))"
nuscenes/bin/python tests/data/devkit_geometry.py scenes tests/data/nuscenes_devkit_geometry.json
"""

import json
import sys

import numpy as np
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.geometry_utils import BoxVisibility, view_points

nusc = NuScenes("v1.0-mini", sys.argv[1], verbose=False)
result = {}
for sample in nusc.sample:
    boxes = {}
    path, found, _ = nusc.get_sample_data(
        sample["data"]["LIDAR_TOP"], box_vis_level=BoxVisibility.NONE
    )
    for box in found:
        points = nusc.get("sample_annotation", box.token)
        boxes[box.token] = {
            "points": points["num_lidar_pts"],
            "name": box.name,
            "center": box.center.tolist(),
            "wlh": box.wlh.tolist(),
            "yaw": quaternion_yaw(box.orientation),
            "velocity": nusc.box_velocity(box.token).tolist(),
            "corners": box.corners().T.tolist(),
            "pixels": {},
        }
    for channel, token in sample["data"].items():
        if channel.startswith("CAM"):
            _, found, intrinsic = nusc.get_sample_data(token, box_vis_level=BoxVisibility.NONE)
            for box in found:
                corners = box.corners()
                if (corners[2] > 0.5).all():
                    pixels = view_points(corners, np.array(intrinsic), normalize=True)[:2]
                    boxes[box.token]["pixels"][channel] = np.round(pixels.T, 4).tolist()
    result[sample["token"]] = boxes
with open(sys.argv[2], "w") as file:
    json.dump(result, file)
    file.write("\n")
