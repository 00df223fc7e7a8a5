"""Against stand-ins of the tools: small programs that accept the documented flags only and write plausible files."""

import json
import stat
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from common.config import ConfigError
from common.deployment import qairt_sdk
from common.deployment.device_profile import LayerTime
from common.deployment.qairt_sdk import QairtSdk, read_profile

HOST = "x86_64-linux-clang"
SERIAL = "1a2b3c"
HEADER = "Msg Timestamp,Message,Time,Unit of Measurement,Timing Source,Event Level,Event Identifier"

COMMON = """
import argparse, json, os, pathlib, sys

def arguments(flags, values):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in flags:
        parser.add_argument("--" + flag, action="store_true")
    for name, count in values.items():
        parser.add_argument("--" + name, nargs=count if count > 1 else None, required=name in REQUIRED)
    return vars(parser.parse_args())

def keep(tool, found):
    root = pathlib.Path(os.environ["STAND_IN_CALLS"])
    call = {"arguments": found, "pythonpath": os.environ.get("PYTHONPATH"),
            "libraries": os.environ.get("LD_LIBRARY_PATH")}
    (root / (tool + ".json")).write_text(json.dumps(call))

def images(path):
    lines = pathlib.Path(path).read_text().splitlines()
    pairs = [line.split(":=") for line in lines]
    assert all(pathlib.Path(file).stat().st_size == 32 * 16 * 3 * 4 for _, file in pairs), pairs
    return pairs
"""

# Flags as the SDK's documentation spells them
TOOLS = {
    "qairt-converter": """
    REQUIRED = ("input_network", "output_path")
    found = arguments([], {"input_network": 1, "output_path": 1, "source_model_input_shape": 2,
        "source_model_input_layout": 2, "desired_input_layout": 2, "target_backend": 1, "target_soc_model": 1,
        "quantization_overrides": 1})
    assert pathlib.Path(found["input_network"]).is_file()
    keep("qairt-converter", found)
    pathlib.Path(found["output_path"]).write_bytes(b"converted")
    """,
    "qairt-quantizer": """
    REQUIRED = ("input_dlc", "output_dlc", "input_list")
    found = arguments(["use_per_channel_quantization"], {"input_dlc": 1, "output_dlc": 1, "input_list": 1,
        "act_bitwidth": 1, "weights_bitwidth": 1, "bias_bitwidth": 1, "act_quantizer_calibration": 1,
        "act_quantizer_schema": 1, "param_quantizer_schema": 1, "target_backend": 1, "target_soc_model": 1})
    assert pathlib.Path(found["input_dlc"]).read_bytes() == b"converted"
    found["names"] = [name for name, _ in images(found["input_list"])]
    keep("qairt-quantizer", found)
    pathlib.Path(found["output_dlc"]).write_bytes(b"quantized")
    """,
    "qnn-context-binary-generator": """
    REQUIRED = ("dlc_path", "model", "backend", "binary_file", "output_dir", "config_file")
    found = arguments([], {name: 1 for name in REQUIRED})
    config = json.loads(pathlib.Path(found["config_file"]).read_text())["backend_extensions"]
    for library in (found["model"], found["backend"], config["shared_library_path"]):
        assert pathlib.Path(library).is_file()
    found["htp"] = json.loads(pathlib.Path(config["config_file_path"]).read_text())
    keep("qnn-context-binary-generator", found)
    (pathlib.Path(found["output_dir"]) / (found["binary_file"] + ".bin")).write_bytes(b"context")
    """,
    "qnn-profile-viewer": """
    REQUIRED = ("input_log", "output")
    found = arguments([], {"input_log": 1, "output": 1})
    pathlib.Path(found["output"]).write_bytes(pathlib.Path(found["input_log"]).read_bytes())
    """,
}

