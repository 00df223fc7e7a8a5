from pathlib import Path

from common.config import ConfigError
from src.data.readers._files import camera_of, read_folder
from src.data.readers._lists import Part
from src.data.sample import Sample

_FOLDERS = {"training": "train", "validation": "val", "query": "query", "gallery": "gallery"}


def vt_mot(path: Path, part: Part) -> list[Sample]:
    """Read a part of what `python -m datasets.prepare_vt_mot` writes: `train/thermal/street-3x17_000120.jpg`.

    The identity is sequence and track, `street-3x17`, kept as text; the same name below `visible` and `thermal` is the
    same moment, and images of one sequence and frame are of one scene. A `_c<k>` in the name is the camera, else it is
    0: a sequence is one pair of cameras, so people are never seen by a second one.

    Args:
        path: Folder with `train`, `val` (if any), `query` and `gallery`, each with `visible` and `thermal`, or
            all with one of them.
        part: Which images.

    Raises:
        ConfigError: a folder is missing or holds other files.
    """
    root = Path(path)
    if not root.is_dir():
        raise ConfigError(
            f"dataset.root_path '{root}' is no folder; make it with `python -m datasets.prepare_vt_mot SEQUENCE... "
            f"--output {root}`"
        )
    folder = root / _FOLDERS[part]
    if part == "validation" and not folder.is_dir():
        return []

    def to_sample(image: Path) -> Sample | None:
        identity, underscore, when = image.stem.partition("_")
        if not identity or not underscore:
            return None
        modality, sequence = image.parent.name, identity.rpartition("x")[0]
        return Sample(
            image, identity, camera_of(when), modality,
            track=image.stem.rpartition("_")[0],
            moment=image.stem,
            scene=f"{modality}/{sequence}_{when}",
        )  # fmt: skip

    # A data set may have one modality alone, in all its parts; beside a folder of another name, one is missing.
    both, folders = ("visible", "thermal"), {path.name for path in root.glob("*/*") if path.is_dir()}
    modalities = [name for name in both if folders == {name}] or both
    names = "images named '<sequence>x<track>_<frame>.jpg'"
    return [sample for modality in modalities for sample in read_folder(folder / modality, names, to_sample)]
