import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

Draws = Mapping[tuple[int, int], np.ndarray]


def sysu_mm01_draws(path: Path) -> Draws:
    """Read the official gallery draws of SYSU-MM01, `exp/rand_perm_cam.mat`.

    Returns:
        (identity, camera) -> frame numbers from 1, in drawn order, integers (10 trials, images of that identity and
        camera). Pairs without an image are absent.

    Raises:
        ValueError: the file cannot be read or holds something else.
    """
    try:
        cameras = scipy.io.loadmat(path)["rand_perm_cam"]
        draws = {
            (identity, camera): np.asarray(frames, dtype=np.int64)
            for camera, cell in enumerate(cameras.ravel(), start=1)
            for identity, frames in enumerate(cell.ravel(), start=1)
            if frames.size
        }
    except (
        OSError,
        KeyError,
        AttributeError,
        TypeError,
        ValueError,
        NotImplementedError,
        MatReadError,
        zlib.error,
    ) as error:
        raise ValueError(
            f"{path} is not the rand_perm_cam.mat of SYSU-MM01 ({type(error).__name__}: {error}); it is in the folder "
            "exp of the data set"
        ) from error
    if any(frames.ndim != 2 or len(frames) != 10 for frames in draws.values()):
        raise ValueError(f"{path}: expected 10 draws of each identity and camera")
    return draws
