"""Emulator process: reads images from stdin and writes embeddings to stdout.

``python -m common.runtime._htp_worker GRAPH SOC_MODEL``. A message is its length in eight bytes, then an .npy
array; the first message out is the error text of loading, empty when all is well.
"""

from __future__ import annotations

import io
import os
import struct
import sys
from pathlib import Path
from typing import IO

import numpy as np


def write_message(stream: IO[bytes], payload: bytes) -> None:
    """Send one message."""
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def read_message(stream: IO[bytes]) -> bytes | None:
    """Receive one message; None when the other side is gone."""
    header = stream.read(8)
    if len(header) < 8:
        return None
    (size,) = struct.unpack("<Q", header)
    payload = stream.read(size)
    return payload if len(payload) == size else None


def to_bytes(array: np.ndarray) -> bytes:
    """An array as .npy bytes."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def from_bytes(payload: bytes) -> np.ndarray:
    """The array of .npy bytes."""
    return np.load(io.BytesIO(payload), allow_pickle=False)


def main() -> None:
    """Serve until stdin closes."""
    # The QNN libraries print to stdout: keep the pipe for our messages and send theirs to the log
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from common.runtime.qnn_session import open_qnn_session

    try:
        session = open_qnn_session(Path(sys.argv[1]), int(sys.argv[2]))
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises
        write_message(replies, f"{type(error).__name__}: {error}".encode())
        return
    write_message(replies, b"")
    name = session.get_inputs()[0].name
    while (payload := read_message(sys.stdin.buffer)) is not None:
        write_message(replies, to_bytes(session.run(None, {name: from_bytes(payload)})[0]))


if __name__ == "__main__":
    main()
