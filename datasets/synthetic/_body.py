"""A clothed body as a list of solids, independent of any camera.

Body space: x to the person's right, y to where they face, z up; the ground is z = 0 and the person is 1 tall.
"""

import math
from typing import NamedTuple

from datasets.synthetic.camera import Pose
from datasets.synthetic.identity import Identity

Point = tuple[float, float, float]

# What a pixel shows. The pattern of a garment switches to `label + SECOND`.
SKIN, HAIR, HAT, UPPER, SLEEVE, LOWER, SEAM, SOCK, SHOE, BAG, STRAP, INNER, SCARF = range(1, 14)
SECOND = 32


class Limb(NamedTuple):
    """A tapered capsule; `bias` moves it towards (+) or away from (-) the viewer in the drawing order."""

    start: Point
    end: Point
    start_radius: float
    end_radius: float
    label: int
    bias: float = 0.0


class Ring(NamedTuple):
    """An ellipse around the vertical axis: half sizes across (x) and along (y) the body."""

    centre: Point
    across: float
    along: float


class Hull(NamedTuple):
    """The surface through a stack of rings, listed from the top."""

    rings: tuple[Ring, ...]
    label: int
    bias: float = 0.0


Solid = Limb | Hull


def _between(a: Point, b: Point, share: float) -> Point:
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))


def body(who: Identity, pose: Pose) -> list[Solid]:
    """Return the solids of a person in a pose, in no particular order."""
    lean = math.sin(who.stoop)
    shoulder_z = 1 - 2.75 * who.head
    return [
        *_legs(who, pose),
        *_torso(who, lean, shoulder_z),
        *_arms(who, pose, lean, shoulder_z),
        *_head(who, lean),
        *_bag(who, lean, shoulder_z),
    ]


def _legs(who: Identity, pose: Pose) -> list[Solid]:
    solids: list[Solid] = []
    thigh = 0.5 * who.leg
    for side in (-1.0, 1.0):
        phase = pose.phase + (math.pi if side > 0 else 0)
        swing = who.stride * pose.effort * math.sin(phase)
        bend = 0.1 + 0.9 * min(1.0, pose.effort) * max(0.0, math.cos(phase)) * who.stride
        x = side * 0.55 * who.hip
        hip = (x, 0.0, who.leg)
        knee = (x, thigh * math.sin(swing), who.leg - thigh * math.cos(swing))
        shin = swing - bend
        foot = (x, knee[1] + 0.46 * who.leg * math.sin(shin), knee[2] - 0.46 * who.leg * math.cos(shin))
        toe = (x, foot[1] + 0.07, foot[2] - 0.015)
        joints, radii = (hip, knee, foot), (0.052 * who.limb, 0.038 * who.limb, 0.026 * who.limb)
        covered = 0.0 if who.lower_kind == "skirt" else who.lower_length
        width = who.lower_width
        cloth = (radii[0] * min(width, 1.25), radii[1] * width, radii[2] * width * 1.15)
        solids += _sleeved(joints, radii, 1 - who.sock, SKIN, SOCK, -0.4)
        if covered:
            solids += _covering(joints, cloth, covered, LOWER, -0.3)
            if who.seam:
                out = tuple((p[0] + side * r * 0.9, p[1], p[2]) for p, r in zip(joints, cloth, strict=True))
                solids += _covering(out, (0.009, 0.009, 0.009), covered, SEAM, -0.3 + 0.02)
        solids.append(
            Limb(foot, toe, 0.028 * who.limb, 0.02, SHOE, -0.25 if who.lower_width < 1.4 else -0.35)
        )
    if who.lower_kind == "skirt":
        end = who.leg * (1 - who.lower_length)
        flare = who.hip * who.lower_width
        top = Ring((0, 0, who.leg + 0.06), who.waist, 0.75 * who.belly)
        middle = Ring((0, 0, who.leg), who.hip * 1.05, who.hip * 0.8)
        solids.append(Hull((top, middle, Ring((0, 0, end), flare, flare * 0.9)), LOWER, -0.2))
    return solids


def _sleeved(
    joints: tuple[Point, ...], radii: tuple[float, ...], share: float, first: int, second: int, bias: float
) -> list[Solid]:
    """Draw a two-bone limb that changes from one label to another at `share` of its length."""
    solids = _covering(joints, radii, 1.0, second if share <= 0 else first, bias)
    if 0 < share < 1:
        cut = _between(joints[1], joints[2], max(0.0, 2 * share - 1))
        cut_radius = radii[1] + (radii[2] - radii[1]) * max(0.0, 2 * share - 1)
        solids.append(Limb(cut, joints[2], cut_radius * 1.08, radii[2] * 1.1, second, bias + 0.01))
    return solids


