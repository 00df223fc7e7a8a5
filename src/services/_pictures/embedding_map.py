from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from common import plotting
from common.artifacts import write_csv
from src.data.sample import Sample

_POINTS = 1000
_IDENTITIES = 20
_LEAST = 10


def embedding_map(
    path: Path, embeddings: np.ndarray, samples: Sequence[Sample], title: str, seed: int
) -> tuple[Path, str] | None:
    """Draw embeddings in two dimensions by t-SNE (van der Maaten and Hinton, 2008).

    Args:
        path: The PNG; the points are written to a CSV of the same name.
        embeddings: (N, D) of length 1; at most 1,000 are drawn.
        samples: N samples. At most 20 identities have a colour; a second panel shows modalities or cameras where
            there are several.
        title: Title of the figure.
        seed: Of the choice and of t-SNE.

    Returns:
        (PNG, caption); None where there are fewer than 10 points or all are the same.
    """
    people = np.array([number for number, sample in enumerate(samples) if sample.is_person], int)
    random = np.random.default_rng(seed)
    coloured = _coloured([samples[n].identity for n in people], random)
    first = [n for n in people if samples[n].identity in coloured]
    rest = [n for n in people if samples[n].identity not in coloured]
    chosen = [*random.permutation(first), *random.permutation(rest)][:_POINTS]
    if len(chosen) < _LEAST or np.ptp(embeddings[chosen], axis=0).max() < 1e-6:
        return None
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(chosen) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, random_state=seed)
    with threadpool_limits(1):  # its threads wait for one another in thousands of short steps
        points = tsne.fit_transform(embeddings[chosen].astype(np.float32))
    shown = [samples[n] for n in chosen]
    panels = {"identity": [str(s.identity) if s.identity in coloured else None for s in shown]}
    for name in ("modality", "camera"):
        values = [getattr(sample, name) for sample in shown]
        if len(set(values)) > 1:
            panels[name] = [str(value) for value in values]
            break
    write_csv(
        path.with_suffix(".csv"),
        ("x", "y", "identity", "camera", "modality", "file"),
        (
            (f"{x:.4f}", f"{y:.4f}", sample.identity, sample.camera, sample.modality, sample.path)
            for (x, y), sample in zip(points, shown, strict=True)
        ),
    )
    grey = "" if len(coloured) == len({s.identity for s in shown}) else "; other identities are grey"
    return plotting.scatter_panels(path, points, panels, title), (
        f"Embedding map: {len(chosen)} of {len(people)} test images of people, placed by t-SNE (perplexity "
        f"{perplexity:.0f}, seed {seed}) so that near neighbours stay near. {len(coloured)} identities have a colour"
        f"{grey}. Distances between far points, sizes and axes mean nothing."
    )


def _coloured(identities: Sequence[int | str], random: np.random.Generator) -> set[int | str]:
    """Identities for the colours: random ones of several images each."""
    several = [identity for identity, images in Counter(identities).items() if images > 1]
    return {several[n] for n in random.permutation(len(several))[:_IDENTITIES]}
