"""See what the section data_augmentation does: `python -m src.tools.preview_augmentation --config-name NAME.yaml`.

Writes training images before and after it, side by side, to a PNG. Overrides work as for training:
`data_augmentation.random_flip.mode=vertical`.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from common import plotting
from common.config import OUTPUTS, ConfigError, compose, validate
from src.data.selection import folders, preprocessing_of, read_folder_of, render_if_synthetic
from src.schema import Config


def preview(config: Config, images: int = 6, variants: int = 7, each: bool = False) -> dict[str, np.ndarray]:
    """Return training images before and after augmentation.

    Args:
        config: A configuration with the sections dataset and data_augmentation.
        images: Number of training images, chosen by `dataset.seed`.
        variants: Number of versions of each image, with the seeds of the first steps of a training.
        each: Show each augmentation by itself, in one version, instead of all one after the other.

    Returns:
        Columns by title, `before` first: uint8 (images, H, W, C).

    Raises:
        ConfigError: nothing is to be augmented, or there are no training images.
    """
    if not config.data_augmentation:
        raise ConfigError("there is nothing to show: the configuration has no section data_augmentation")
    from src.augmentation._sequence import sequence

    before = _training_images(config, images)
    if each:
        named = {
            f"{number} {name}": (sequence({name: arguments}, before.shape[1:]), 0)
            for number, (name, arguments) in enumerate(config.data_augmentation.items(), start=1)
        }
    else:
        everything = sequence(config.data_augmentation, before.shape[1:])
        named = {f"step {step}": (everything, step) for step in range(variants)}
    columns = {
        title: _applied(function, before, (config.general.global_seed, step))
        for title, (function, step) in named.items()
    }
    return {"before": before, **columns}


def _training_images(config: Config, number: int) -> np.ndarray:
    render_if_synthetic(config)
    path = folders(config)["training"]
    if path is None:
        raise ConfigError("dataset.training_path is not set: there are no images to show")
    from src.data.pipeline import load_pixels

    samples = read_folder_of(config, "training", path)
    chosen = np.random.default_rng(config.dataset.seed).permutation(len(samples))[:number]
    return load_pixels(
        [samples[index] for index in chosen], preprocessing_of(config, config.model.input_shape)
    )


def _applied(function: Any, pixels: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    import tensorflow as tf

    images = function(tf.constant(pixels, tf.float32), tf.constant(seed, tf.int32))
    return images.numpy().round().astype(np.uint8)


def write(path: Path, columns: dict[str, np.ndarray]) -> Path:
    """Write the columns as a contact sheet, one row an image."""
    rows = list(zip(*columns.values(), strict=True))
    wrapped = [title.replace("_", "_\n", 1) for title in columns]  # long names of narrow columns
    titles = [*wrapped, *[""] * (len(rows) - 1) * len(columns)]
    return plotting.image_grid(path, [image for row in rows for image in row], len(columns), titles)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for a mistake in the configuration or the data."""
    parser = argparse.ArgumentParser(
        prog="python -m src.tools.preview_augmentation", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, default=Path(OUTPUTS) / "augmentation_preview.png")
    parser.add_argument("--images", type=int, default=6, help="number of training images (rows)")
    parser.add_argument("--variants", type=int, default=7, help="versions of each (columns)")
    parser.add_argument("--each", action="store_true", help="one column for each augmentation by itself")
    options, rest = parser.parse_known_args(arguments)
    try:
        columns = preview(validate(Config, compose(rest)), options.images, options.variants, options.each)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {write(options.output, columns)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