def _covering(
    joints: tuple[Point, ...], radii: tuple[float, ...], share: float, label: int, bias: float
) -> list[Solid]:
    """Draw the first `share` of a two-bone limb."""
    upper, lower = min(1.0, 2 * share), max(0.0, 2 * share - 1)
    knee = _between(joints[0], joints[1], upper)
    knee_radius = radii[0] + upper * (radii[1] - radii[0])
    solids: list[Solid] = [Limb(joints[0], knee, radii[0], knee_radius, label, bias)]
    if lower:
        end_radius = radii[1] + lower * (radii[2] - radii[1])
        solids.append(Limb(knee, _between(joints[1], joints[2], lower), knee_radius, end_radius, label, bias))
    return solids


def _torso(who: Identity, lean: float, shoulder_z: float) -> list[Solid]:
    chest_z = shoulder_z - 0.1
    waist_z = who.leg + 0.1
    rings = [
        Ring((0, 0.25 * lean, shoulder_z + 0.035), 0.4 * who.shoulder, 0.03),
        Ring((0, 0.22 * lean, shoulder_z), 0.95 * who.shoulder, 0.05),
        Ring((0, 0.15 * lean, chest_z), who.shoulder, 0.045 + 0.35 * who.belly),
        Ring((0, 0.012, waist_z), who.waist, who.belly),
        Ring((0, 0, who.leg - 0.01), who.hip, 0.8 * who.hip),
    ]
    if who.upper_end > 0.02:
        below = who.leg * (1 - who.upper_end)
        width = who.hip * (1 + (who.upper_flare - 1) * min(1.0, 2 * who.upper_end)) + 0.01
        rings.append(Ring((0, 0, below), width, 0.85 * width))
    solids: list[Solid] = [Hull(tuple(rings), UPPER)]
    hem = who.leg * (1 - who.upper_end)
    front = 0.06 + 0.3 * who.belly
    if who.front == "open":
        solids.append(Limb((0, front, shoulder_z), (0, front, hem + 0.01), 0.026, 0.032, INNER, -0.02))
    elif who.front == "print":
        solids.append(Limb((-0.02, front, chest_z), (0.02, front, chest_z - 0.03), 0.032, 0.03, INNER, -0.02))
    if who.scarf:
        solids.append(
            Hull(
                (
                    Ring((0, 0.26 * lean, shoulder_z + 0.06), 0.055, 0.05),
                    Ring((0, 0.24 * lean + 0.01, shoulder_z + 0.005), 0.075, 0.06),
                ),
                SCARF,
                0.03,
            )
        )
    return solids


def _arms(who: Identity, pose: Pose, lean: float, shoulder_z: float) -> list[Solid]:
    solids: list[Solid] = []
    for side in (-1.0, 1.0):
        phase = pose.phase + (0 if side > 0 else math.pi)
        swing = who.arm_swing * pose.effort * math.sin(phase)
        # One arm sometimes does something else: a phone, a pocket.
        raised = 1.3 * max(0.0, pose.arms - 0.75) * 4 if side == who.bag_side else 0.0
        shoulder = (side * who.shoulder * 0.98, 0.22 * lean, shoulder_z - 0.02)
        elbow = (
            shoulder[0] + side * (0.015 + who.arm_spread),
            shoulder[1] + 0.165 * math.sin(swing),
            shoulder[2] - 0.165 * math.cos(swing),
        )
        bend = swing + 0.2 + 0.3 * max(0.0, swing) + raised
        hand = (
            elbow[0] - side * 0.1 * min(1.0, raised),
            elbow[1] + 0.165 * math.sin(bend),
            elbow[2] - 0.165 * math.cos(bend),
        )
        joints, radii = (shoulder, elbow, hand), (0.034 * who.limb, 0.027 * who.limb, 0.02 * who.limb)
        solids += _covering(joints, radii, 1.0, SKIN, 0.0)
        cloth = tuple(1.3 * radius for radius in radii)
        solids += _covering(joints, cloth, who.sleeve, SLEEVE, 0.005)
    return solids


