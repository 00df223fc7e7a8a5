"""What is published of data sets: how to obtain them, on which terms, and how many images they hold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from src.data.sample import Sample

Parts = Mapping[str, Sequence[Sample]]


@dataclass(frozen=True)
class Count:
    """One published number.

    Attributes:
        what: What is counted.
        published: The number.
        counted: Counts it in the parts `training`, `validation`, `query` and `gallery`.
    """

    what: str
    published: int
    counted: Callable[[Parts], int]


@dataclass(frozen=True)
class KnownDataSet:
    """A public data set.

    Attributes:
        title: Its name.
        obtain: Where it is and on which terms.
        counts: What must be there.
        remark: What to know of the counts.
    """

    title: str
    obtain: str
    counts: tuple[Count, ...] = ()
    remark: str = ""


def _trained(parts: Parts) -> list[Sample]:
    return [*parts["training"], *parts["validation"]]


def _tested(parts: Parts) -> list[Sample]:
    return [*parts["query"], *parts["gallery"]]


def _people(samples: Sequence[Sample]) -> int:
    return len({sample.identity for sample in samples})


def _of(samples: Sequence[Sample], modality: str) -> int:
    return sum(sample.modality == modality for sample in samples)


def _drawn(samples: Sequence[Sample], cameras: tuple[int, ...]) -> int:
    """Size of a gallery of one image of each person and camera."""
    return len({(sample.identity, sample.camera) for sample in samples if sample.camera in cameras})


_SYSU = (
    Count("people to train on and validate", 395, lambda parts: _people(_trained(parts))),
    Count("visible images of them", 22_258, lambda parts: _of(_trained(parts), "visible")),
    Count("infrared images of them", 11_909, lambda parts: _of(_trained(parts), "thermal")),
    Count("people to test", 96, lambda parts: _people(_tested(parts))),
    Count("queries", 3_803, lambda parts: len(parts["query"])),
    Count("queries of camera 3", 1_883, lambda parts: sum(s.camera == 3 for s in parts["query"])),
    Count("queries of camera 6", 1_920, lambda parts: sum(s.camera == 6 for s in parts["query"])),
    Count("visible images to draw galleries from", 6_775, lambda parts: len(parts["gallery"])),
    Count(
        "images in a single-shot gallery, all-search",
        301,
        lambda parts: _drawn(parts["gallery"], (1, 2, 4, 5)),
    ),
    Count("images in a single-shot gallery, indoor", 112, lambda parts: _drawn(parts["gallery"], (1, 2))),
)
_REGDB = tuple(
    count
    for half, samples in (("train on", _trained), ("test", _tested))
    for count in (
        Count(f"people to {half}", 206, lambda parts, of=samples: _people(of(parts))),  # type: ignore[misc]
        Count(f"visible images to {half}", 2_060, lambda parts, of=samples: _of(of(parts), "visible")),  # type: ignore[misc]
        Count(f"thermal images to {half}", 2_060, lambda parts, of=samples: _of(of(parts), "thermal")),  # type: ignore[misc]
    )
)
_LLCM = (
    Count("people to train on", 713, lambda parts: _people(_trained(parts))),
    Count("people to test", 351, lambda parts: _people(_tested(parts))),
    Count("images", 46_767, lambda parts: len(_trained(parts)) + len(_tested(parts))),
    Count("cameras", 9, lambda parts: len({s.camera for s in (*_trained(parts), *_tested(parts))})),
)
_MARKET = (
    Count("people to train on", 751, lambda parts: _people(_trained(parts))),
    Count("training images", 12_936, lambda parts: len(_trained(parts))),
    Count("people in queries", 750, lambda parts: _people(parts["query"])),
    Count("queries", 3_368, lambda parts: len(parts["query"])),
    Count("gallery images", 19_732, lambda parts: len(parts["gallery"])),
)

KNOWN_DATA_SETS: dict[str, KnownDataSet] = {
    "sysu_mm01": KnownDataSet(
        "SYSU-MM01",
        "https://github.com/wuancong/SYSU-MM01: send the signed release agreement that is there; for research, images "
        "may not be passed on. Unpack SYSU-MM01.zip, which holds cam1 to cam6 and exp.",
        _SYSU,
    ),
    "regdb": KnownDataSet(
        "RegDB",
        "http://dm.dongguk.edu/link.html, 'Dongguk Body-based Person Recognition Database (DBPerson-Recog-DB1)': "
        "submit the copyright form, which states the terms. The lists of the ten trials (idx) come with the copy that "
        "https://github.com/mangye16/Cross-Modal-Re-ID-baseline tells how to ask for.",
        _REGDB,
    ),
    "llcm": KnownDataSet(
        "LLCM",
        "https://github.com/ZYK100/LLCM: send its authors the signed data set agreement, which states the terms.",
        _LLCM,
        "the authors say that they changed the data set after its paper",
    ),
    "vt_mot": KnownDataSet(
        "VT-MOT",
        "https://github.com/wqw123wqw/PFTrack links to the sequences, and states no terms for them: ask the authors. "
        "Then cut people out: python -m datasets.prepare_vt_mot VTMOT/train/* --output DIR",
    ),
    "market1501": KnownDataSet(
        "Market-1501",
        "Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015; for academic use. The authors' page "
        "links to it.",
        _MARKET,
    ),
    "deepsportradar": KnownDataSet(
        "DeepSportradar re-identification",
        "https://github.com/DeepSportradar/player-reidentification-challenge; the terms are stated there.",
    ),
    "synthetic": KnownDataSet("Synthetic people", "python -m datasets.synthetic --preset demo --root DIR"),
}
"""By the name of their layout in the YAML."""
