"""How a training measures its network on the validation images after each epoch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from src.data.pipeline import evaluation_batches
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.models._two_stems import MODALITIES, has_two_stems, of_modality
from src.training import validation
from src.training.batches import Batches
from src.training.step import make_validation_step

_VALIDATION_BATCH = 64


def validator_of(network: keras.Model, losses: Any, batches: Batches) -> Callable[[], dict[str, float]]:
    """Return what measures a network as it is: retrieval of people whom it is not trained on, or classification.

    Args:
        network: The training network.
        losses: What classification adds up.
        batches: The images, and how the network takes them.
    """
    data, preprocessing = batches.data, next(iter(batches.preprocessing.values()))
    if data.validation_is_retrieval:
        query, gallery = searched(data.validation, batches.by_modality)
        routes = validation.routes_of(network, preprocessing)

        def embed(samples: Sequence[Sample]) -> np.ndarray:
            return validation.embed_samples(routes, samples, _VALIDATION_BATCH)

        return lambda: validation.retrieval(embed, query, gallery)
    label_of = {
        sample.identity: int(label) for sample, label in zip(data.training, batches.labels, strict=True)
    }
    known = [sample for sample in data.validation if sample.identity in label_of]
    inputs = [
        _Part(name, part, make_validation_step(part, losses, modality=number))
        for number, (name, part) in enumerate(_parts(network, batches).items())
    ]
    return lambda: _classified(inputs, known, label_of, preprocessing)


def _parts(network: keras.Model, batches: Batches) -> dict[str, keras.Model]:
    """The network as the images of each modality see it."""
    if not batches.by_modality:
        return {"": network}
    return {name: of_modality(network, name) if has_two_stems(network) else network for name in MODALITIES}


def searched(samples: Sequence[Sample], by_modality: bool) -> tuple[list[Sample], list[Sample]]:
    """Return query and gallery of validation: thermal images search visible ones where both are trained on together."""
    thermal = [sample for sample in samples if sample.modality == "thermal"]
    visible = [sample for sample in samples if sample.modality == "visible"]
    return (
        (thermal, visible) if by_modality and thermal and visible else validation.split_query_gallery(samples)
    )


class _Part(NamedTuple):
    """A network as one of its inputs sees it."""

    modality: str
    network: keras.Model
    validate: Callable[[Any, Any], Mapping[str, Any]]


def _classified(
    parts: Sequence[_Part],
    samples: Sequence[Sample],
    label_of: Mapping[int | str, int],
    preprocessing: Preprocessing,
) -> dict[str, float]:
    """Scalars of validation steps, mean over all images."""
    sums: dict[str, float] = {}
    for modality, network, step in parts:
        own = [sample for sample in samples if modality in ("", sample.modality)]
        if not own:
            continue
        labels = np.array([label_of[sample.identity] for sample in own], dtype=np.int32)
        images = evaluation_batches(own, preprocessing.of_shape(network.input_shape[1:]), _VALIDATION_BATCH)
        for name, value in validation.classification(step, images, labels).items():
            sums[name] = sums.get(name, 0.0) + value * len(own) / len(samples)
    return sums
