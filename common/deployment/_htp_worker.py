"""Compiler process: ``python -m common.deployment._htp_worker REQUEST.json``.

Compiles one graph in the working folder and writes ``result.json`` beside what the provider drops there.
Context and DLC are two steps because a session that writes a DLC has no context to give. A graph that the HTP
takes only in part ends in an error, and still leaves the trace and the graphs of the parts that were taken.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

TRACE = {"enable_framework_op_trace": "1", "framework_op_trace_dir": "trace"}
GRAPH = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": "graph"}
DLC = {"dump_qnn_ir_dlc": "1", "dump_qnn_ir_dlc_dir": "dlc"}


def main() -> None:
    """Run the requested step."""
    from common.runtime.qnn_session import open_qnn_session

    request: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    for folder in ("trace", "graph", "dlc"):
        Path(folder).mkdir(exist_ok=True)
    steps: dict[str, dict[str, Any]] = {
        "context": {
            "options": TRACE | GRAPH,
            "session_entries": {"ep.context_enable": "1", "ep.context_file_path": request["context_name"]},
        },
        "dlc": {"options": DLC},
    }
    arguments = steps[request["step"]]
    arguments["options"] = arguments["options"] | request["options"]
    start = time.perf_counter()
    try:
        open_qnn_session(Path(request["onnx_path"]), request["soc_model"], **arguments)
        error = None
    except Exception as reason:  # noqa: BLE001 - reported to the parent, which judges it
        error = str(reason)
    result = {"error": error, "seconds": time.perf_counter() - start}
    Path("result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
