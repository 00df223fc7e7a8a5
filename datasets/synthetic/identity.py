"""Who a person is: everything about them that a camera could see twice."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from datasets.synthetic._random import rng_of

# Albedo in display-encoded RGB, and how often it is worn: most people dress in black, grey and blue, so that
# colour alone separates few of them.
_CLOTH = (
    ((28, 28, 32), 5),
    ((62, 62, 66), 5),
    ((125, 125, 125), 5),
    ((225, 225, 220), 5),
    ((32, 40, 78), 5),
    ((50, 84, 150), 5),
    ((120, 165, 205), 3),
    ((170, 38, 40), 4),
    ((96, 28, 40), 3),
    ((46, 96, 60), 3),
    ((92, 92, 52), 4),
    ((104, 72, 48), 4),
    ((198, 174, 134), 5),
    ((222, 190, 60), 3),
    ((222, 122, 50), 3),
    ((214, 140, 160), 3),
    ((104, 62, 128), 3),
    ((40, 128, 132), 3),
)
_CLOTH_COLOURS = np.array([colour for colour, _ in _CLOTH], np.float64)
_CLOTH_WEIGHTS = np.array([weight for _, weight in _CLOTH], np.float64) / sum(weight for _, weight in _CLOTH)
_SKIN = ((238, 200, 172), (222, 176, 142), (190, 138, 104), (140, 94, 66), (88, 58, 42))
_HAIR = (
    (24, 20, 20),
    (54, 36, 26),
    (94, 62, 36),
    (150, 110, 62),
    (206, 176, 116),
    (140, 136, 134),
    (120, 52, 30),
)

Colour = tuple[float, float, float]


class Pattern(NamedTuple):
    """What is printed or woven into a garment; lengths are in body heights."""

    kind: str
    period: float
    duty: float
    phase: float


@dataclass(frozen=True)
class Garment:
    """A piece of clothing: two colours, how they alternate, and how well it insulates."""

    colour: Colour
    second: Colour
    pattern: Pattern
    insulation: float
    """Share of the difference between skin and air that does not reach the outside, 0 to 1."""


@dataclass(frozen=True)
class Identity:
    """A person. Lengths are in body heights, colours in display-encoded RGB of 0 to 255."""

    leg: float
    shoulder: float
    hip: float
    waist: float
    belly: float
    limb: float
    head: float
    stoop: float
    stride: float
    arm_swing: float
    arm_spread: float
    warmth: float
    """Skin temperature relative to the average person, in degrees Celsius."""
    skin: Colour
    hair_style: str
    hair: Colour
    hat_style: str
    hat: Colour
    upper: Garment
    upper_end: float
    """Where the upper garment ends, as a share of the leg below the hip: 0 a shirt, 0.7 a long coat."""
    upper_flare: float
    sleeve: float
    """Share of the arm that is covered."""
    front: str
    """What only the front shows: nothing, an open jacket or a print on the chest."""
    inner: Colour
    lower_kind: str
    lower: Garment
    lower_length: float
    """Share of the leg that is covered."""
    lower_width: float
    seam: bool
    sock: float
    """Share of the leg that socks or boots cover."""
    sock_colour: Colour
    shoe: Colour
    bag_style: str
    bag: Colour
    bag_second: Colour
    bag_size: float
    bag_side: float
    scarf: bool
    scarf_colour: Colour


def _pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def _vary(rng: np.random.Generator, colour: np.ndarray | Colour, spread: float) -> Colour:
    red, green, blue = np.clip(np.asarray(colour) + rng.normal(0, spread, 3), 8, 245)
    return float(red), float(green), float(blue)


def _cloth_colour(rng: np.random.Generator) -> Colour:
    return _vary(rng, _CLOTH_COLOURS[rng.choice(len(_CLOTH_COLOURS), p=_CLOTH_WEIGHTS)], 10)


def _contrasting(rng: np.random.Generator, colour: Colour) -> Colour:
    candidates = [_cloth_colour(rng) for _ in range(6)]
    return max(candidates, key=lambda other: sum(abs(a - b) for a, b in zip(colour, other, strict=True)))


def _garment(rng: np.random.Generator, kinds: dict[str, float], insulation: float) -> Garment:
    colour = _cloth_colour(rng)
    pattern = Pattern(_pick(rng, kinds), rng.uniform(0.03, 0.14), rng.uniform(0.25, 0.65), rng.uniform(0, 1))
    return Garment(colour, _contrasting(rng, colour), pattern, insulation)


@lru_cache(maxsize=256)  # a fifth of the time of an image, and the next image shows the same person
def make_identity(seed: int, number: int, population: int = 0) -> Identity:
    """Return person `number` of a population; the same arguments always give the same person."""
    return random_identity(rng_of(population, seed, 1, number))


def random_identity(rng: np.random.Generator) -> Identity:
    """Return a new person drawn from `rng`."""
    lower_kind = _pick(rng, {"trousers": 5, "shorts": 2.5, "skirt": 1.5})
    lower_length = {
        "trousers": rng.uniform(0.82, 0.97),
        "shorts": rng.uniform(0.28, 0.55),
        "skirt": rng.uniform(0.3, 0.85),
    }[lower_kind]
    sleeve = {"none": 0.05, "short": rng.uniform(0.25, 0.45), "long": rng.uniform(0.8, 0.95)}[
        _pick(rng, {"none": 1, "short": 3, "long": 5})
    ]
    is_coat = sleeve > 0.7 and rng.random() < 0.35
    upper_kinds = {
        "plain": 3,
        "stripes": 1.6,
        "columns": 1,
        "check": 1.2,
        "dots": 0.9,
        "block": 1.8,
        "band": 1.6,
        "blotches": 1,
    }
    lower_kinds = {"plain": 3.5, "stripes": 0.7, "columns": 0.8, "check": 0.9, "blotches": 0.8}
    lower_width = rng.uniform(1.05, 1.6)
    # A thick garment hides body heat, and what is thick looks it: coats, long sleeves, wide and long trousers.
    upper_insulation = 0.22 + 0.25 * (sleeve > 0.7) + 0.28 * is_coat + rng.normal(0, 0.06)
    lower_insulation = 0.1 + 0.3 * lower_length + 0.6 * (lower_width - 1.05) + rng.normal(0, 0.06)
    upper = _garment(rng, upper_kinds, float(np.clip(upper_insulation, 0.1, 0.9)))
    lower = _garment(rng, lower_kinds, float(np.clip(lower_insulation, 0.1, 0.9)))
    return Identity(
        leg=rng.uniform(0.42, 0.54),
        shoulder=rng.uniform(0.092, 0.146),
        hip=rng.uniform(0.072, 0.125),
        waist=rng.uniform(0.062, 0.122),
        belly=rng.uniform(0.045, 0.115),
        limb=rng.uniform(0.78, 1.35),
        head=rng.uniform(0.052, 0.074),
        stoop=max(0.0, rng.normal(0.01, 0.03)),
        stride=rng.uniform(0.25, 0.6),
        arm_swing=rng.uniform(0.15, 0.65),
        arm_spread=rng.uniform(0.0, 0.05),
        warmth=rng.normal(0, 0.7),
        skin=_vary(rng, _SKIN[rng.integers(len(_SKIN))], 6),
        hair_style=_pick(
            rng, {"bald": 1, "short": 4, "bob": 1.5, "long": 2, "bun": 1, "tail": 1, "afro": 0.8}
        ),
        hair=_vary(rng, _HAIR[rng.integers(len(_HAIR))], 8),
        hat_style=_pick(rng, {"none": 4, "cap": 1.5, "beanie": 1.3, "brim": 1}),
        hat=_cloth_colour(rng),
        upper=upper,
        upper_end=rng.uniform(0.35, 0.72) if is_coat else rng.uniform(0.0, 0.2),
        upper_flare=rng.uniform(0.95, 1.35),
        sleeve=sleeve,
        front=_pick(rng, {"closed": 4, "open": 2.2 if sleeve > 0.7 else 0.2, "print": 1.5}),
        inner=_contrasting(rng, upper.colour),
        lower_kind=lower_kind,
        lower=lower,
        lower_length=lower_length,
        lower_width=lower_width,
        seam=bool(rng.random() < 0.2),
        sock=_boots(rng, lower_kind),
        sock_colour=_cloth_colour(rng),
        shoe=_cloth_colour(rng),
        bag_style=_pick(
            rng, {"none": 3, "backpack": 2.4, "messenger": 1.6, "handbag": 1.2, "tote": 1, "waist": 0.5}
        ),
        bag=_cloth_colour(rng),
        bag_second=_cloth_colour(rng),
        bag_size=rng.uniform(0.7, 1.45),
        bag_side=float(rng.choice((-1.0, 1.0))),
        scarf=bool(rng.random() < 0.15),
        scarf_colour=_cloth_colour(rng),
    )


def _boots(rng: np.random.Generator, lower_kind: str) -> float:
    length = rng.uniform(0.12, 0.45)
    return float(length) if lower_kind != "trousers" and rng.random() < 0.6 else 0.0
