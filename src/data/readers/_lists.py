"""What readers share of data sets that bring their own lists of training and test images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

from common.config import ConfigError

Part = Literal["training", "validation", "query", "gallery"]
PARTS: tuple[Part, ...] = get_args(Part)


def check_root(root: Path, data_set: str, *lists: str) -> None:
    """Check that a folder is the root of a data set, by the files that say which images are of which part.

    Raises:
        ConfigError: the folder or a file is missing.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ConfigError(
            f"dataset.root_path '{root}' {what}; expected the folder of {data_set} with {', '.join(lists)} in it. "
            "`python -m src.tools.doctor --config-name NAME.yaml` says how to obtain it"
        )
    if missing := [name for name in lists if not (root / name).is_file()]:
        inside = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        found = ", ".join(inside[:8]) or "nothing"
        raise ConfigError(
            f"dataset.root_path '{root}' is not the folder of {data_set}: expected {', '.join(missing)} in it, "
            f"found {found}"
        )


def read_identities(path: Path) -> list[int]:
    """Read one line of identities separated by commas, such as `1,2,4`, sorted.

    Raises:
        ConfigError: the file holds something else.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return sorted({int(number) for number in text.replace("\n", ",").split(",") if number.strip()})
    except ValueError as error:
        raise ConfigError(
            f"{path}: expected identities separated by commas, received {text[:60]!r}"
        ) from error


def listed_images(root: Path, name: str) -> Iterator[tuple[Path, int]]:
    """Yield file and label of every line `Visible/285/male_back_v_05528_285.bmp 0` of a list.

    Raises:
        ConfigError: a line is not a path and a number.
    """
    for number, line in enumerate(
        (root / name).read_text(encoding="utf-8", errors="replace").splitlines(), 1
    ):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdecimal():
            raise ConfigError(
                f"{root / name}, line {number}: expected a path and a number, received {line!r}"
            )
        yield root / path.strip(), int(label)


def identity_of(image: Path, listed_in: Path) -> int:
    """Return the number that is the name of the image's folder.

    Raises:
        ConfigError: it is none.
    """
    if not image.parent.name.isdecimal():
        raise ConfigError(
            f"{listed_in}: expected images in a folder with the person's number, such as "
            f"{image.parents[1].name}/0285/{image.name}, received '{image}'"
        )
    return int(image.parent.name)
