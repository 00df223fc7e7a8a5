"""Images per second of one model in every runtime, from array to embedding, through the product's `embed`.

mobilenetv1_a025 at 256x128 with random weights. Each ratio compares two arms of the same run, which take turns: our
Keras function against `Model.predict`, TFLite in batches against single images, the emulator with a worker per core
against one worker. The best round of each arm counts, for other work on the machine only slows. The emulator's
speed is host time for emulation and no latency. About one minute on 2 cores.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx

from common.quantization.onnx_export import export_onnx
from common.quantization.onnx_ptq import quantize_onnx
from common.quantization.qat import prepare_qat
from common.quantization.tflite import convert_qat
from common.runtime import open_model
from common.runtime.htp_emulator import HtpEmulator
from src.models.mobilenetv1 import mobilenetv1_a025

SHAPE, IMAGES, EMULATED, ROUNDS = (256, 128, 3), 256, 16, 5
CORES = len(os.sched_getaffinity(0))
BASELINES = {
    "keras": "Model.predict",
    "tflite int8": "tflite int8, one by one",
    f"emulator, {CORES} workers": "emulator, 1 worker",
}


def export(folder: Path, images: np.ndarray) -> dict[str, Path]:
    """Write the model in every format."""
    network = mobilenetv1_a025(SHAPE)
    names = ("model.keras", "int8.tflite", "float.onnx", "int8.onnx")
    keras_path, tflite_path, float_path, int8_path = (folder / name for name in names)
    network.save(keras_path)
    float_model = export_onnx(network)
    onnx.save(float_model, float_path)
    onnx.save(quantize_onnx(float_model, lambda: [images[:8]]), int8_path)
    tflite_path.write_bytes(convert_qat(prepare_qat(network, lambda: [images[:8]])))
    return {"keras": keras_path, "tflite": tflite_path, "float": float_path, "int8": int8_path}


def speed(embed: Callable[[np.ndarray], object], images: np.ndarray) -> float:
    """Return images per second of one pass."""
    start = perf_counter()
    embed(images)
    return len(images) / (perf_counter() - start)


def main() -> None:
    """Print images per second of every arm; the ratios inform, there is no bar."""
    import keras

    images = np.random.default_rng(0).uniform(-1, 1, (IMAGES, *SHAPE)).astype(np.float32)
    few = images[:EMULATED]
    print(f"mobilenetv1_a025 at {SHAPE[0]}x{SHAPE[1]}, {CORES} cores; exporting", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = export(Path(folder), images)
        predict = keras.saving.load_model(paths["keras"], compile=False)
        with (
            open_model(paths["keras"]) as keras_model,
            open_model(paths["tflite"]) as tflite,
            open_model(paths["float"]) as onnx_float,
            open_model(paths["int8"]) as onnx_int8,
            HtpEmulator(paths["int8"], threads=1) as one,
            HtpEmulator(paths["int8"], threads=CORES) as many,
        ):
            arms: dict[str, tuple[Callable[[np.ndarray], object], np.ndarray]] = {
                "Model.predict": (lambda x: predict.predict(x, batch_size=64, verbose=0), images),
                "keras": (keras_model.embed, images),
                "tflite int8, one by one": (lambda x: [tflite.embed(image[None]) for image in x], images),
                "tflite int8": (tflite.embed, images),
                "onnxruntime float": (onnx_float.embed, images),
                "onnxruntime int8 (QDQ)": (onnx_int8.embed, images),
                "emulator, 1 worker": (one.embed, few),
                f"emulator, {CORES} workers": (many.embed, few),
            }
            speeds: dict[str, list[float]] = {name: [] for name in arms}
            for turn in range(ROUNDS + 1):
                print(f"round {turn} of {ROUNDS}{' (warm-up)' * (turn == 0)}", flush=True)
                for name, (embed, inputs) in arms.items():
                    speeds[name].append(speed(embed, inputs))
            print(f"TFLite takes batches of {tflite.batch_size}")
    rates = {name: max(found[1:]) for name, found in speeds.items()}
    print(f"{'arm':<28}{'images/s':>10}{'of its baseline':>18}")
    for name, rate in rates.items():
        ratio = f"{rate / rates[BASELINES[name]]:.2f}" if name in BASELINES else ""
        print(f"{name:<28}{rate:>10.1f}{ratio:>18}", flush=True)


if __name__ == "__main__":
    main()