# Runs on the "device"; embeds an image as its mean in each of 16 places
NET_RUN = f"""
REQUIRED = ("backend", "retrieve_context", "input_list", "output_dir")
found = arguments([], {{"backend": 1, "retrieve_context": 1, "input_list": 1, "output_dir": 1,
    "profiling_level": 1, "perf_profile": 1}})
here = pathlib.Path.cwd()
assert pathlib.Path(found["retrieve_context"]).read_bytes() == b"context"
assert pathlib.Path(found["backend"]).is_file()
assert pathlib.Path("libQnnHtpV73Skel.so").is_file() and pathlib.Path("libQnnHtpV73Stub.so").is_file()
assert str(here) == os.environ["LD_LIBRARY_PATH"] == os.environ["ADSP_LIBRARY_PATH"]
keep("qnn-net-run-" + found["profiling_level"], found)
import array
out = pathlib.Path(found["output_dir"]); out.mkdir()
rows = ["{HEADER}", "0,EXECUTE,4,COUNT,BACKEND,ROOT,Number of HVX threads used"]
for index, (name, file) in enumerate(images(found["input_list"])):
    assert name == "images"
    values = array.array("f", pathlib.Path(file).read_bytes())
    (out / f"Result_{{index}}").mkdir()
    result = array.array("f", [sum(values) / len(values)] * 16)
    (out / f"Result_{{index}}" / "embedding.raw").write_bytes(result.tobytes())
    rows.append(f"0,EXECUTE,{{900 + index}},US,BACKEND,ROOT,QNN (execute) time")
if found["profiling_level"] == "detailed":
    rows.append("0,NODE,1234,CYCLES,BACKEND,SUB-EVENT,stem:OpId_7 (cycles)")
(out / "qnn-profiling-data_0.log").write_text("\\n".join(rows) + "\\n")
"""

# A device in a folder: `/data/local/tmp` becomes a folder, and its shell the host's
ADB = """
import pathlib, shutil, subprocess, sys
folder = pathlib.Path(__file__).parent / "device"
folder.mkdir(exist_ok=True)
words = sys.argv[1:]
def local(path):
    return path.replace("/data/local/tmp", str(folder))
if words == ["devices"]:
    print("* daemon started successfully")
    print("List of devices attached")
    print((pathlib.Path(__file__).parent / "devices.txt").read_text())
    sys.exit()
flag, serial, command, *rest = words
assert (flag, serial) == ("-s", SERIAL), words
if command == "push":
    *files, target = rest
    for file in files:
        text = pathlib.Path(file).read_bytes()
        if file.endswith(".txt"):
            text = local(text.decode()).encode()
        (pathlib.Path(local(target)) / pathlib.Path(file).name).write_bytes(text)
elif command == "pull":
    shutil.copytree(local(rest[0]), rest[1])
elif rest == ["uname -o"]:
    print("Android")
elif rest[0].startswith("getprop"):
    print("QCS8550")
else:
    sys.exit(subprocess.run(["sh", "-c", local(rest[0])]).returncode)
"""


