"""Training: from labelled images to `best_model.keras`, an embedding model without anything training-only in it."""

import logging
from dataclasses import replace

from common.artifacts import Model
from common.run import Run
from src.data.selection import Data
from src.models._two_stems import input_shapes
from src.schema import Config
from src.training.check_training import check_training
from src.training.distribution import distribution_of
from src.training.start import start_of, start_preprocessing, with_best
from src.training.train import train, trained_model

_LOGGER = logging.getLogger(__name__)


def preflight(config: Config, data: Data, model: Model | None) -> None:
    """Check the identities for the batch, the channels of the input, and everything that is built by name.

    Raises:
        ConfigError: there are too few identities, or an argument has a value that Keras refuses.
    """
    check_training(config, data, model)


def run(config: Config, data: Data, model: Model | None, run: Run) -> Model:
    """Train and return the best embedding model."""
    start = start_of(config, data, model)
    shape = next(iter(input_shapes(start.network).values()))
    preprocessing = start_preprocessing(config, model, shape)
    folder = run.make(config.general.saved_models_dir)
    if model is not None and start.training.resume_training:
        start = replace(start, done=with_best(start.done, start.training.epochs, model.path, folder))
    saved = trained_model(config, data, start.network, preprocessing, folder)
    distribution = distribution_of(start.training.distribution)
    if distribution.is_chief:
        saved.save()  # before the file, so that a run that is cut off leaves a model that knows its preprocessing
    train(config, data, start, preprocessing, folder, run)
    if distribution.is_chief and distribution.workers > 1:
        _LOGGER.info(
            "the other workers end here; TensorFlow may report that they stopped sending heartbeats: that is expected"
        )
    return saved
