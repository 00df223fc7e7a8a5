import re
from pathlib import Path

from src.data.readers._files import read_folder
from src.data.sample import Sample

_NAME = re.compile(r"(-1|\d+)_c(\d+)s\d+_")


def market1501(path: Path) -> list[Sample]:
    """Read a folder of the Market-1501 layout: `0002_c1s1_000451_03.jpg` is person 2 seen by camera 1.

    Identity -1 (junk detections) and 0000 (distractors) are kept under their numbers, `JUNK` and
    `DISTRACTOR`: the protocol takes junk out of the gallery, and training takes people only.

    Args:
        path: One of `bounding_box_train`, `query`, `bounding_box_test`.

    Raises:
        ConfigError: the folder is missing or no image has such a name.
    """

    def to_sample(image: Path) -> Sample | None:
        match = _NAME.match(image.name)
        return Sample(image, int(match[1]), int(match[2])) if match else None

    return read_folder(path, "images named like '0002_c1s1_000451_03.jpg'", to_sample)
