"""Solids to a label map and a shading map, with OpenCV's fixed-point fills."""

import math

import cv2
import numpy as np

from datasets.synthetic._body import Hull, Limb, Point, Solid
from datasets.synthetic.camera import Pose

_SHIFT = 4  # fractional bits of OpenCV coordinates
_ONE = 1 << _SHIFT
_SHADOW, _LIT = 105, 215  # shading of a surface turned away from the light, and towards it


class View:
    """An orthographic camera with a little perspective, looking down at a person from `pose.elevation`."""

    def __init__(self, pose: Pose, height: int, width: int) -> None:
        self.yaw_cos, self.yaw_sin = math.cos(pose.yaw), math.sin(pose.yaw)
        self.up_cos, self.up_sin = math.cos(pose.elevation), math.sin(pose.elevation)
        self.scale = pose.zoom * height / (self.up_cos + 0.35 * self.up_sin)
        self.x = width * (0.5 + pose.shift_x)
        self.y = height * (0.5 + pose.shift_y) + 0.5 * self.up_cos * self.scale
        self.height, self.width = height, width

    def project(self, point: Point) -> tuple[float, float, float]:
        """Return column, row (pixels) and pixels per body height at a point of body space."""
        x, y, z = point
        near = x * self.yaw_sin + y * self.yaw_cos
        grow = self.scale * (1 + 0.4 * self.up_sin * (z - 0.5))
        column = self.x + grow * (y * self.yaw_sin - x * self.yaw_cos)
        return column, self.y - self.scale * (z * self.up_cos - near * self.up_sin), grow

    def nearness(self, solid: Solid) -> float:
        """Return how near a solid is to the viewer, for drawing far ones first."""
        ends = (
            (solid.start, solid.end)
            if isinstance(solid, Limb)
            else (solid.rings[0].centre, solid.rings[-1].centre)
        )
        x, y, z = (0.5 * (a + b) for a, b in zip(*ends, strict=True))
        return (x * self.yaw_sin + y * self.yaw_cos) * self.up_cos + z * self.up_sin + solid.bias

    def half_width(self, across: float, along: float) -> float:
        """Return the apparent half width of an upright elliptic cylinder."""
        return math.hypot(across * self.yaw_cos, along * self.yaw_sin)


def draw(solids: list[Solid], view: View, light: float, labels: np.ndarray, shading: np.ndarray) -> None:
    """Draw solids into `labels` and `shading`, both H x W uint8; light comes from side `light`, -1 to 1."""
    for solid in sorted(solids, key=view.nearness):
        if isinstance(solid, Limb):
            _draw_limb(solid, view, light, labels, shading)
        else:
            _draw_hull(solid, view, light, labels, shading)


def _draw_limb(limb: Limb, view: View, light: float, labels: np.ndarray, shading: np.ndarray) -> None:
    ax, ay, grow = view.project(limb.start)
    bx, by, _ = view.project(limb.end)
    ra, rb = grow * limb.start_radius, grow * limb.end_radius
    _capsule(labels, ax, ay, ra, bx, by, rb, limb.label)
    _capsule(shading, ax, ay, ra, bx, by, rb, _SHADOW)
    dx, dy = 0.35 * light, -0.2
    _capsule(shading, ax + dx * ra, ay + dy * ra, 0.62 * ra, bx + dx * rb, by + dy * rb, 0.62 * rb, _LIT)


def _capsule(
    image: np.ndarray, ax: float, ay: float, ra: float, bx: float, by: float, rb: float, value: int
) -> None:
    length = math.hypot(bx - ax, by - ay)
    cv2.circle(image, _fixed(ax, ay), int(ra * _ONE), value, -1, cv2.LINE_8, _SHIFT)
    if length < 0.5:
        return
    cv2.circle(image, _fixed(bx, by), int(rb * _ONE), value, -1, cv2.LINE_8, _SHIFT)
    nx, ny = (by - ay) / length, (ax - bx) / length
    corners = (
        (ax + nx * ra, ay + ny * ra),
        (bx + nx * rb, by + ny * rb),
        (bx - nx * rb, by - ny * rb),
        (ax - nx * ra, ay - ny * ra),
    )
    cv2.fillConvexPoly(image, _polygon(corners), value, cv2.LINE_8, _SHIFT)


def _draw_hull(hull: Hull, view: View, light: float, labels: np.ndarray, shading: np.ndarray) -> None:
    outline, inner = _outline(hull, view, 1.0, 0.0), _outline(hull, view, 0.6, 0.3 * light)
    cv2.fillPoly(labels, [outline], hull.label, cv2.LINE_8, _SHIFT)
    cv2.fillPoly(shading, [outline], _SHADOW, cv2.LINE_8, _SHIFT)
    cv2.fillPoly(shading, [inner], _LIT, cv2.LINE_8, _SHIFT)
    if view.up_sin > 0.25:  # seen from above, the lid and the rim show
        for ring in (hull.rings[min(1, len(hull.rings) - 1)], hull.rings[-1]):
            column, row, grow = view.project(ring.centre)
            axes = (grow * view.half_width(ring.across, ring.along), grow * view.up_sin * ring.along)
            size = (int(axes[0] * _ONE), int(axes[1] * _ONE))
            cv2.ellipse(labels, _fixed(column, row), size, 0, 0, 360, hull.label, -1, cv2.LINE_8, _SHIFT)


def _outline(hull: Hull, view: View, share: float, offset: float) -> np.ndarray:
    left, right = [], []
    for ring in hull.rings:
        column, row, grow = view.project(ring.centre)
        half = grow * view.half_width(ring.across, ring.along)
        column += offset * half
        left.append((column - share * half, row))
        right.append((column + share * half, row))
    return _polygon((*left, *reversed(right)))


def _fixed(x: float, y: float) -> tuple[int, int]:
    return int(x * _ONE), int(y * _ONE)


def _polygon(points: tuple[tuple[float, float], ...]) -> np.ndarray:
    return np.array([(int(x * _ONE), int(y * _ONE)) for x, y in points], np.int32)
