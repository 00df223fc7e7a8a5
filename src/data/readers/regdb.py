from pathlib import Path

from src.data.readers._lists import Part, check_root, identity_of, listed_images
from src.data.sample import Sample

_CAMERAS = {"visible": 1, "thermal": 2}
_CONTENT = {
    "training": ("visible", "thermal"),
    "query": ("visible",),
    "gallery": ("thermal",),
    "validation": (),
}


def regdb(path: Path, part: Part, trial: int = 1) -> list[Sample]:
    """Read a part of RegDB: `Visible/285/male_back_v_05528_285.bmp` is a visible image of person 285.

    A trial divides the 412 people in halves by `idx/train_visible_1.txt` and its three relatives; results are the mean
    of ten trials with a model each. A model that was trained in one trial knows the test people of another. Queries are
    the visible images, the gallery is the thermal ones, and the protocol `regdb` searches in either direction. RegDB
    has no validation part (Nguyen et al., "Person Recognition System Based on a Combination of Body Images from Visible
    Light and Thermal Cameras", Sensors 2017).

    Args:
        path: Folder with `Visible`, `Thermal` and `idx`.
        part: Which images.
        trial: 1 to 10.

    Raises:
        ConfigError: the folder or the lists of the trial are missing or hold something else.
    """
    root = Path(path)
    lists = [f"idx/{half}_{side}_{trial}.txt" for half in ("train", "test") for side in _CAMERAS]
    check_root(root, "RegDB", *lists)
    half = "train" if part == "training" else "test"
    samples = []
    for modality in _CONTENT[part]:
        name = f"idx/{half}_{modality}_{trial}.txt"
        for image, _ in listed_images(root, name):
            samples.append(Sample(image, identity_of(image, root / name), _CAMERAS[modality], modality))
    return samples
