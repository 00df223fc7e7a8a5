"""What a camera does to every person it sees, and how a person stands in front of it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datasets.synthetic._random import rng_of
from datasets.synthetic.presets import Modality, Preset


@dataclass(frozen=True)
class Camera:
    """A mounted sensor. Angles are in radians, `detail` in pixels resolved per pixel saved."""

    number: int
    modality: Modality
    scene: int
    height: int
    width: int
    elevation: float
    heading: float
    """Direction in which most people walk, seen from the camera; 0 is towards it."""
    detail: float
    blur: float
    """Standard deviation of the optics, in saved pixels at a height of 256."""
    noise: float
    """Standard deviation in grey levels."""
    mix: tuple[tuple[float, float, float], ...]
    """White balance and colour crosstalk: a 3 x 3 matrix on display-encoded RGB."""
    exposure: float
    contrast: float
    lighting: float
    """How strongly the light changes from image to image, 0 to 1."""
    occlusion: float
    """Share of images in which something stands in front of the person."""
    quality: int
    """JPEG quality."""
    wall: tuple[float, float, float]
    ground: tuple[float, float, float]
    ambient: float
    """Air temperature in degrees Celsius."""


class Pose(NamedTuple):
    """How a person stands in one image. Angles in radians, offsets as a share of the crop."""

    yaw: float
    phase: float
    effort: float
    arms: float
    elevation: float
    zoom: float
    shift_x: float
    shift_y: float
    frame: int

    def after(self, frames: int) -> "Pose":
        """Return the pose `frames` video frames (at 12.5 per second) later."""
        drift = 0.06 * math.sin(0.7 * frames + self.arms * 10)
        return self._replace(
            yaw=self.yaw + 0.05 * frames + drift,
            phase=self.phase + 0.5 * frames,
            shift_x=self.shift_x + 0.01 * math.sin(1.9 * frames),
            shift_y=self.shift_y + 0.006 * math.cos(2.3 * frames),
            frame=self.frame + frames,
        )


def make_camera(preset: Preset, seed: int, number: int) -> Camera:
    """Return camera `number` (from 1) of a preset; cameras of one scene share its walls and weather."""
    modality, scene = preset.cameras[number - 1]
    place = rng_of(preset.population, seed, 2, scene)
    rng = rng_of(preset.population, seed, 3, number)
    lighting = preset.lighting
    balance = np.exp(lighting * rng.normal(0, 0.13, 3))
    crosstalk = np.eye(3) + lighting * rng.normal(0, 0.05, (3, 3))
    return Camera(
        number=number,
        modality=modality,
        scene=scene,
        height=preset.height,
        width=preset.width,
        elevation=math.radians(rng.uniform(*preset.elevation)),
        heading=rng.uniform(-math.pi, math.pi),
        detail=rng.uniform(*preset.detail) * (0.85 if modality == "thermal" else 1.0),
        blur=rng.uniform(0.6, 1.2),
        noise=rng.uniform(2, 6),
        mix=tuple(map(tuple, (crosstalk * balance[:, None]).tolist())),
        exposure=float(np.exp(lighting * rng.normal(0, 0.16))),
        contrast=1 + lighting * rng.uniform(-0.25, 0.25),
        lighting=lighting,
        occlusion=preset.occlusion,
        quality=int(rng.integers(70, 93)),
        wall=_surface(place),
        ground=_surface(place),
        ambient=place.uniform(8, 22),
    )


def _surface(rng: np.random.Generator) -> tuple[float, float, float]:
    """Colour of stone, plaster or grass: mostly grey."""
    red, green, blue = rng.uniform(70, 180) + rng.normal(0, 16, 3)
    return float(red), float(green), float(blue)


def random_pose(camera: Camera, rng: np.random.Generator) -> Pose:
    """Return a pose drawn from `rng`: people mostly walk along the camera's heading, one way or the other."""
    along = camera.heading + math.pi * rng.integers(2)
    return Pose(
        yaw=along + rng.normal(0, 0.6),
        phase=rng.uniform(0, 2 * math.pi),
        effort=rng.uniform(0, 1.25),
        arms=rng.uniform(0, 1),
        elevation=camera.elevation + rng.normal(0, 0.05),
        zoom=rng.uniform(0.72, 0.98),
        shift_x=rng.normal(0, 0.07),
        shift_y=rng.normal(0, 0.04),
        frame=0,
    )
