"""What all readers share: listing a folder, and messages for a folder that holds something else."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from common.config import ConfigError
from src.data.sample import Sample

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")

_LOGGER = logging.getLogger(__name__)
_CAMERA = re.compile(r"(?:^|_)c(\d+)(?:s\d+)?(?=_|$)")


def read_folder(
    folder: Path | str,
    expected: str,
    to_sample: Callable[[Path], Sample | None],
    list_images: Callable[[Path], Iterator[Path]] | None = None,
) -> list[Sample]:
    """Make one sample of each image of a folder, sorted by path.

    Args:
        folder: The folder.
        expected: The files that the layout expects, for messages.
        to_sample: An image's sample, or None when its name does not follow the layout; such images are left
            out and counted in a warning.
        list_images: Finds the images; by default those directly in the folder.

    Raises:
        ConfigError: the folder does not exist, or holds no image of the layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"dataset folder '{folder}' {what}; expected a folder with {expected}")
    images = sorted((list_images or images_in)(folder))
    made = [(image, to_sample(image)) for image in images]
    samples = [sample for _, sample in made if sample is not None]
    strangers = [image.relative_to(folder) for image, sample in made if sample is None]
    if not samples:
        raise ConfigError(f"no image in '{folder}' follows the layout: expected {expected}, {_found(folder)}")
    if strangers:
        _LOGGER.warning(
            "%d of %d images in '%s' are left out: expected %s, found for example '%s'",
            len(strangers), len(images), folder, expected, strangers[0],
        )  # fmt: skip
    return samples


def images_in(folder: Path) -> Iterator[Path]:
    """Yield the image files directly in a folder; hidden files are not images."""
    for path in folder.iterdir():
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            yield path


def camera_of(stem: str) -> int:
    """Return the k of a `c<k>` or `c<k>s<n>` between underscores in a file's name, else 0."""
    match = _CAMERA.search(stem)
    return int(match[1]) if match else 0


def _found(folder: Path) -> str:
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not inside:
        return "found an empty folder"
    images = [path for path in inside if path.suffix.lower() in SUFFIXES]
    example = (images or inside)[0].relative_to(folder)
    return f"found {len(inside)} files ({len(images)} images), for example '{example}'"
