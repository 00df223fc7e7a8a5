from __future__ import annotations

from dataclasses import dataclass

from common.config import ConfigError, suggest


@dataclass(frozen=True)
class Soc:
    """A Qualcomm chip as QNN knows it.

    Attributes:
        name: Part number, as in Qualcomm's documents.
        soc_model: QNN's number for it (``QnnTypes.h``).
        hexagon: Version of its tensor processor.
    """

    name: str
    soc_model: int
    hexagon: str


SOCS: dict[str, Soc] = {
    soc.name: soc
    for soc in (
        Soc("QCS8550", 66, "v73"),
        Soc("QCM6490", 93, "v68"),
        Soc("QCS9100", 77, "v73"),
        Soc("SA8255", 52, "v73"),
        Soc("SA8295", 39, "v68"),
        Soc("SC8380XP", 60, "v73"),
        Soc("SM8350", 30, "v68"),
        Soc("SM8450", 36, "v69"),
        Soc("SM8475", 42, "v69"),
        Soc("SM8550", 43, "v73"),
        Soc("SM8650", 57, "v75"),
        Soc("SM8750", 69, "v79"),
        Soc("SM8850", 87, "v81"),
    )
}


def soc_named(name: str) -> Soc:
    """The chip of that name, in any case; ConfigError with the nearest name or the choices when there is none."""
    soc = SOCS.get(name.upper())
    if soc is None:
        raise ConfigError(f"unknown SoC '{name}', {suggest(name, SOCS)}")
    return soc
