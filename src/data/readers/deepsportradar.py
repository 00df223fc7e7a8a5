from pathlib import Path

from src.data.readers._files import camera_of, read_folder
from src.data.sample import Sample


def deepsportradar(path: Path) -> list[Sample]:
    """Read a folder of the DeepSportradar re-ID layout: `<identity>_<anything>.jpg`.

    The identity is the file's name before the first underscore, kept as text. A `_c<k>` in the rest of the
    name is the camera; the original data set has none, so its camera is 0.

    Args:
        path: One of `reid_train`, `reid_test/query`, `reid_test/gallery`.

    Raises:
        ConfigError: the folder is missing or no image has such a name.
    """

    def to_sample(image: Path) -> Sample | None:
        identity, underscore, rest = image.stem.partition("_")
        return Sample(image, identity, camera_of(rest)) if identity and underscore else None

    return read_folder(path, "images named '<identity>_<anything>.jpg'", to_sample)
