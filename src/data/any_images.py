"""All images of a folder, whether or not their names tell who is seen."""

import logging
from collections.abc import Callable
from pathlib import Path

from common.config import ConfigError
from src.data.readers._files import SUFFIXES
from src.data.sample import UNKNOWN, Sample

_LOGGER = logging.getLogger(__name__)


def any_images(folder: Path, reader: Callable[[Path], list[Sample]]) -> list[Sample]:
    """Make one sample of each image of a folder and its sub-folders, sorted by path.

    Args:
        folder: The folder; hidden files and folders are passed over.
        reader: Reads the images whose names follow its layout. All others, which are all where it refuses the
            folder, get the identity `UNKNOWN` and camera 0; in a folder `thermal` they are thermal, else visible.

    Raises:
        ConfigError: the folder does not exist or holds no image.
    """
    if not folder.is_dir():
        raise ConfigError(f"dataset folder '{folder}' does not exist; expected a folder with images")
    images = sorted(path for path in folder.rglob("*") if _is_image(path.relative_to(folder)))
    if not images:
        raise ConfigError(f"there is no image ({', '.join(SUFFIXES)}) in '{folder}' or below it")
    try:
        known = {sample.path: sample for sample in reader(folder)}
    except ConfigError as error:
        _LOGGER.info("the %d images in '%s' are read without identities: %s", len(images), folder, error)
        known = {}
    unknown = [image for image in images if image not in known]
    if known and unknown:
        _LOGGER.warning(
            "%d images in '%s' are kept although their names do not follow the layout: whom they show is unknown",
            len(unknown),
            folder,
        )
    return [known.get(image) or _stranger(image, folder) for image in images]


def _stranger(image: Path, folder: Path) -> Sample:
    folders = (folder.name, *image.relative_to(folder).parts[:-1])
    is_thermal = "thermal" in (name.lower() for name in folders)
    return Sample(image, UNKNOWN, 0, "thermal" if is_thermal else "visible")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.parts)