def _head(who: Identity, lean: float) -> list[Solid]:
    r = who.head
    y, z = 0.4 * lean + 0.01, 1 - 1.15 * r
    solids: list[Solid] = [
        Limb((0, 0.25 * lean, z - 2 * r), (0, y, z - r), 0.55 * r, 0.5 * r, SKIN, -0.01),
        Limb((0, y + 0.1 * r, z + 0.2 * r), (0, y + 0.25 * r, z - 0.45 * r), 0.82 * r, 0.62 * r, SKIN, 0.02),
    ]

    def ball(back: float, up: float, to_back: float, to_up: float, a: float, b: float) -> None:
        start, end = (0, y - back * r, z + up * r), (0, y - to_back * r, z + to_up * r)
        solids.append(Limb(start, end, a * r, b * r, HAIR, 0.02))

    if who.hair_style != "bald":
        ball(0.18, 0.32, 0.3, 0.1, 0.92, 0.85)
    match who.hair_style:
        case "bob":
            ball(0.3, 0.2, 0.35, -0.8, 0.95, 0.85)
        case "long":
            ball(0.35, 0.2, 0.75, -2.4, 0.95, 0.75)
        case "bun":
            ball(0.5, 1.0, 0.6, 1.05, 0.45, 0.45)
        case "tail":
            ball(0.9, 0.4, 1.3, -1.4, 0.35, 0.25)
        case "afro":
            ball(0.15, 0.45, 0.2, 0.3, 1.3, 1.25)
    match who.hat_style:
        case "cap":
            solids.append(
                Limb(
                    (0, y - 0.1 * r, z + 0.6 * r), (0, y + 0.1 * r, z + 0.6 * r), 0.85 * r, 0.8 * r, HAT, 0.05
                )
            )
            solids.append(
                Limb(
                    (0, y + 0.8 * r, z + 0.4 * r),
                    (0, y + 1.4 * r, z + 0.32 * r),
                    0.22 * r,
                    0.15 * r,
                    HAT,
                    0.05,
                )
            )
        case "beanie":
            solids.append(
                Limb(
                    (0, y - 0.1 * r, z + 0.45 * r),
                    (0, y - 0.15 * r, z + 0.85 * r),
                    0.95 * r,
                    0.7 * r,
                    HAT,
                    0.05,
                )
            )
        case "brim":
            solids.append(
                Hull(
                    (
                        Ring((0, y, z + 1.15 * r), 0.7 * r, 0.7 * r),
                        Ring((0, y, z + 0.45 * r), 0.85 * r, 0.85 * r),
                    ),
                    HAT,
                    0.05,
                )
            )
            solids.append(
                Hull(
                    (
                        Ring((0, y, z + 0.5 * r), 1.6 * r, 1.6 * r),
                        Ring((0, y, z + 0.36 * r), 1.6 * r, 1.6 * r),
                    ),
                    HAT,
                    0.06,
                )
            )
    return solids


def _bag(who: Identity, lean: float, shoulder_z: float) -> list[Solid]:
    size, side = who.bag_size, who.bag_side
    front, back = 0.06 + 0.3 * who.belly, -(0.05 + 0.3 * who.belly)
    top = shoulder_z - 0.02
    far = (-side * who.shoulder * 0.75, 0.0, shoulder_z + 0.01)
    hip = (side * (who.hip + 0.01), 0.0, who.leg + 0.04)

    def strap(y: float) -> Limb:
        return Limb((far[0], y, far[2]), (hip[0] * 0.9, y, hip[2] + 0.03), 0.011, 0.011, STRAP, -0.01)

    match who.bag_style:
        case "backpack":
            w, deep = 0.085 * size, 0.05 * size
            middle = back - deep + 0.2 * lean
            return [
                Hull(
                    (
                        Ring((0, middle, top), 0.7 * w, 0.7 * deep),
                        Ring((0, middle, top - 0.05), w, deep),
                        Ring((0, middle, top - 0.22 * size), w, 1.2 * deep),
                        Ring((0, middle, top - 0.25 * size), 0.8 * w, deep),
                    ),
                    BAG,
                ),
                *(
                    Limb(
                        (s * 0.6 * who.shoulder, front, top),
                        (s * 0.7 * who.shoulder, front, top - 0.15),
                        0.012,
                        0.012,
                        STRAP,
                        -0.02,
                    )
                    for s in (-1.0, 1.0)
                ),
            ]
        case "messenger":
            low = (hip[0], -0.02, hip[2] - 0.05 * size)
            return [strap(front), strap(back), Limb(hip, low, 0.05 * size, 0.055 * size, BAG, 0.02)]
        case "handbag" | "tote":
            drop = 0.34 if who.bag_style == "handbag" else 0.24
            x, z = side * (who.shoulder + 0.05 + who.arm_spread), shoulder_z - drop
            half, height = (
                (0.05 * size, 0.07 * size) if who.bag_style == "handbag" else (0.06 * size, 0.13 * size)
            )
            hull = Hull(
                (Ring((x, 0, z), 0.02, 0.8 * half), Ring((x, 0, z - height), 0.03, half)),
                BAG,
                0.03,
            )
            return [
                hull,
                Limb(
                    (x, 0, shoulder_z if who.bag_style == "tote" else z + 0.05),
                    (x, 0, z),
                    0.01,
                    0.01,
                    STRAP,
                    0.02,
                ),
            ]
        case "waist":
            y = front + 0.02
            return [
                Limb(
                    (-0.03, y, who.leg + 0.05),
                    (0.03, y, who.leg + 0.05),
                    0.028 * size,
                    0.028 * size,
                    BAG,
                    0.0,
                )
            ]
        case _:
            return []
