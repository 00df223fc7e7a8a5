"""One image of one person by one camera."""

import math

import cv2
import numpy as np

from datasets.synthetic import _body as b
from datasets.synthetic import _fields
from datasets.synthetic._raster import View, draw
from datasets.synthetic.camera import Camera, Pose, random_pose
from datasets.synthetic.identity import Colour, Garment, Identity

_SKIN_TEMPERATURE = 33.0  # degrees Celsius, bare skin in mild weather


def render(who: Identity, camera: Camera, rng: np.random.Generator, pose: Pose | None = None) -> np.ndarray:
    """Render one image.

    Args:
        who: the person.
        camera: the camera; its modality decides what is measured.
        rng: source of everything that differs between two images of one person by one camera.
        pose: how the person stands; drawn from `rng` when omitted.

    Returns:
        uint8 array, (H, W, 3) RGB for a visible camera and (H, W, 1) for a thermal one.
    """
    pose = pose or random_pose(camera, rng)
    labels = np.zeros((camera.height, camera.width), np.uint8)
    shading = np.full_like(labels, 128)
    light = float(rng.uniform(-1, 1))
    view = View(pose, camera.height, camera.width)
    draw(b.body(who, pose), view, light, labels, shading)
    labels |= _patterns(who, view, labels)
    smooth = cv2.GaussianBlur(shading, (0, 0), 0.011 * camera.height)
    return _SENSORS[camera.modality](who, camera, rng, pose, labels, np.asarray(smooth))


# ------------------------------------------------------------------------------------------------------------
# Patterns


def _patterns(who: Identity, view: View, labels: np.ndarray) -> np.ndarray:
    """Return SECOND where a garment's pattern shows its second colour, else 0. (H, W) uint8."""
    second = np.zeros_like(labels)
    for garment, parts in ((who.upper, (b.UPPER, b.SLEEVE)), (who.lower, (b.LOWER,))):
        if garment.pattern.kind == "plain":
            continue
        mask = (labels >= parts[0]) & (labels <= parts[-1])
        rows = np.flatnonzero(mask.any(axis=1))
        if not rows.size:
            continue
        band = slice(rows[0], rows[-1] + 1)
        # Garment coordinates in body heights: v down from the top, u around the body.
        v = (np.arange(rows[0], rows[-1] + 1, dtype=np.float32)[:, None] - view.y) / (
            view.scale * view.up_cos
        )
        u = (np.arange(view.width, dtype=np.float32)[None] - view.x) / view.scale + 0.1 * view.yaw_sin
        second[band][_is_second(garment, u + 2, v + 2) & mask[band]] = b.SECOND
    return second


