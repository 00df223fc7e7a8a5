import re
from pathlib import Path

from common.config import ConfigError
from src.data.readers._files import camera_of, images_in
from src.data.readers._lists import Part, check_root, identity_of, listed_images, read_identities
from src.data.sample import Sample

_LISTS = ("idx/train_vis.txt", "idx/train_nir.txt", "idx/test_id.txt")
_MODALITIES = {"vis": "visible", "nir": "thermal"}
_FOLDER = re.compile(r"cam(\d+)")


def llcm(path: Path, part: Part) -> list[Sample]:
    """Read a part of LLCM: `test_nir/cam6/0351/0351_c06_s200656_f4830_nir.jpg` is person 351 seen by camera 6.

    Near-infrared is `thermal` here; both modalities of a camera have one number. Training images are listed in
    `idx/train_vis.txt` and `idx/train_nir.txt`, test people in `idx/test_id.txt`. Queries are the infrared images, the
    gallery is the visible ones, and the protocol `llcm` searches in either direction. LLCM has no validation part
    (Zhang and Wang, "Diverse Embedding Expansion Network and Low-Light Cross-Modality Benchmark", CVPR 2023).

    Args:
        path: Folder with `idx`, `test_vis`, `test_nir` and what the lists name.
        part: Which images.

    Raises:
        ConfigError: the folder or its lists are missing or hold something else, or no listed person has an image.
    """
    root = Path(path)
    check_root(root, "LLCM", *_LISTS)
    if part == "validation":
        return []
    if part == "training":
        return [
            Sample(image, identity_of(image, root / name), _camera(image), modality)
            for name, modality in zip(_LISTS[:2], _MODALITIES.values(), strict=True)
            for image, _ in listed_images(root, name)
        ]
    side = "nir" if part == "query" else "vis"
    identities = read_identities(root / _LISTS[2])
    samples = [
        Sample(image, identity, int(match[1]), _MODALITIES[side])
        for camera in sorted((root / f"test_{side}").glob("cam*"))
        if (match := _FOLDER.fullmatch(camera.name))
        for identity in identities
        if (folder := camera / f"{identity:04d}").is_dir()
        for image in sorted(images_in(folder))
    ]
    if not samples:
        raise ConfigError(
            f"'{root}': none of the {len(identities)} people of {_LISTS[2]} has an image in test_{side}; expected "
            f"test_{side}/cam1/{(identities or [1])[0]:04d}/*.jpg"
        )
    return samples


def _camera(image: Path) -> int:
    """The camera of a training image: from its name, else from a folder above it."""
    folder = next((match for part in image.parts if (match := _FOLDER.fullmatch(part))), None)
    return camera_of(image.stem) or (int(folder[1]) if folder else 0)
