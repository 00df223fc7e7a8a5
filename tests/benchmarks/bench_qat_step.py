"""What a step of quantization-aware training costs against one of the float training, network by network.

The float step is the product's: cross-entropy and triplet loss, gradients, Adam, batch norm on the fused kernel. The
step with fake quantization has a forward pass of the float network besides, which teaches. Batches of 64 at 128x64,
random and in memory. It is processor time that counts, which does not depend on what else runs. The bar is 2.5 float
steps. About eight minutes.
"""

import argparse
import sys
from statistics import median
from time import process_time

import keras
import numpy as np

from common.layers.rewrite import with_fused_batch_norm
from common.quantization.qat import fine_tune, prepare_qat
from src.losses.cross_entropy import cross_entropy
from src.losses.triplet import triplet
from src.models._head import embedding_model, reid_network
from src.registries import MODELS
from src.training.step import make_training_step

BATCH, SHAPE, IDENTITIES, BAR = 64, (128, 64, 3), 300, 2.5
NETWORKS = ("mobilenetv2_a035", "osnet_a025", "mobilenetv2_a100", "osnet_a100", "resnet50v2")
LOSSES = {
    "cross_entropy": (1.0, lambda outputs, labels: cross_entropy(outputs["logits"], labels)),
    "triplet": (1.0, lambda outputs, labels: triplet(outputs["features"], labels)),
}


def float_seconds(network: keras.Model, images: np.ndarray, steps: int) -> float:
    """Processor seconds of a training step, the median of all but the first two, which trace and warm up."""
    step = make_training_step(with_fused_batch_norm(network), keras.optimizers.Adam(1e-3), LOSSES)
    labels = np.repeat(np.arange(BATCH // 4), 4).astype("int32")
    times = [process_time()]
    for _ in range(steps + 2):
        float(step(images, labels)["loss"])
        times.append(process_time())
    return median(np.diff(times)[2:])


def qat_seconds(network: keras.Model, images: np.ndarray, steps: int) -> float:
    """The same of a step with fake quantization."""
    model = embedding_model(network)
    quantized = prepare_qat(model, lambda: [images])
    times: list[float] = []
    fine_tune(
        quantized, model, [images] * (steps + 3), steps + 3, on_step=lambda *_: times.append(process_time())
    )
    return median(np.diff(times)[2:])


def main(arguments: list[str]) -> int:
    """Print a line for each network; returns 1 where the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="of the zoo (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="of each kind (default: 6)")
    options = parser.parse_args(arguments)
    images = np.random.default_rng(0).uniform(-1, 1, (BATCH, *SHAPE)).astype("float32")
    missed = False
    print(f"{'network':18}{'float step, s':>15}{'QAT step, s':>13}{'ratio':>7}")
    for name in options.networks:
        network = reid_network(MODELS.build(name, {}, input_shape=SHAPE), IDENTITIES, bnneck=True)
        plain, quantized = (of(network, images, options.steps) for of in (float_seconds, qat_seconds))
        print(f"{name:18}{plain:15.2f}{quantized:13.2f}{quantized / plain:7.2f}", flush=True)
        missed |= quantized / plain > BAR
    print(
        f"{'no' if missed else 'yes'}: a step of quantization-aware training costs at most {BAR} float steps"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
