from collections.abc import Iterator
from pathlib import Path

from src.data.readers._files import camera_of, images_in, read_folder
from src.data.sample import Sample


def image_folder(path: Path) -> list[Sample]:
    """Read a folder with one sub-folder per identity: `<identity>/<any name>.jpg`.

    The identity is the sub-folder's name, kept as text. A `c<k>` between underscores in the file's name is
    the camera, which is 0 otherwise.

    Args:
        path: One of `train`, `query`, `gallery`.

    Raises:
        ConfigError: the folder is missing or no sub-folder holds an image.
    """

    def in_sub_folders(folder: Path) -> Iterator[Path]:
        for identity in folder.iterdir():
            if identity.is_dir() and not identity.name.startswith("."):
                yield from images_in(identity)

    def to_sample(image: Path) -> Sample:
        return Sample(image, image.parent.name, camera_of(image.stem))

    return read_folder(
        path, "one sub-folder per identity: '<identity>/<name>.jpg'", to_sample, in_sub_folders
    )