def _is_second(garment: Garment, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return where the second colour shows; u (1, W) and v (H, 1) are in body heights plus 2."""
    kind, period, duty, phase = garment.pattern
    across, down = (u / period + phase) % 1 < duty, (v / period + phase) % 1 < duty
    match kind:
        case "stripes":
            return np.broadcast_to(down, np.broadcast_shapes(u.shape, v.shape))
        case "columns":
            return np.broadcast_to(across, np.broadcast_shapes(u.shape, v.shape))
        case "check":
            return across ^ down
        case "dots":
            x, y = (u / period) % 1 - 0.5, (v / period) % 1 - 0.5
            return x * x + y * y < 0.25 * duty
        case "block":
            return np.broadcast_to(v > 1.2 + 0.2 * phase, np.broadcast_shapes(u.shape, v.shape))
        case "band":
            centre = 1.2 + 0.2 * phase
            return np.broadcast_to(abs(v - centre) < 0.5 * period, np.broadcast_shapes(u.shape, v.shape))
        case _:
            return _fields.blotches(u / (20 * period) + phase, v / (20 * period) + phase) > 0.3


# ------------------------------------------------------------------------------------------------------------
# Visible


def _palette(who: Identity) -> np.ndarray:
    """Albedo of each label, (64, 3)."""
    table = np.zeros((64, 3), np.float32)
    first: dict[int, Colour] = {
        b.SKIN: who.skin,
        b.HAIR: who.hair,
        b.HAT: who.hat,
        b.UPPER: who.upper.colour,
        b.SLEEVE: who.upper.colour,
        b.LOWER: who.lower.colour,
        b.SEAM: who.lower.second,
        b.SOCK: who.sock_colour,
        b.SHOE: who.shoe,
        b.BAG: who.bag,
        b.STRAP: who.bag_second,
        b.INNER: who.inner,
        b.SCARF: who.scarf_colour,
    }
    for label, colour in first.items():
        table[label] = table[label + b.SECOND] = colour
    table[[b.UPPER + b.SECOND, b.SLEEVE + b.SECOND]] = who.upper.second
    table[b.LOWER + b.SECOND] = who.lower.second
    return table


def _visible(
    who: Identity,
    camera: Camera,
    rng: np.random.Generator,
    pose: Pose,
    labels: np.ndarray,
    shading: np.ndarray,
) -> np.ndarray:
    height, width = labels.shape
    table = np.zeros((256, 1, 3), np.uint8)
    table[:64, 0] = _palette(who)
    person = cv2.LUT(cv2.merge([labels] * 3), table)
    image = _scenery(camera, rng, height, width)
    cv2.copyTo(person, labels, image)
    relief = _relief(shading, labels, rng.uniform(0.5, 1.0))
    if rng.random() < camera.occlusion:
        _occlude(image, relief, rng)
    relief *= 1 + 0.07 * _fields.clouds(rng, height, width)
    _cast_shadow(relief, camera, rng)
    radiance = image.astype(np.float32) * relief[..., None]
    return _expose(radiance, camera, rng, pose)


def _relief(shading: np.ndarray, labels: np.ndarray, depth: float) -> np.ndarray:
    """Brightness of the surface: 1 on average on the person, exactly 1 on the background."""
    relief = 1 + depth * (shading.astype(np.float32) / 168 - 1)
    relief[labels == 0] = 1
    return relief


def _scenery(camera: Camera, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A wall and a floor with things on them, new in every image so that nobody is known by a background."""
    wall, ground = np.array(camera.wall), np.array(camera.ground)
    image = np.empty((height, width, 3), np.uint8)
    horizon = 0 if camera.elevation > 0.5 else int(height * rng.uniform(0.35, 0.8))
    image[:horizon] = _shade(wall, rng)
    image[horizon:] = _shade(ground, rng)
    for _ in range(rng.integers(3, 10)):
        base = wall if rng.random() < 0.5 else ground
        colour = np.clip(base + rng.normal(0, 40) + rng.normal(0, 35, 3), 0, 255).tolist()
        x, y = rng.integers(-width // 4, width), rng.integers(-height // 8, height)
        if rng.random() < 0.75:
            corner = (int(x + rng.integers(4, width // 2)), int(y + rng.integers(6, height // 3)))
            cv2.rectangle(image, (int(x), int(y)), corner, colour, -1)
        else:
            end = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.line(image, (int(x), int(y)), end, colour, int(rng.integers(1, 4)))
    texture = _fields.clouds(rng, height, width) * rng.uniform(4, 14)
    return cv2.add(image, cv2.merge([texture] * 3), dtype=cv2.CV_8U)


def _shade(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return another patch of a surface, lighter or darker and a little different in colour."""
    return np.clip(colour + rng.normal(0, 35) + rng.normal(0, 14, 3), 5, 250)


def _occlude(image: np.ndarray, relief: np.ndarray, rng: np.random.Generator) -> None:
    height, width = image.shape[:2]
    colour = [float(channel) for channel in rng.uniform(20, 200, 3)]
    for corner, end in _occluder(rng, height, width):
        cv2.rectangle(image, corner, end, colour, -1)
        cv2.rectangle(relief, corner, end, 1.0, -1)


def _occluder(
    rng: np.random.Generator, height: int, width: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Rectangles (corner, end) of a post, of something low, or of a fence."""
    x, thick = int(rng.integers(width)), int(width * rng.uniform(0.05, 0.2))
    kind = rng.integers(3)
    if kind == 0:
        return [((x, 0), (x + thick, height))]
    if kind == 1:
        return [((x - width, int(height * rng.uniform(0.6, 0.85))), (x + width // 2, height))]
    step, bar, top = (
        int(width * rng.uniform(0.15, 0.3)),
        max(1, width // 40),
        int(height * rng.uniform(0.4, 0.7)),
    )
    return [((column, top), (column + bar, height)) for column in range(x % step, width, step)]


def _cast_shadow(relief: np.ndarray, camera: Camera, rng: np.random.Generator) -> None:
    """Darken one side of a straight edge, as a building or a tree does."""
    chance, dark = rng.random(), float(rng.uniform(0.55, 0.85))
    angle, offset = rng.uniform(0, 2 * math.pi), rng.uniform(-0.3, 0.3)
    if chance > 0.4 * camera.lighting:
        return
    height, width = relief.shape
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * math.sin(angle)
    columns = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None] * math.cos(angle)
    relief[rows + columns > offset] *= dark


def _expose(radiance: np.ndarray, camera: Camera, rng: np.random.Generator, pose: Pose) -> np.ndarray:
    """Light colour, optics, sensor and tone curve. (H, W, 3) float32 -> uint8."""
    strength = camera.lighting
    # Daylight to lamplight moves red against blue; the rest of the spectrum moves less.
    warm, tint = rng.normal(0, 0.14 * strength), rng.normal(0, 0.05 * strength)
    gain = camera.exposure * math.exp(rng.normal(0, 0.13 * strength))
    light = gain * np.exp([warm, tint, -warm])
    saturation = 1 + strength * rng.uniform(-0.45, 0.2)
    grey = np.full((3, 3), (1 - saturation) / 3)
    matrix = (saturation * np.eye(3) + grey) @ np.array(camera.mix) @ np.diag(light)
    haze = strength * rng.uniform(0, 25)
    contrast = camera.contrast * math.exp(rng.normal(0, 0.08 * strength))
    offset = haze + 110 * (1 - contrast)
    radiance = cv2.transform(radiance, np.hstack([contrast * matrix, np.full((3, 1), offset)]))
    return _sense(radiance, camera, rng, pose, rng.uniform(0.6, 1.4) * camera.noise)


def _sense(
    image: np.ndarray, camera: Camera, rng: np.random.Generator, pose: Pose, noise: float
) -> np.ndarray:
    """Blur, sample at the sensor's resolution, add noise, and scale back to the crop."""
    height, width = image.shape[:2]
    detail = camera.detail * rng.uniform(0.75, 1.0)
    small = (max(8, round(width * detail)), max(16, round(height * detail)))
    blur = camera.blur * rng.uniform(0.7, 1.5) * height / 256
    image = cv2.resize(cv2.GaussianBlur(image, (0, 0), max(0.3, blur)), small, interpolation=cv2.INTER_AREA)
    speckle = _fields.grain(rng, small[1], small[0], pose.frame)
    image = image + noise * (speckle if image.ndim == 3 else speckle[..., 0])
    image = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


# ------------------------------------------------------------------------------------------------------------
# Thermal


def _temperatures(who: Identity, ambient: float, sun: float, rng: np.random.Generator) -> np.ndarray:
    """Apparent temperature of each label in degrees Celsius, (64,).

    Body heat passes through cloth in proportion to what it does not insulate; the sun warms dark cloth more,
    so that a print leaves a faint trace; what is carried has the temperature of the air.
    """
    skin = _SKIN_TEMPERATURE + who.warmth - 0.06 * (24 - ambient) + rng.normal(0, 0.3)

    def worn(insulation: float, colour: Colour) -> float:
        return ambient + (skin - ambient) * (1 - insulation) + sun * (1 - sum(colour) / 765)

    table = np.full(64, ambient, np.float32)
    first = {
        b.SKIN: skin,
        b.HAIR: worn(0.55, who.hair),
        b.HAT: worn(0.75, who.hat),
        b.UPPER: worn(who.upper.insulation, who.upper.colour),
        b.SLEEVE: worn(min(0.95, who.upper.insulation + 0.05), who.upper.colour),
        b.LOWER: worn(who.lower.insulation, who.lower.colour),
        b.SEAM: worn(who.lower.insulation, who.lower.second),
        b.SOCK: worn(0.6, who.sock_colour),
        b.SHOE: worn(0.85, who.shoe),
        b.BAG: worn(0.97, who.bag),
        b.STRAP: worn(0.9, who.bag_second),
        b.INNER: worn(0.75 * who.upper.insulation, who.inner),
        b.SCARF: worn(0.7, who.scarf_colour),
    }
    for label, value in first.items():
        table[label] = table[label + b.SECOND] = value
    table[b.UPPER + b.SECOND] = worn(who.upper.insulation, who.upper.second)
    table[b.SLEEVE + b.SECOND] = worn(min(0.95, who.upper.insulation + 0.05), who.upper.second)
    table[b.LOWER + b.SECOND] = worn(who.lower.insulation, who.lower.second)
    return table


def _thermal(
    who: Identity,
    camera: Camera,
    rng: np.random.Generator,
    pose: Pose,
    labels: np.ndarray,
    shading: np.ndarray,
) -> np.ndarray:
    height, width = labels.shape
    ambient = camera.ambient + rng.normal(0, 1.5)
    table = _temperatures(who, ambient, rng.uniform(3, 6), rng)
    heat = ambient - 1.5 + 0.05 * (_scenery(camera, rng, height, width)[..., 1].astype(np.float32) - 110)
    person = table[labels]
    # Flesh is warmest where it is thickest: the same relief that light draws, faintly.
    person += (person - ambient) * (0.12 / 128) * (shading.astype(np.float32) - 168)
    person += 0.5 * _fields.clouds(rng, height, width)
    cv2.copyTo(person, labels, heat)
    if rng.random() < camera.occlusion:
        value = float(ambient + rng.normal(-0.5, 1.5))
        for corner, end in _occluder(rng, height, width):
            cv2.rectangle(heat, corner, end, value, -1)
    # Automatic gain: the coldest and warmest degrees that the sensor shows are not known to the reader.
    low, high = ambient - rng.uniform(2, 5), _SKIN_TEMPERATURE + rng.uniform(0.5, 3)
    grey = (heat - low) * (rng.uniform(205, 245) / (high - low))
    grey += rng.uniform(0, 2.5) * _fields.grain(rng, 1, width, pose.frame)[..., 0]
    return _sense(grey, camera, rng, pose, rng.uniform(0.6, 1.4) * camera.noise)[..., None]


_SENSORS = {"visible": _visible, "thermal": _thermal}
