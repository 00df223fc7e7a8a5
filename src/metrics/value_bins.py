from collections.abc import Sequence

import numpy as np


def value_bins(
    values: np.ndarray | Sequence[float], edges: Sequence[float] | None = None, count: int = 3
) -> np.ndarray:
    """Name the bin of each value, for `breakdown` by brightness, image height, occlusion or altitude.

    Args:
        values: Numbers (N,).
        edges: Ascending bounds between the bins, each belonging to the bin above: [0.35] parts dark from bright by the
            mean luma. None takes quantiles.
        count: Number of quantile bins; equal values stay together, so there may be fewer.

    Returns:
        Text (N,) that sorts as the bins do: "1: < 0.35", "2: >= 0.35".

    Raises:
        ValueError: values are not finite numbers (N,), or edges do not ascend.
    """
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"values must be finite numbers (N,), got shape {numbers.shape}")
    if edges is None:
        bounds = np.unique(np.quantile(numbers, np.arange(1, count) / count))
        bounds = bounds[bounds > numbers.min()]
    else:
        bounds = np.asarray(edges, np.float64)
    if (np.diff(bounds) <= 0).any():
        raise ValueError(f"edges must ascend, got {list(bounds)}")
    if not len(bounds):
        return np.full(len(numbers), "1: all")
    texts = [f"{bound:.4g}" for bound in bounds]
    inner = [f"{low} to < {high}" for low, high in zip(texts, texts[1:], strict=False)]
    width = len(str(len(texts) + 1))
    names = [f"< {texts[0]}", *inner, f">= {texts[-1]}"]
    numbered = np.array([f"{i:0{width}}: {name}" for i, name in enumerate(names, start=1)])
    bins: np.ndarray = numbered[np.searchsorted(bounds, numbers, side="right")]
    return bins
