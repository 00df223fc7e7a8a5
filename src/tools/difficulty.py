"""Measure how hard a synthetic data set is: `python -m src.tools.difficulty --preset bench`.

Features that know nothing of people must fail on it, and a plain network must learn to do well on people that
it never saw. Prints a table, writes nothing, and exits with 1 when a bar is missed.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from common.vectors import unit
from datasets.synthetic import PRESETS, generate
from src.data.readers.market1501 import market1501
from src.metrics.baselines import hsv_stripes, mean_colour, raw_pixels
from src.metrics.retrieval import retrieval_metrics

HEIGHT, WIDTH = 128, 64
STEPS = 2000
BATCH = (16, 4)  # P identities x K images
TRIALS = 10  # draws of the single-shot gallery
BARS = {"baseline": {"visible": 15.0, "cross": 3.0}, "network": {"visible": 60.0, "cross": 25.0}}

Embed = Callable[[np.ndarray], np.ndarray]
"""uint8 images (N, H, W, 3) to features (N, D)."""


class Images(NamedTuple):
    """Images of one folder, with who and by which camera."""

    pixels: np.ndarray
    """uint8 (N, H, W, 3) RGB; thermal is repeated over the channels."""
    identities: np.ndarray
    cameras: np.ndarray
    thermal: np.ndarray
    """Whether the camera is thermal, bool (N,)."""

    def where(self, mask: np.ndarray) -> "Images":
        """Return a selection of the images."""
        return Images(*(field[mask] for field in self))


class Scores(NamedTuple):
    """Percent. `cross` is Rank-1 thermal to visible, single-shot; NaN without thermal cameras."""

    rank1: float
    mAP: float  # noqa: N815
    cross: float


def load(root: Path, folders: tuple[str, ...]) -> Images:
    """Read folders of a synthetic data set in the Market-1501 layout at HEIGHT x WIDTH."""
    cameras = json.loads((root / "synthetic.json").read_text(encoding="utf-8"))["cameras"]
    samples = [sample for folder in folders for sample in market1501(root / folder)]
    numbers = np.array([sample.camera for sample in samples])
    return Images(
        np.stack([_read(sample.path) for sample in samples]),
        np.array([sample.identity for sample in samples]),
        numbers,
        np.array([cameras[str(number)] == "thermal" for number in numbers]),
    )


def _read(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError(f"'{path}' is not an image that OpenCV can read")
    return np.asarray(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA))


# ------------------------------------------------------------------------------------------------------------
# Scores


def score(embed: Embed, query: Images, gallery: Images) -> Scores:
    """Score visible retrieval by the Market-1501 protocol, and thermal-to-visible by the single-shot one."""
    q, g = query.where(~query.thermal), gallery.where(~gallery.thermal)
    features = {"query": embed(q.pixels), "gallery": embed(g.pixels)}
    visible = retrieval_metrics(
        features["query"], features["gallery"], q.identities, g.identities, q.cameras, g.cameras
    )
    cross = math.nan
    if query.thermal.any():
        # All thermal images ask, and the gallery is drawn from all visible ones, as in SYSU-MM01.
        parts = (query.where(query.thermal), gallery.where(gallery.thermal))
        asking = Images(*(np.concatenate(fields) for fields in zip(*parts, strict=True)))
        shown = Images(*(np.concatenate(fields) for fields in zip(q, g, strict=True)))
        cross = single_shot(
            embed(asking.pixels), np.concatenate([features["query"], features["gallery"]]), asking, shown
        )
    return Scores(100 * visible.rank1, 100 * visible.mAP, 100 * cross)


def single_shot(query: np.ndarray, gallery: np.ndarray, asking: Images, shown: Images) -> float:
    """Return Rank-1 with one gallery image per identity and camera, the mean of TRIALS draws.

    As in SYSU-MM01 (Wu et al., "RGB-infrared cross-modality person re-identification", 2017), camera 3
    does not ask camera 2, which sees the same place.
    """
    rng = np.random.default_rng(0)
    similarity = unit(query) @ unit(gallery).T
    same_place = (asking.cameras == 3)[:, None] & (shown.cameras == 2)
    similarity[same_place] = -np.inf
    keys = np.unique(np.stack([shown.identities, shown.cameras]), axis=1, return_inverse=True)[1].ravel()
    results = []
    for _ in range(TRIALS):
        order = rng.permutation(len(keys))
        drawn = order[np.unique(keys[order], return_index=True)[1]]
        first = drawn[similarity[:, drawn].argmax(axis=1)]
        results.append((shown.identities[first] == asking.identities).mean())
    return float(np.mean(results))


# ------------------------------------------------------------------------------------------------------------
# The plain network


def plain_network(num_identities: int) -> Any:
    """Return a Keras model of seven convolutions: uint8-valued images to `features` and `logits`."""
    import keras
    from keras import layers

    from common.layers.rewrite import with_fused_batch_norm

    x = inputs = keras.Input((HEIGHT, WIDTH, 3))
    x = layers.Rescaling(1 / 127.5, -1)(x)
    for filters, stride in ((24, 2), (48, 2), (64, 1), (96, 2), (128, 1), (192, 2), (160, 1)):
        x = layers.Conv2D(filters, 3, stride, "same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.95)(x))
    x = layers.AveragePooling2D((2, 4))(x)  # (N, 8, 4, 160) to (N, 4, 1, 160): head, chest, legs, feet
    features = layers.Dense(256, use_bias=False)(layers.Flatten()(x))
    embedding = layers.BatchNormalization(momentum=0.95, center=False)(features)
    logits = layers.Dense(num_identities, use_bias=False)(embedding)
    network = keras.Model(inputs, {"features": features, "embedding": embedding, "logits": logits})
    return with_fused_batch_norm(network)


def train(network: Any, images: Images, steps: int, seed: int) -> None:
    """Train with identity cross-entropy and batch-hard triplet, half of each person's images thermal."""
    import keras
    import tensorflow as tf

    from src.losses.cross_entropy import cross_entropy
    from src.losses.triplet import triplet

    schedule = keras.optimizers.schedules.CosineDecay(1e-4, steps, 0.0, warmup_target=2e-3, warmup_steps=100)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=5e-4)
    optimizer.build(network.trainable_variables)

    @tf.function(jit_compile=False)
    def step(pixels: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = network(pixels, training=True)
            loss = cross_entropy(outputs["logits"], labels, label_smoothing=0.1)
            loss += triplet(outputs["features"], labels, margin=0.3, distance_metric="cosine")
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    rng = np.random.default_rng(seed)
    for pixels, labels in track(_batches(images, steps, rng), "Training", steps):
        step(tf.constant(pixels), tf.constant(labels))


def _batches(images: Images, steps: int, rng: np.random.Generator) -> Any:
    """Yield `steps` augmented batches: float32 (P x K, H, W, 3) and int32 labels (P x K,)."""
    labels = np.unique(images.identities, return_inverse=True)[1].astype(np.int32)
    groups = []
    for label in range(labels.max() + 1):
        own = labels == label
        sides = [np.flatnonzero(own & (images.thermal == side)) for side in (False, True)]
        groups.append([side for side in sides if len(side)])
    P, K = BATCH
    for _ in range(steps):
        chosen = []
        for label in rng.choice(len(groups), min(P, len(groups)), replace=False):
            sides = groups[label]
            chosen += [rng.choice(side, K // len(sides), replace=False) for side in sides]
        index = np.concatenate(chosen)
        yield _augmented(images.pixels[index], images.thermal[index], rng), labels[index]


def _augmented(pixels: np.ndarray, thermal: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift, flip, greyscale, erase and colour. uint8 to float32, both (N, H, W, 3)."""
    moved = [_changed(image, is_thermal, rng) for image, is_thermal in zip(pixels, thermal, strict=True)]
    result = np.array(moved, np.float32)
    count = len(pixels)
    tints = np.where(thermal[:, None, None, None], 1, rng.uniform(0.8, 1.2, (count, 1, 1, 3)))
    result *= (tints * rng.uniform(0.7, 1.3, (count, 1, 1, 1))).astype(np.float32)
    result += rng.uniform(-20, 20, (count, 1, 1, 1)).astype(np.float32)
    return np.clip(result, 0, 255, out=result)


def _changed(image: np.ndarray, is_thermal: bool, rng: np.random.Generator) -> np.ndarray:
    pad = 6
    image = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    row, column = rng.integers(2 * pad, size=2)
    image = image[row : row + HEIGHT, column : column + WIDTH]
    if rng.random() < 0.5:
        image = image[:, ::-1]
    image = image.copy()
    if not is_thermal and rng.random() < 0.7:
        # One channel or their mean: what visible and thermal have in common is not colour.
        channel = rng.integers(4)
        grey = cv2.transform(image, np.full((1, 3), 1 / 3)) if channel == 3 else image[..., channel]
        image = cv2.merge([grey] * 3)
    if rng.random() < 0.4:
        top, left = rng.integers(HEIGHT), rng.integers(WIDTH)
        image[top : top + rng.integers(8, 48), left : left + rng.integers(8, 32)] = rng.integers(256)
    return image


def embedder(network: Any) -> Embed:
    """Return the network's embedding as a function of uint8 images."""
    return lambda pixels: network.predict(pixels, batch_size=128, verbose=0)["embedding"]


# ------------------------------------------------------------------------------------------------------------
# The table


def measure(root: Path, steps: int, seeds: int) -> list[tuple[str, str, Scores, float]]:
    """Return (kind, name, scores, seconds of training) of every method on a data set."""
    import keras

    learning = load(root, ("bounding_box_train",))
    query, gallery = load(root, ("query",)), load(root, ("bounding_box_test",))
    identities = len(np.unique(learning.identities))
    rows = [
        ("baseline", embed.__name__, score(embed, query, gallery), 0.0)
        for embed in (mean_colour, raw_pixels, hsv_stripes)
    ]
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        network = plain_network(identities)
        if seed == 0:
            rows.append(("baseline", "random network", score(embedder(network), query, gallery), 0.0))
        start = time.perf_counter()
        train(network, learning, steps, seed)
        seconds = time.perf_counter() - start
        name = f"plain network, {network.count_params() / 1e6:.2f} M, seed {seed}"
        rows.append(("network", name, score(embedder(network), query, gallery), seconds))
    return rows


def missed(kind: str, scores: Scores) -> bool:
    """Return whether a method is better (a baseline) or worse (a network) than its bars allow."""
    sign = 1 if kind == "baseline" else -1
    values = {"visible": scores.rank1, "cross": scores.cross}
    return any(
        sign * values[task] > sign * bar for task, bar in BARS[kind].items() if not math.isnan(values[task])
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m src.tools.difficulty", description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="bench")
    parser.add_argument(
        "--root", type=Path, help="where the data set is or will be; default: a temporary folder"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of 64 images")
    parser.add_argument("--seeds", type=int, default=1, help="number of networks to train")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        root = generate(options.preset, options.root or Path(temporary) / options.preset)
        rows = measure(root, options.steps, options.seeds)
    table = Table("method", "visible Rank-1", "visible mAP", "thermal to visible Rank-1", "training", "")
    for kind, name, scores, seconds in rows:
        cells = ("-" if math.isnan(value) else f"{value:.1f} %" for value in scores)
        table.add_row(
            name, *cells, f"{seconds:.0f} s" if seconds else "-", "MISSED" if missed(kind, scores) else "ok"
        )
    Console(width=120).print(table)
    return int(any(missed(kind, scores) for kind, _, scores, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
