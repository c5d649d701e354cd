"""driving-scenes: a generated street seen by six calibrated cameras."""

from cupola.data.driving.agents import CLASS_NAMES, Agent
from cupola.data.driving.render import render
from cupola.data.driving.rig import CAMERA_NAMES, Camera, camera_rig
from cupola.data.driving.scene import Scene, SceneStyle, make_scene
from cupola.data.driving.traffic import make_traffic

__all__ = [
    "CAMERA_NAMES",
    "CLASS_NAMES",
    "Agent",
    "Camera",
    "Scene",
    "SceneStyle",
    "camera_rig",
    "make_scene",
    "make_traffic",
    "render",
]
