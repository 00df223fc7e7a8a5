"""The inputs of a network: one, or one for each modality."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from common.config import ConfigError
from common.quantization.branches import branches
from common.run import progress
from src.data.pipeline import evaluation_batches, load_images
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.training import validation
from src.training.validation import Embedding

__all__ = ["Branch", "Embedding", "branches_of", "calibration_of", "embed_samples", "networks_of"]

BATCH = 32


@dataclass(frozen=True)
class Branch:
    """One input of a network, with the images that belong to it.

    Attributes:
        name: Modality, or empty where the network has one input.
        network: Images (N, H, W, C) to embeddings (N, D).
        preprocessing: From file to rescaled image.
        calibration: Images to measure ranges on.
    """

    name: str
    network: keras.Model
    preprocessing: Preprocessing
    calibration: Sequence[Sample]

    @property
    def suffix(self) -> str:
        """What its files have in their names."""
        return f"_{self.name}" if self.name else ""

    def takes(self, sample: Sample) -> bool:
        """Whether an image belongs to this input."""
        return self.name in ("", sample.modality)

    def calibrate(self) -> Iterator[np.ndarray]:
        """Calibration images in batches, rescaled."""
        return evaluation_batches(self.calibration, self.preprocessing, BATCH).as_numpy_iterator()

    def spread_images(self, count: int) -> np.ndarray:
        """At most `count` calibration images at equal distances, rescaled (n, H, W, C)."""
        chosen = np.unique(np.linspace(0, len(self.calibration) - 1, count).astype(int))
        return load_images([self.calibration[i] for i in chosen], self.preprocessing)


def branches_of(
    network: keras.Model, preprocessing: Preprocessing, calibration: Sequence[Sample]
) -> list[Branch]:
    """Divide a network and its calibration images by input, in the order of the names.

    Raises:
        ConfigError: the inputs are no modalities of the data set, or an input has no calibration image.
    """
    networks = networks_of(network)
    images = calibration_of(networks, calibration)
    if list(networks) == [""]:
        return [Branch("", network, preprocessing, calibration)]
    return [
        Branch(name, part, preprocessing.of_shape(part.input_shape[1:]), images[name])
        for name, part in networks.items()
    ]


def networks_of(network: keras.Model) -> dict[str, keras.Model]:
    """A network for each input, by its name, which is empty where there is one.

    Raises:
        ConfigError: the inputs are no modalities.
    """
    try:
        return branches(network)
    except ValueError as error:
        raise ConfigError(f"model.model_path: {error}") from error


def calibration_of(names: Iterable[str], calibration: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The calibration images of each input.

    Raises:
        ConfigError: an input has none.
    """
    found = {name: [sample for sample in calibration if name in ("", sample.modality)] for name in names}
    for name in (name for name, images in found.items() if not images):
        known = sorted({sample.modality for sample in calibration})
        raise ConfigError(
            f"the network has an input '{name}', but the calibration images are {' and '.join(known)} only: "
            "dataset.quantization_path (or training_path) needs images of every modality"
        )
    return found


def embed_samples(
    branches: Sequence[Branch],
    functions: Mapping[str, Embedding],
    samples: Sequence[Sample],
    description: str,
) -> np.ndarray:
    """Embed every sample with the function of its branch, in order.

    Args:
        branches: Inputs of the network.
        functions: Branch name to embedding.
        samples: N samples; each belongs to a branch.
        description: Shown beside the progress bar.

    Returns:
        (N, D) float32, not normalised.
    """
    routes = {b.name: validation.Route(functions[b.name], b.preprocessing) for b in branches}
    with progress(description, len(samples), "images") as advance:
        return validation.embed_samples(routes, samples, BATCH, advance)
