from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.config import ConfigError, ToolError, suggest

_PROVIDER = "QNNExecutionProvider"
# Of onnxruntime-qnn 2.7
_OPTIONS = {
    "backend_path", "backend_type", "device_id", "disable_file_mapped_weights", "dump_json_qnn_graph",
    "dump_qnn_ep_input_graph", "dump_qnn_ep_input_graph_dir", "dump_qnn_ir_dlc", "dump_qnn_ir_dlc_dir",
    "enable_block_quant_weight_optimization", "enable_framework_op_trace", "enable_htp_fp16_clamp_overflow",
    "enable_htp_fp16_precision", "enable_htp_graph_splitting", "enable_htp_prepare_only",
    "enable_htp_shared_memory_allocator", "enable_htp_spill_fill_buffer", "enable_vtcm_backup_buffer_sharing",
    "extended_udma", "framework_op_trace_dir", "genie_log_level", "htp_arch", "htp_bf16_enable",
    "htp_graph_finalization_optimization_mode", "htp_performance_mode", "htp_share_resource_optimization",
    "json_qnn_graph_dir", "num_graph_prepare_threads", "offload_graph_io_quantization", "op_packages",
    "profiling_file_path", "profiling_level", "qnn_context_priority", "qnn_ir_backend_path", "qnn_saver_path",
    "rpc_control_latency", "skip_qnn_version_check", "soc_model", "vtcm_mb",
}  # fmt: skip


def require_qnn() -> str:
    """Check that onnxruntime-qnn is installed and return its QNN version; ConfigError when it is not."""
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        raise ConfigError(
            "The package onnxruntime-qnn (Qualcomm's HTP compiler and emulator) is not installed. It exists "
            "for Linux x86-64 with glibc 2.35 or newer: run `pip install -r requirements.txt` on such a "
            "machine, or leave the QNN steps out."
        )
    from onnxruntime_qnn.build_and_package_info import qnn_version

    return qnn_version


def open_qnn_session(
    path: Path,
    soc_model: int,
    options: Mapping[str, str] | None = None,
    session_entries: Mapping[str, str] | None = None,
) -> Any:
    """Open an ONNX graph on the HTP backend; on x86-64 the session runs in Qualcomm's emulator.

    Run it in a process of its own (the workers here do): the libraries print to stdout, drop files into the
    working folder, and a crash in them ends the process.

    Args:
        path: ONNX graph with static shapes, or the wrapper of a compiled context.
        soc_model: QNN's number of the chip. Without one, float graphs fail with a misleading error.
        options: More provider options. A name that the provider does not know is refused: it would ignore it.
        session_entries: More session configuration entries.

    Raises:
        ConfigError: The provider has no option of that name.
        Exception: Whatever ONNX Runtime raises; never a silent fallback, which is its default.
    """
    unknown = next((name for name in options or () if name not in _OPTIONS), None)
    if unknown is not None:
        raise ConfigError(f"onnxruntime-qnn: unknown option '{unknown}', {suggest(unknown, _OPTIONS)}")
    import onnxruntime
    import onnxruntime_qnn

    onnxruntime.set_default_logger_severity(3)
    if not any(device.ep_name == _PROVIDER for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(_PROVIDER, onnxruntime_qnn.get_library_path())
    # On x86-64 the device is typed CPU, so only its provider's name tells
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == _PROVIDER]
    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 2
    entries = {"session.disable_cpu_ep_fallback": "1", **(session_entries or {})}
    for key, value in entries.items():
        session_options.add_session_config_entry(key, value)
    session_options.add_provider_for_devices(
        devices,
        {
            "backend_type": "htp",
            "soc_model": str(soc_model),
            # 1, the default, would put the first Quantize and the last Dequantize on the CPU
            "offload_graph_io_quantization": "0",
            **(options or {}),
        },
    )
    return onnxruntime.InferenceSession(str(path), sess_options=session_options, enable_fallback=0)


def run_logged(
    command: Sequence[str],
    name: str,
    seconds: int,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run a command without input and return its exit code.

    Args:
        command: Program and arguments.
        name: Of the program, for messages.
        seconds: It is killed after them.
        log: Receives what it prints; replaced.
        cwd: Its working folder.
        env: Its environment.

    Raises:
        ToolError: It cannot be started or does not end; the message has its last words.
    """
    with log.open("wb") as stream:
        try:
            return subprocess.run(
                list(command),
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise ToolError(f"{name} did not end within {seconds} s. It said:\n{last_words(log)}") from None
        except OSError as error:
            raise ToolError(f"{name} cannot be started: {error}") from error


def last_words(log: Path) -> str:
    """The end of a QNN process's log without colours, warnings and the libraries' own chatter."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(errors="replace"))
    lines = [line for line in text.splitlines() if "[W:onnxruntime" not in line and "LIBNATIVE" not in line]
    return "\n".join(lines).strip()[-2000:]
