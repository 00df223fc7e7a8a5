from pathlib import Path

from common.config import ConfigError
from src.data.readers._files import images_in
from src.data.readers._lists import Part, check_root, read_identities
from src.data.sample import Sample

_VISIBLE = (1, 2, 4, 5)
_INFRARED = (3, 6)
_ROOM = {2: 2, 3: 2}
"""Camera to the first one in its room: a person is there in the same clothes, before the same wall."""
_LISTS = {"training": "train", "validation": "val", "query": "test", "gallery": "test"}


def sysu_mm01(path: Path, part: Part, train_val: bool = False) -> list[Sample]:
    """Read a part of SYSU-MM01: `cam3/0002/0001.jpg` is frame 1 of person 2 seen by camera 3.

    Cameras 3 and 6 are near-infrared, which is `thermal` here; 2 and 3 are in one room. `exp/train_id.txt`,
    `exp/val_id.txt` and `exp/test_id.txt` say whose images are for what. Queries are all infrared images of the test
    identities, the gallery all their visible ones; the protocol `sysu_mm01` draws from it (Wu et al., "RGB-Infrared
    Cross-Modality Person Re-Identification", ICCV 2017).

    Args:
        path: Folder with `cam1` to `cam6` and `exp`.
        part: Training and validation are images of both modalities.
        train_val: Train on the validation identities too, as published results do: 395 people instead of 296. There
            is no validation part then.

    Raises:
        ConfigError: the folder or its lists are missing or hold something else, or no listed person has an image.
    """
    lists = [f"exp/{name}_id.txt" for name in ("train", "val", "test")]
    root = Path(path)
    check_root(root, "SYSU-MM01", *lists)
    names = [_LISTS[part]]
    if train_val and part == "validation":
        return []
    if train_val and part == "training":
        names.append("val")
    cameras = {"query": _INFRARED, "gallery": _VISIBLE}.get(part, (*_VISIBLE, *_INFRARED))
    identities = sorted(
        {identity for name in names for identity in read_identities(root / f"exp/{name}_id.txt")}
    )
    samples = [
        Sample(
            image, identity, camera, "thermal" if camera in _INFRARED else "visible", room=_ROOM.get(camera)
        )
        for camera in sorted(cameras)
        for identity in identities
        if (folder := root / f"cam{camera}" / f"{identity:04d}").is_dir()
        for image in sorted(images_in(folder))
    ]
    if not samples:
        raise ConfigError(
            f"'{root}': none of the {len(identities)} people of exp/{names[0]}_id.txt has an image; expected "
            f"cam{cameras[0]}/{(identities or [1])[0]:04d}/0001.jpg and so on"
        )
    return samples
