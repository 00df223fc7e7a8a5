"""Input pipeline in tf.data: files to batches of network inputs, parallel, deterministic and streaming."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from src.data._decode import decode
from src.data._pixel_cache import cached_pixels
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.data.samplers import (
    check_cross_modal_identities,
    check_identities,
    cross_modal_batches,
    cross_modal_steps_per_epoch,
    pk_batches,
    steps_per_epoch,
)

Augment = Callable[[Any, Any], Any]
"""(images float32 (N, H, W, C) in [0, 255], seed int32 (2,)) -> images, in TensorFlow operations."""


class View(NamedTuple):
    """One part of every batch of two modalities: P x K images of one of them, augmented in one way."""

    modality: str
    augment: Augment | None = None


_READY_BATCHES = 4
_CHUNK = 256
_SEEDS = 1_000_003  # between the seeds of two parts of a batch


def training_batches(
    samples: Sequence[Sample],
    labels: np.ndarray,
    preprocessing: Preprocessing,
    p: int,
    k: int,
    seed: int,
    epoch: int = 0,
    epochs: int = 1,
    cache: Path | str | None = None,
    augment: Augment | None = None,
    part: int = 0,
    parts: int = 1,
) -> tf.data.Dataset:
    """P x K batches of one or several epochs, in one stream.

    A step's content depends on the arguments and the number of the step only: a training that is resumed in
    epoch 17 sees what it would have seen. With `epochs` the stream runs on without a gap between epochs, and
    its graph is built once. Memory does not grow with the data set, but for the cache.

    Args:
        samples: The images to train on.
        labels: Label of each sample, integers (len(samples),), as `identity_labels` gives them.
        preprocessing: Decoding, resizing, rescaling.
        p: Identities a batch.
        k: Images of each identity in a batch.
        seed: Seed of sampling and augmentation.
        epoch: Number of the first epoch.
        epochs: How many epochs the stream holds; each has `steps_per_epoch(len(samples), p, k)` batches.
        cache: None decodes files anew each time; `memory` or a folder keeps the resized images as uint8.
        augment: Applied to pixels in [0, 255] before rescaling; each part of a batch draws for itself.
        part: Which part of every batch to load, from 0.
        parts: Into how many parts of P / `parts` identities every batch is divided.

    Returns:
        Dataset of {"images": float32 (P*K / parts, H, W, C) rescaled, "labels": int32 (P*K / parts,), "index": int32
        (P*K,) into `samples`, of all parts}.

    Raises:
        ConfigError: there are fewer than P identities.
        ValueError: labels and samples differ in length, or P is no multiple of `parts`.
    """
    labels = np.asarray(labels, dtype=np.int32)
    if labels.shape != (len(samples),):
        raise ValueError(f"labels must have shape ({len(samples)},), one per sample, got {labels.shape}")
    steps = steps_per_epoch(len(samples), p, k)
    check_identities(labels, p)
    batches = _index_batches(lambda e: pk_batches(labels, p, k, seed, e), p * k, epoch, epochs)
    if p % parts:
        raise ValueError(f"P must be a multiple of parts, got {p} and {parts}")
    size = p * k // parts
    own = batches if parts == 1 else batches.map(lambda index: index[part * size : (part + 1) * size])
    images = _images_of(own, samples, preprocessing, size, cache)
    known_labels = tf.constant(labels)

    def finish(step: Any, index_and_pixels: tuple[Any, Any]) -> dict[str, Any]:
        index, pixels = index_and_pixels
        return {
            "images": preprocessing.rescale(_augmented(augment, pixels, seed + part * _SEEDS, step)),
            "labels": tf.gather(known_labels, index),
            "index": index,
        }

    dataset = images.enumerate(epoch * steps).map(finish, tf.data.AUTOTUNE, deterministic=True)
    if parts > 1:
        dataset = tf.data.Dataset.zip(dataset, batches).map(lambda batch, index: {**batch, "index": index})
    return dataset.apply(tf.data.experimental.assert_cardinality(steps * epochs)).prefetch(_READY_BATCHES)


def cross_modal_training_batches(
    samples: Sequence[Sample],
    labels: np.ndarray,
    preprocessing: Mapping[str, Preprocessing],
    views: Sequence[View],
    p: int,
    k: int,
    seed: int,
    epoch: int = 0,
    epochs: int = 1,
    cache: Path | str | None = None,
) -> tf.data.Dataset:
    """Batches of P identities x K visible and K thermal images; otherwise as `training_batches`.

    A modality may have several views, such as visible images and the same ones with a channel exchanged: its images
    are then in the batch several times, each time augmented anew. Identities of one modality are left out.

    Args:
        samples: The images to train on.
        labels: Label of each sample, integers (len(samples),).
        preprocessing: Of each modality.
        views: Parts of a batch; all views of `visible` come before those of `thermal`, and each has one at least.
        p: Identities a batch.
        k: Images of each identity and modality.
        seed: Seed of sampling and augmentation.
        epoch: Number of the first epoch.
        epochs: How many epochs the stream holds.
        cache: None decodes files anew each time; `memory` or a folder keeps the resized images as uint8.

    Returns:
        Dataset of {"images": {modality: float32 (V*P*K, H, W, C) rescaled}, "labels": int32 (N,), "index": int32 (N,)
        into `samples`}, with V views of the modality and N = P*K for each view, in the order of the views.

    Raises:
        ConfigError: fewer than P identities have images of both modalities.
    """
    labels = np.asarray(labels, dtype=np.int32)
    modalities = np.array([sample.modality for sample in samples])
    thermal = modalities == "thermal"
    check_cross_modal_identities(labels, thermal, p)
    batches = _index_batches(
        lambda e: cross_modal_batches(labels, thermal, p, k, seed, e), 2 * p * k, epoch, epochs
    )

    def side(number: int, modality: str) -> tf.data.Dataset:
        own = np.flatnonzero(modalities == modality).tolist()
        place = np.zeros(len(samples), np.int32)
        place[own] = np.arange(len(own))
        places = batches.map(lambda index: tf.gather(place, index[number * p * k : (number + 1) * p * k]))
        return _images_of(places, [samples[i] for i in own], preprocessing[modality], p * k, cache)

    sides = {modality: side(number, modality) for number, modality in enumerate(("visible", "thermal"))}
    known_labels = tf.constant(labels)

    def finish(step: Any, index: Any, pixels: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
        parts: dict[str, list[Any]] = {modality: [] for modality in sides}
        for number, view in enumerate(views):
            values = _augmented(view.augment, pixels[view.modality][1], seed + number * _SEEDS, step)
            parts[view.modality].append(preprocessing[view.modality].rescale(values))
        halves = dict(zip(sides, tf.split(index, 2), strict=True))
        seen = tf.concat([halves[view.modality] for view in views], axis=0)
        images = {modality: tf.concat(own, axis=0) for modality, own in parts.items()}
        return {"images": images, "labels": tf.gather(known_labels, seen), "index": seen}

    steps = cross_modal_steps_per_epoch(labels, thermal, p, k)
    numbers = tf.data.Dataset.counter(epoch * steps)
    dataset = tf.data.Dataset.zip(numbers, batches, sides).map(finish, tf.data.AUTOTUNE, deterministic=True)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps * epochs)).prefetch(_READY_BATCHES)


def drawn_batches(
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    draws: np.ndarray,
    seed: int,
    first_step: int = 0,
    augment: Augment | None = None,
    pixels: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Batches of images that the caller has drawn.

    Args:
        samples: The images.
        preprocessing: Decoding, resizing, rescaling.
        draws: Indices into `samples`, int32 (steps, N).
        seed: Seed of augmentation.
        first_step: Number of the first batch, which augmentation depends on too.
        augment: As of `training_batches`.
        pixels: Resized images (len(samples), H, W, C), uint8, if they are kept; None decodes files anew each time.

    Returns:
        Dataset of {"images": float32 (N, H, W, C) rescaled, "index": int32 (N,)}.
    """
    batches = tf.data.Dataset.from_tensor_slices(tf.constant(draws, tf.int32))
    images = _images_of(batches, samples, preprocessing, draws.shape[1], pixels)

    def finish(step: Any, index_and_pixels: tuple[Any, Any]) -> dict[str, Any]:
        index, values = index_and_pixels
        return {"images": preprocessing.rescale(_augmented(augment, values, seed, step)), "index": index}

    return (
        images.enumerate(first_step)
        .map(finish, tf.data.AUTOTUNE, deterministic=True)
        .apply(tf.data.experimental.assert_cardinality(len(draws)))
        .prefetch(_READY_BATCHES)
    )