def program(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A complete SDK of stand-ins, with spaces in its name; QAIRT_SDK_ROOT points to it."""
    sdk = tmp_path / "qairt 2.51"
    for tool, body in TOOLS.items():
        program(sdk / "bin" / HOST / tool, COMMON + textwrap.dedent(body))
    program(sdk / "bin" / "aarch64-android" / "qnn-net-run", COMMON + NET_RUN)
    libraries = {
        HOST: ("libQnnHtp.so", "libQnnModelDlc.so", "libQnnHtpNetRunExtensions.so"),
        "aarch64-android": ("libQnnHtp.so", "libQnnSystem.so", "libQnnHtpV73Stub.so"),
        "hexagon-v73/unsigned": ("libQnnHtpV73Skel.so",),
    }
    for folder, names in libraries.items():
        for name in names:
            path = sdk / "lib" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"elf")
    (tmp_path / "calls").mkdir()
    monkeypatch.setenv("QAIRT_SDK_ROOT", str(sdk))
    monkeypatch.setenv("STAND_IN_CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return sdk


@pytest.fixture
def adb(tmp_path, monkeypatch):
    """A stand-in of adb, first on the PATH, with one device; returns the file that lists the devices."""
    program(tmp_path / "adb_bin" / "adb", f"SERIAL = {SERIAL!r}\n{ADB}")
    devices = tmp_path / "adb_bin" / "devices.txt"
    devices.write_text(f"{SERIAL}\tdevice\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'adb_bin'}:/usr/bin:/bin")
    return devices


@pytest.fixture
def calls(tmp_path):
    return lambda tool: json.loads((tmp_path / "calls" / f"{tool}.json").read_text())


# --------------------------------------------------------------------------------------------------------------
# What is missing


def test_the_root_must_be_set(monkeypatch):
    monkeypatch.delenv("QAIRT_SDK_ROOT", raising=False)
    with pytest.raises(ConfigError, match="QAIRT_SDK_ROOT is not set"):
        QairtSdk()


def test_everything_that_the_sdk_lacks_is_named(root):
    (root / "bin" / HOST / "qairt-converter").unlink()
    (root / "lib" / HOST / "libQnnModelDlc.so").unlink()
    with pytest.raises(ConfigError) as error:
        QairtSdk()
    assert "bin/x86_64-linux-clang/qairt-converter, lib/x86_64-linux-clang/libQnnModelDlc.so" in str(
        error.value
    )
    assert "qairt-quantizer" not in str(error.value)


def test_an_unknown_chip_is_refused(root):
    with pytest.raises(ConfigError, match="QCS8550"):
        QairtSdk("QCS8555")


def test_adb_and_the_device_are_asked_for(root, adb, monkeypatch):
    sdk = QairtSdk()
    assert sdk.require_device() == SERIAL
    adb.write_text("")
    with pytest.raises(ConfigError, match="expected one device .*; found none"):
        sdk.require_device()
    adb.write_text(f"{SERIAL}\tunauthorized\n")
    with pytest.raises(ConfigError, match=r"ready and authorized; found 1a2b3c \(unauthorized\)"):
        sdk.require_device()
    adb.write_text(f"{SERIAL}\tunauthorized\nemulator-5554\toffline\n")
    with pytest.raises(ConfigError, match=r"found 1a2b3c \(unauthorized\), emulator-5554 \(offline\)"):
        sdk.require_device()
    adb.write_text(f"{SERIAL}\tdevice\nother\tdevice\n")
    with pytest.raises(ConfigError, match="to choose"):
        sdk.require_device()
    with pytest.raises(ConfigError, match="expected the device third"):
        sdk.require_device("third")
    assert sdk.require_device(SERIAL) == SERIAL
    monkeypatch.setenv("ANDROID_SERIAL", SERIAL)
    assert sdk.require_device() == SERIAL
    monkeypatch.setenv("PATH", str(root))
    with pytest.raises(ConfigError, match="adb is not on the PATH"):
        sdk.require_device()


def test_the_libraries_for_the_device_are_asked_for(root, adb):
    (root / "lib" / "hexagon-v73" / "unsigned" / "libQnnHtpV73Skel.so").unlink()
    with pytest.raises(ConfigError, match="lacks lib/hexagon-v73/unsigned/libQnnHtpV73Skel.so"):
        QairtSdk().require_device()


def test_a_converter_that_does_not_start_is_quoted_before_the_run(root, adb):
    program(root / "bin" / HOST / "qairt-converter", "import package_that_is_missing")
    with pytest.raises(ConfigError, match="(?s)check-python-dependency.*No module named 'package_that_is"):
        QairtSdk().require_device()


# --------------------------------------------------------------------------------------------------------------
# On the host


def test_convert_states_shape_layout_and_target(root, qdq_onnx, tmp_path, calls, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/own")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    encodings = tmp_path / "encodings.json"
    encodings.write_text("{}")
    target = tmp_path / "out" / "net.dlc"
    assert QairtSdk().convert(qdq_onnx, target, Path("encodings.json")) == target
    assert target.read_bytes() == b"converted"
    assert list(target.parent.iterdir()) == [target]
    call = calls("qairt-converter")
    assert call["arguments"]["source_model_input_shape"] == ["images", "1,3,32,16"]
    assert call["arguments"]["source_model_input_layout"] == ["images", "NCHW"]
    assert call["arguments"]["desired_input_layout"] == ["images", "NHWC"]
    assert call["arguments"]["target_backend"] == "HTP"
    assert call["arguments"]["target_soc_model"] == "QCS8550"
    assert call["arguments"]["quantization_overrides"] == str(encodings)
    assert call["arguments"]["output_path"].endswith("/net.dlc")  # the graph is named after it
    assert call["pythonpath"] == f"{root / 'lib' / 'python'}:/own"
    assert call["libraries"] == str(root / "lib" / HOST)


def test_convert_names_the_layout_of_nhwc_images(root, onnx_builder, tmp_path, calls):
    from onnx import helper

    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["embedding"]),
    ]
    weights = [("w", np.ones((4, 3, 1, 1)))]
    graph = onnx_builder(tmp_path / "nhwc.onnx", nodes, weights, image=(32, 16, 3), dim=4)
    QairtSdk().convert(graph, tmp_path / "n.dlc")
    found = calls("qairt-converter")["arguments"]
    assert found["source_model_input_shape"] == ["images", "1,32,16,3"]
    assert found["source_model_input_layout"] == ["images", "NHWC"]
    assert found["quantization_overrides"] is None


def test_a_batch_is_refused(root, batch_of_four_onnx, free_batch_onnx, tmp_path):
    with pytest.raises(ConfigError, match="expected batch 1, found a free one"):
        QairtSdk().convert(free_batch_onnx, tmp_path / "n.dlc")
    with pytest.raises(ConfigError, match="expected batch 1, found 4"):
        QairtSdk().convert(batch_of_four_onnx, tmp_path / "n.dlc")


def test_quantize_gives_raw_images_and_all_widths(root, images, tmp_path, calls):
    source = tmp_path / "float.dlc"
    source.write_bytes(b"converted")
    target = QairtSdk().quantize(source, tmp_path / "int8.dlc", "images", images)
    assert target.read_bytes() == b"quantized"
    found = calls("qairt-quantizer")["arguments"]
    assert found["names"] == ["images"] * len(images)
    widths = [found[f"{kind}_bitwidth"] for kind in ("act", "weights", "bias")]
    assert widths == ["8", "8", "32"]
    assert found["use_per_channel_quantization"] is True
    assert found["param_quantizer_schema"] == "symmetric"
    with pytest.raises(ValueError, match="Expected float32 images"):
        QairtSdk().quantize(source, tmp_path / "x.dlc", "images", images[:0])


def test_raw_files_hold_the_images_as_they_are(images, tmp_path):
    listed = qairt_sdk._write_images(tmp_path, "images", images[:2]).read_text().splitlines()
    for line, image in zip(listed, images[:2], strict=True):
        name, path = line.split(":=")
        assert name == "images"
        assert np.array_equal(np.fromfile(path, np.float32).reshape(image.shape), image)


def test_compile_configures_the_chip(root, tmp_path, calls):
    source = tmp_path / "int8.dlc"
    source.write_bytes(b"quantized")
    target = QairtSdk().compile(source, tmp_path / "net.bin", graph_name="net")
    assert target.read_bytes() == b"context"
    assert calls("qnn-context-binary-generator")["arguments"]["htp"] == {
        "graphs": [{"graph_names": ["net"], "vtcm_mb": 8, "O": 3}],
        "devices": [
            {
                "soc_id": 66,
                "dsp_arch": "v73",
                "pd_session": "unsigned",
                "cores": [{"core_id": 0, "perf_profile": "burst", "rpc_control_latency": 100}],
            }
        ],
    }
    QairtSdk("SM8650", performance_mode="balanced").compile(
        source, tmp_path / "net.bin", vtcm_mb=4, graph_optimization=1
    )
    htp = calls("qnn-context-binary-generator")["arguments"]["htp"]
    assert htp["graphs"] == [{"graph_names": ["int8"], "vtcm_mb": 4, "O": 1}]
    assert htp["devices"][0]["soc_id"] == 57
    assert htp["devices"][0]["cores"][0]["perf_profile"] == "balanced"
    QairtSdk("QCM6490").compile(source, tmp_path / "net.bin")  # Hexagon v68 has another size
    assert calls("qnn-context-binary-generator")["arguments"]["htp"]["graphs"] == [
        {"graph_names": ["int8"], "O": 3}
    ]
    with pytest.raises(ConfigError, match="ends with .bin"):
        QairtSdk().compile(source, tmp_path / "net.so")


def test_a_failing_tool_is_quoted_and_leaves_nothing(root, qdq_onnx, tmp_path):
    program(root / "bin" / HOST / "qairt-converter", "import sys\nprint('op Erf not supported')\nsys.exit(3)")
    with pytest.raises(RuntimeError, match="qairt-converter ended with code 3.*\nop Erf not supported"):
        QairtSdk().convert(qdq_onnx, tmp_path / "out" / "net.dlc")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tool_that_hangs_writes_nothing_or_cannot_start(root, qdq_onnx, tmp_path, monkeypatch):
    tool = root / "bin" / HOST / "qairt-converter"
    program(tool, "import time\nprint('loading', flush=True)\ntime.sleep(60)")
    monkeypatch.setattr(qairt_sdk, "_TOOL_SECONDS", 1)
    with pytest.raises(RuntimeError, match="did not end within 1 s.*\nloading"):
        QairtSdk().convert(qdq_onnx, tmp_path / "net.dlc")
    monkeypatch.setattr(qairt_sdk, "_TOOL_SECONDS", 60)
    program(tool, "")
    with pytest.raises(RuntimeError, match="reported success but wrote no net.dlc"):
        QairtSdk().convert(qdq_onnx, tmp_path / "net.dlc")
    tool.chmod(0o600)
    with pytest.raises(RuntimeError, match="qairt-converter cannot be started"):
        QairtSdk().convert(qdq_onnx, tmp_path / "net.dlc")


# --------------------------------------------------------------------------------------------------------------
# On the device


@pytest.fixture
def context(tmp_path):
    path = tmp_path / "net.bin"
    path.write_bytes(b"context")
    return path


def test_run_brings_back_embeddings_times_and_layers(root, adb, context, qdq_onnx, images, calls):
    embeddings, profile = QairtSdk().run(context, qdq_onnx, images[:3])
    assert embeddings.dtype == np.float32
    means = images[:3].reshape(3, -1).mean(axis=1, dtype=np.float64)
    assert embeddings == pytest.approx(np.repeat(means[:, None], 16, axis=1), abs=1e-6)
    assert profile.device == f"QCS8550 ({SERIAL})"
    assert profile.inference_ms == pytest.approx((0.900, 0.901, 0.902))
    assert profile.layers == (LayerTime("stem", "", "NPU", None, 1234),)
    assert profile.peak_memory_bytes is None
    timed = calls("qnn-net-run-basic")["arguments"]
    assert (timed["input_list"], timed["perf_profile"]) == ("inputs.txt", "burst")
    assert calls("qnn-net-run-detailed")["arguments"]["input_list"] == "first.txt"
    assert list((adb.parent / "device").iterdir()) == []


def test_a_second_run_knows_nothing_of_the_first(root, adb, context, qdq_onnx, images, calls):
    """Profiles are appended to, so each has a folder of its own."""
    QairtSdk().run(context, qdq_onnx, images[:3])
    _, profile = QairtSdk(performance_mode="balanced").run(context, qdq_onnx, images[:2])
    assert profile.inference_ms == pytest.approx((0.900, 0.901))
    assert len(profile.layers) == 1
    assert calls("qnn-net-run-basic")["arguments"]["perf_profile"] == "balanced"


def test_the_device_is_cleaned_after_a_failure(root, adb, context, qdq_onnx, images):
    program(root / "bin" / "aarch64-android" / "qnn-net-run", "raise SystemExit('cannot open fastrpc')")
    with pytest.raises(RuntimeError, match="adb shell ended with code 1.*\ncannot open fastrpc"):
        QairtSdk().run(context, qdq_onnx, images[:1])
    assert list((adb.parent / "device").iterdir()) == []


def test_results_of_another_length_are_refused(root, adb, context, qdq_onnx, images):
    path = root / "bin" / "aarch64-android" / "qnn-net-run"
    program(path, (COMMON + NET_RUN).replace("] * 16", "] * 8"))
    with pytest.raises(
        RuntimeError, match=r"expected 16 float32 values of 'embedding'.*\('embedding.raw', 8\)"
    ):
        QairtSdk().run(context, qdq_onnx, images[:1])


def test_a_profile_of_the_emulator_is_refused():
    text = f"{HEADER}\n0,EXECUTE,0,COUNT,BACKEND,ROOT,Number of HVX threads used\n"
    with pytest.raises(RuntimeError, match="from the emulator"):
        read_profile(text)


def test_a_profile_without_times_is_refused():
    with pytest.raises(RuntimeError, match="holds no 'QNN"):
        read_profile(f"{HEADER}\n0,EXECUTE,123,CYCLES,BACKEND,ROOT,Accelerator (execute) time (cycles)\n")
