"""Train a network on one device and on two of the same CPU; print how far their weights are apart.

A program of its own: the number of a process's devices is fixed when TensorFlow starts.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

from common.layers.rewrite import with_synchronized_batch_norm
from src.models._head import reid_network
from src.schema import Training
from src.training.distribution import Distribution, distribution_of, take_whole_gradients
from src.training.step import losses_of, make_training_step

P, K, STEPS = 4, 3, 5
TRAINING = Training.model_validate(
    {
        "batch_size": P * K,
        "epochs": 1,
        "optimizer": "SGD",
        "images_per_identity": K,
        "losses": [
            {"name": "cross_entropy"},
            {"name": "triplet", "distance_metric": "euclidean"},
            {"name": "center_loss", "weight": 0.01},
        ],
    }
)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.02, momentum=0.9),
    "clipped": lambda: keras.optimizers.SGD(0.02, momentum=0.9, global_clipnorm=0.1),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.02), initial_scale=64.0),
}


def network() -> keras.Model:
    """Convolution, batch norm, a regularised layer and the neck."""
    keras.utils.set_random_seed(0)
    images = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, strides=2, use_bias=False)(images)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    # Without a bias: nothing depends on it before a batch norm, and Adam would enlarge the rounding of its gradient.
    x = keras.layers.Dense(8, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.01))(
        keras.layers.GlobalAveragePooling2D()(x)
    )
    return reid_network(keras.Model(images, x), P, bnneck=True, centers=True)


def batches() -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Images whose mean differs by identity, sorted by identity, as the sampler gives them."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(P), K).astype(np.int32)
    images = [
        random.normal(labels[:, None, None, None], 1, (P * K, 16, 16, 3)).astype("f") for _ in range(STEPS)
    ]
    return [(tf.constant(image), tf.constant(labels)) for image in images]


def train(distribution: Distribution, optimizer_name: str) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    """Return the scalars of every step, and the weights and the optimizer's state at the end."""
    plain = network()
    with distribution.scope():
        trained = with_synchronized_batch_norm(plain)
        optimizer = OPTIMIZERS[optimizer_name]()
        step = make_training_step(
            trained, optimizer, losses_of(TRAINING), compiled=not distribution.is_distributed
        )
    if distribution.is_distributed:
        take_whole_gradients(optimizer)
        step = distribution.over_replicas(step)
    logs = [{name: float(value) for name, value in step(*batch).items()} for batch in batches()]
    state = [keras.ops.convert_to_numpy(variable) for variable in optimizer.variables]
    return logs, [*trained.get_weights(), *state]


def main() -> None:
    """Print `{optimizer: {"scalars": ..., "weights": ..., "moved": ...}}`, greatest differences."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = distribution_of("mirrored")
    assert two.replicas == 2
    results = {}
    for name in OPTIMIZERS:
        (first_logs, first), (second_logs, second) = train(Distribution(), name), train(two, name)
        results[name] = {
            "scalars": max(
                abs(a[key] - b[key]) for a, b in zip(first_logs, second_logs, strict=True) for key in a
            ),
            "weights": max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True)),
            "moved": max(
                float(np.abs(a - b).max()) for a, b in zip(first, network().get_weights(), strict=False)
            ),
        }
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
