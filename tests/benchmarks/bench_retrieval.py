"""Seconds and memory of retrieval scores at the sizes of Market-1501, MSMT17 and SYSU-MM01.

Beside them in the same run: `np.argsort` of the same distances, the usual implementation (a full sort, then a loop
over the queries, in NumPy), and torchreid's where it is installed (`pip install torchreid torch`). Random features
around the right number of identities. About two minutes on 2 cores. A share of the size may be given,
`bench_retrieval 0.1`; the bars hold at full size.
"""

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from src.metrics.matrix_metrics import matrix_metrics
from src.metrics.retrieval import retrieval_metrics
from src.metrics.sysu_mm01_metrics import sysu_mm01_metrics
from tests.benchmarks._memory import measured

LAYOUT = Path(__file__).parents[1] / "data" / "sysu_mm01_layout.npz"
MARKET, MSMT17 = (3368, 15913, 751, 6), (11659, 82161, 3060, 15)  # queries, images, identities, cameras
DIMENSIONS, SHARE_OF_LOOP = 512, 0.1
PUBLISHED = "torchreid on 2 cores, measured once elsewhere: Python 91 s, Cython 2.8 s (MSMT17 about 33 s)"


def test_set(queries: int, images: int, identities: int, cameras: int) -> tuple[np.ndarray, ...]:
    """Return query and gallery features, identities and cameras; Rank-1 is neither 0 nor 1."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((identities, DIMENSIONS), np.float32)
    ids = [random.integers(0, identities, n) for n in (queries, images)]
    features = [0.3 * centres[i] + random.standard_normal((len(i), DIMENSIONS), np.float32) for i in ids]
    return *features, *ids, *(random.integers(1, cameras + 1, n) for n in (queries, images))


def distance_matrix(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return cosine distances (queries, images)."""
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    matrix: np.ndarray = 1 - query @ gallery.T
    return matrix


def usual(distances: np.ndarray, q_ids: Any, g_ids: Any, q_cameras: Any, g_cameras: Any) -> float:
    """Return mAP by a full sort and a loop over the queries."""
    order = np.argsort(distances, axis=1)
    precisions = []
    for q, row in enumerate(order):
        kept = row[(g_ids[row] != q_ids[q]) | (g_cameras[row] != q_cameras[q])]
        hits = np.flatnonzero(g_ids[kept] == q_ids[q]) + 1
        if len(hits):
            precisions.append(np.mean(np.arange(1, len(hits) + 1) / hits))
    return float(np.mean(precisions))


def torchreid_map(distances: np.ndarray, *labels: np.ndarray) -> float:
    """Return torchreid's mAP."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchreid.reid.metrics.rank import evaluate_rank
    return float(evaluate_rank(distances, *labels, max_rank=50)[1])


def sysu_test_set() -> dict[str, Any]:
    """Return random features in the layout of the test set of SYSU-MM01, 2048 dimensions, and the official draws."""
    layout = np.load(LAYOUT)
    images = layout["images"].astype(int)
    identity, camera = (x.ravel() for x in np.indices(images.shape))
    rows = np.repeat(np.arange(images.size), images.ravel())
    frames = np.concatenate([np.arange(1, n + 1) for n in images.ravel()])
    ids, cameras = layout["identities"].astype(int)[identity[rows]], camera[rows] + 1
    features = np.random.default_rng(0).standard_normal((len(rows), 2048), np.float32)
    infrared = np.isin(cameras, (3, 6))
    draws = {
        (int(person), visible): layout["draws"][i, c].astype(int)
        for i, person in enumerate(layout["identities"])
        for c, visible in enumerate((1, 2, 4, 5))
        if images[i, visible - 1]
    }
    sides = {"query": infrared, "gallery": ~infrared}
    arguments = {side: features[part] for side, part in sides.items()}
    for side, part in sides.items():
        arguments |= {f"{side}_ids": ids[part], f"{side}_cameras": cameras[part]}
    return arguments | {"gallery_frames": frames[~infrared], "draws": draws}


def main() -> int:
    """Print seconds and GB of every arm; return 1 when a bar is missed or scores disagree."""
    scale = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    missed = False

    def row(
        name: str, call: Callable[[], Any], bar: float = np.inf, memory_bar: float = np.inf
    ) -> tuple[Any, float]:
        nonlocal missed
        result, seconds, gigabytes = measured(call)
        late = scale == 1 and (seconds > bar or gigabytes > memory_bar)
        missed |= late
        bars = f"  bar {bar:.2f} s" * (bar < np.inf) + f", {memory_bar} GB" * (memory_bar < np.inf)
        print(f"{name:<66}{seconds:>8.2f} s{gigabytes:>7.2f} GB{bars}{'  missed' * late}", flush=True)
        return result, seconds

    def agree(score: float, others: float) -> None:
        nonlocal missed
        if abs(score - others) > 1e-5:
            missed = True
            print(f"  mAP disagrees: {score:.7f} against {others:.7f}")

    query, gallery, *labels = test_set(*(round(scale * n) for n in MARKET[:3]), MARKET[3])
    print(f"Market-1501, {len(query)} x {len(gallery)}")
    distances = distance_matrix(query, gallery)
    _, sort = row("np.argsort(distances, axis=1)", lambda: np.argsort(distances, axis=1))
    ours, _ = row("distances given", lambda: matrix_metrics(distances, *labels), 0.3 * sort)
    loop, _ = row("distances given, the usual implementation", lambda: usual(distances, *labels))
    agree(ours.mAP, loop)
    few = round(SHARE_OF_LOOP * len(query))
    if find_spec("torchreid"):
        some = labels[0][:few], labels[1], labels[2][:few], labels[3]
        theirs, _ = row(f"torchreid, {few} of the queries", lambda: torchreid_map(distances[:few], *some))
        agree(matrix_metrics(distances[:few], *some).mAP, theirs)
    else:
        print(f"  {PUBLISHED}")
    whole, _ = row("from 512 dimensions", lambda: retrieval_metrics(query, gallery, *labels), 1.5, 0.5)
    agree(whole.mAP, loop)
    row("the usual implementation", lambda: usual(distance_matrix(query, gallery), *labels))

    query, gallery, *labels = test_set(*(round(scale * n) for n in MSMT17[:3]), MSMT17[3])
    print(f"MSMT17, {len(query)} x {len(gallery)}")
    few = round(SHARE_OF_LOOP * len(query))
    some = labels[0][:few], labels[1], labels[2][:few], labels[3]
    row("from 512 dimensions", lambda: retrieval_metrics(query, gallery, *labels), 25, 1.5)
    ours, _ = row(f"{few} of the queries", lambda: retrieval_metrics(query[:few], gallery, *some))
    loop, _ = row(
        f"{few} of the queries, the usual implementation",
        lambda: usual(distance_matrix(query[:few], gallery), *some),
    )
    agree(ours.mAP, loop)

    arguments = sysu_test_set()
    print(f"SYSU-MM01, {len(arguments['query'])} queries, ten galleries")
    row("all-search, single-shot, 2048 dimensions", lambda: sysu_mm01_metrics(**arguments), 1.0)
    row("all-search, 10-shot, 2048 dimensions", lambda: sysu_mm01_metrics(**arguments, shots=10))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
