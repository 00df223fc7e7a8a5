"""Finding files that cannot be decoded before a run begins, instead of hours into it."""

import logging
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Literal

from PIL import Image
from rich.progress import track

from common.config import ConfigError
from src.data.sample import Sample

_LOGGER = logging.getLogger(__name__)
_FORMATS = ("JPEG", "PNG", "BMP")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_PNG_END = b"IEND\xaeB`\x82"
_SHOWN = 20
_WORTH_A_BAR = 2000


def check_images(samples: Sequence[Sample], on_bad_image: Literal["raise", "skip"] = "raise") -> list[Sample]:
    """Decode every file once, in parallel, and return the samples whose file is a whole image.

    A JPEG is decoded at an eighth of its size: that reads the file to its end, so a truncated one is found.

    Args:
        samples: The images.
        on_bad_image: `raise`, or `skip` to leave bad files out with a warning that counts them.

    Raises:
        ConfigError: some files are bad and `on_bad_image` is `raise`, or all are.
    """
    bar = len(samples) > _WORTH_A_BAR
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as threads:
        checked = threads.map(_reason, [sample.path for sample in samples])
        reasons = list(track(checked, "Checking images", total=len(samples), disable=not bar, transient=True))
    bad = [(sample.path, reason) for sample, reason in zip(samples, reasons, strict=True) if reason]
    if not bad:
        return list(samples)
    message = _message(bad, len(samples))
    if on_bad_image == "raise" or len(bad) == len(samples):
        raise ConfigError(f"{message}\nReplace or delete them, or set `dataset.on_bad_image: skip`")
    _LOGGER.warning("%s\nThey are skipped", message)
    return [sample for sample, reason in zip(samples, reasons, strict=True) if not reason]


def _message(bad: Sequence[tuple[Path, str]], total: int) -> str:
    lines = [f"{len(bad)} of {total} images cannot be decoded:"]
    lines += [f"  {path}: {reason}" for path, reason in bad[:_SHOWN]]
    if len(bad) > _SHOWN:
        lines.append(f"  ... and {len(bad) - _SHOWN} more")
    return "\n".join(lines)


def _reason(path: Path) -> str:
    """Return why a file is not a whole image that the input pipeline can decode, or an empty text."""
    try:
        content = path.read_bytes()
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            if image.format == "BMP" and image.mode not in ("L", "RGB", "RGBA"):
                return "a BMP with a colour palette or one bit a pixel, which TensorFlow does not decode"
            if image.format == "PNG":
                # Loading a PNG checks neither its sums nor its end, as TensorFlow does.
                image.verify()
                if _PNG_END not in content:
                    return "truncated"
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            image.draft("L", (1, 1))
            image.load()
    except Image.UnidentifiedImageError:
        return "not a JPEG, PNG or BMP file" if content else "empty file"
    except _BROKEN as error:
        return str(error) or type(error).__name__
    return ""