def kept_pixels(samples: Sequence[Sample], preprocessing: Preprocessing, cache: Path | str) -> np.ndarray:
    """Return resized images, uint8 (len(samples), H, W, C), kept in `memory` or in a folder."""
    decoded = _pixels(samples, preprocessing).batch(_CHUNK).as_numpy_iterator()
    return cached_pixels(samples, preprocessing, decoded, cache)


def _augmented(augment: Augment | None, pixels: Any, seed: int, step: Any) -> Any:
    """Pixels as float32, augmented as the seed and the number of the step say."""
    values = tf.cast(pixels, tf.float32)
    if augment is None:
        return values
    return augment(values, tf.stack([tf.constant(seed % 2**31, tf.int32), tf.cast(step, tf.int32)]))


def evaluation_batches(
    samples: Sequence[Sample], preprocessing: Preprocessing, batch_size: int
) -> tf.data.Dataset:
    """All images in order, float32 (batch_size or fewer, H, W, C), rescaled."""
    return (
        _pixels(samples, preprocessing)
        .batch(batch_size)
        .map(lambda pixels: preprocessing.rescale(tf.cast(pixels, tf.float32)), tf.data.AUTOTUNE)
        .prefetch(_READY_BATCHES)
    )


def load_pixels(samples: Sequence[Sample], preprocessing: Preprocessing) -> np.ndarray:
    """Return resized images before rescaling, uint8 (len(samples), H, W, C)."""
    pixels = np.empty((len(samples), *preprocessing.input_shape), np.uint8)
    start = 0
    for batch in _pixels(samples, preprocessing).batch(_CHUNK).as_numpy_iterator():
        pixels[start : start + len(batch)] = batch
        start += len(batch)
    return pixels


