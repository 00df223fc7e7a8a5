"""How close queries are to gallery images, block by block, so that no query x gallery matrix is ever held."""

from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

QUERIES_AT_ONCE = 256
GALLERY_AT_ONCE = 16384
_TIE = 8  # units in the last place; two ways to multiply the same matrices differ by less


class Closeness(Protocol):
    """Larger is closer.

    Attributes:
        tie: Differences up to this are none, of each query (queries,).
    """

    tie: np.ndarray

    def against(self, images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Return a function: queries (n,) -> their closeness to the images, floats that the caller may overwrite."""
        ...


class FeatureCloseness:
    """Closeness of embeddings: cosine similarity, or an inner product that orders as the Euclidean distance does.

    Args:
        query: Embeddings (queries, D), checked by `checked_features`. Computed with in float64 if they are float64,
            else in float32.
        gallery: Embeddings (images, D). They stay as they are (float16 and int8 are converted by the chunk).
        distance: `cosine` or `euclidean`.
    """

    def __init__(self, query: np.ndarray, gallery: np.ndarray, distance: str) -> None:
        self._gallery = gallery
        self._dtype = np.float64 if query.dtype == np.float64 else np.float32
        self._normalise = distance == "cosine"
        tie = _TIE * np.finfo(self._dtype).eps
        if self._normalise:
            self._query = normalised(query.astype(self._dtype))
            self.tie = np.full(len(query), tie, self._dtype)
        else:
            # |q - g|^2 = |q|^2 - 2 (q.g - |g|^2 / 2). Moving both by the gallery's mean changes no distance and
            # keeps the terms small, so that float32 loses less in their difference.
            self._centre = gallery.mean(axis=0, dtype=np.float64).astype(self._dtype)
            self._query = query.astype(self._dtype) - self._centre
            self._squares = np.square(self._query).sum(axis=1)
            longest = max(_lengths(self._prepared(chunk)).max() for chunk in chunks(len(gallery)))
            self.tie = (tie * (_lengths(self._query) + longest) * longest).astype(self._dtype)

    def against(self, images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """See `Closeness`."""
        gallery = self._prepared(images)
        if self._normalise:
            return lambda queries: self._query[queries] @ gallery.T
        bias = np.square(gallery).sum(axis=1) / 2
        return lambda queries: self._query[queries] @ gallery.T - bias

    def as_distance(self, queries: np.ndarray, closeness: np.ndarray) -> np.ndarray:
        """Turn closeness (pairs,) of queries (pairs,) into distances: 1 - cosine, or Euclidean."""
        if self._normalise:
            return 1 - closeness
        return np.sqrt(np.maximum(self._squares[queries] - 2 * closeness, 0))

    def _prepared(self, images: np.ndarray | slice) -> np.ndarray:
        features = self._gallery[images].astype(self._dtype)
        return normalised(features) if self._normalise else features - self._centre


class MatrixCloseness:
    """Closeness from a matrix of distances (queries, images)."""

    def __init__(self, distances: np.ndarray) -> None:
        self._distances = distances
        self.tie = np.zeros(len(distances), np.float32)

    def against(self, images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """See `Closeness`."""
        whole = np.array_equal(images, np.arange(self._distances.shape[1]))

        def block(queries: np.ndarray) -> np.ndarray:
            taken = self._distances[queries]
            taken = taken if whole else np.take(taken, images, axis=1)
            taken = taken.astype(np.result_type(taken, np.float32), copy=False)
            return np.negative(taken, out=taken)

        return block


def checked_features(**features: np.ndarray) -> list[np.ndarray]:
    """Return embeddings as arrays (N, D) of numbers.

    Raises:
        ValueError: they are empty, not finite or of different D; the keyword is their name in the message.
    """
    checked = []
    for name, given in features.items():
        values = np.asarray(given)
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiu":
            raise ValueError(
                f"{name} must hold embeddings of shape (images, D), got {values.dtype} of shape {values.shape}"
            )
        if values.dtype.kind == "f":
            finite = [np.isfinite(values[chunk]).all(axis=1) for chunk in chunks(len(values))]
            wrong = len(values) - int(sum(map(np.count_nonzero, finite)))
            if wrong:
                raise ValueError(f"{wrong} of {len(values)} {name} embeddings hold NaN or infinity")
        checked.append(values)
    (first, a), *others = zip(features, checked, strict=True)
    for name, b in others:
        if a.shape[1] != b.shape[1]:
            raise ValueError(f"{first} has {a.shape[1]} dimensions, {name} {b.shape[1]}")
    return checked


def normalised(features: np.ndarray) -> np.ndarray:
    """Scale floats (N, D) to length 1, in place; a vector of zeros stays zero."""
    features /= np.maximum(_lengths(features), 1e-12)[:, None]
    return features


def chunks(n: int) -> Iterator[slice]:
    """Yield slices that together cover 0..n."""
    for start in range(0, n, GALLERY_AT_ONCE):
        yield slice(start, min(start + GALLERY_AT_ONCE, n))


def _lengths(features: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nd,nd->n", features, features))