def load_images(samples: Sequence[Sample], preprocessing: Preprocessing) -> np.ndarray:
    """Return images as a network takes them, float32 (len(samples), H, W, C); all in memory."""
    return preprocessing.rescale(load_pixels(samples, preprocessing).astype(np.float32))


def _index_batches(draw: Callable[[int], np.ndarray], size: int, epoch: int, epochs: int) -> tf.data.Dataset:
    """Index batches (size,) of some epochs; `draw` gives those of one, (steps, size)."""

    def of_epoch(number: Any) -> tf.data.Dataset:
        drawn = tf.numpy_function(lambda e: draw(int(e)), [number], tf.int32, stateful=False)
        return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(drawn, (None, size)))

    return tf.data.Dataset.range(epoch, epoch + epochs).flat_map(of_epoch)


def _images_of(
    batches: tf.data.Dataset,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    batch_size: int,
    cache: Path | str | np.ndarray | None,
) -> tf.data.Dataset:
    """Index batches to (index, uint8 pixels) batches; `cache` may be the pixels themselves."""
    if cache is None:
        paths = tf.constant([str(sample.path) for sample in samples])
        return (
            batches.unbatch()
            .map(
                lambda index: (index, decode(paths[index], preprocessing)),
                tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(batch_size, drop_remainder=True)
        )
    pixels = cache if isinstance(cache, np.ndarray) else kept_pixels(samples, preprocessing, cache)

    def look_up(index: Any) -> tuple[Any, Any]:
        found = tf.numpy_function(lambda i: pixels[i], [index], tf.uint8, stateful=False)
        return index, tf.ensure_shape(found, (batch_size, *preprocessing.input_shape))

    return batches.map(look_up, tf.data.AUTOTUNE, deterministic=True)


def _pixels(samples: Sequence[Sample], preprocessing: Preprocessing) -> tf.data.Dataset:
    paths = tf.constant([str(sample.path) for sample in samples], tf.string)
    return tf.data.Dataset.from_tensor_slices(paths).map(
        lambda path: decode(path, preprocessing), tf.data.AUTOTUNE, deterministic=True
    )
