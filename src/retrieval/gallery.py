"""The people that a product knows: search, enrol, forget, and keep on disk."""

import json
import os
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Literal, get_args

import faiss
import numpy as np

Kind = Literal["flat", "ivf", "ivf_pq", "hnsw"]
Person = str | int

_VERSION = 1
_TRAINING_POINTS = 39  # per centroid; faiss warns below
_PQ_CENTROIDS = 256
_DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error),  # the file
    *(ValueError, KeyError, TypeError, AttributeError),  # its header
    RuntimeError,  # its index
)
_THREADS_FROM = 20  # queries; faiss multiplies matrices from here on
_HNSW_LINKS, _HNSW_SEARCH = 32, 64


@dataclass(frozen=True)
class Match:
    """A person found, and the cosine similarity of the closest embedding, -1 to 1 (with `ivf_pq` an estimate)."""

    person: Person
    similarity: float


@dataclass(frozen=True)
class _Settings:
    dimension: int
    kind: Kind
    capacity: int
    per_person: int
    lists: int
    probes: int
    subvectors: int
    model: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(get_args(Kind))}, got '{self.kind}'")
        for name in ("dimension", "capacity", "per_person", "lists", "probes", "subvectors"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of 1 or more, got {value!r}")
        if self.kind == "ivf_pq" and self.dimension % self.subvectors:
            raise ValueError(f"subvectors must divide the dimension {self.dimension}, got {self.subvectors}")
        if self.probes > self.lists:
            raise ValueError(f"probes must be at most lists ({self.lists}), got {self.probes}")

    def empty_index(self) -> Any:
        factory = {
            "flat": "IDMap2,Flat",
            "ivf": f"IVF{self.lists},Flat",
            "ivf_pq": f"IVF{self.lists},PQ{self.subvectors}",
            "hnsw": f"IDMap2,HNSW{_HNSW_LINKS}",
        }[self.kind]
        return faiss.index_factory(self.dimension, factory, faiss.METRIC_INNER_PRODUCT)

    @property
    def training_points(self) -> int:
        """Embeddings that the index must see before it can be filled."""
        centroids = {"ivf": self.lists, "ivf_pq": max(self.lists, _PQ_CENTROIDS)}.get(self.kind, 0)
        return _TRAINING_POINTS * centroids


@contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """Search for a few queries on the calling thread: waking others takes longer than the search."""
    threads = faiss.omp_get_max_threads()
    if queries < _THREADS_FROM:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


class Gallery:
    """A bounded, thread-safe index of people by cosine similarity.

    Each person has up to `per_person` embeddings; a newer one replaces the oldest. With `capacity` people, the one that
    was not seen for longest makes room for the next. Adding sees a person, `seen` does too; searching does not, because
    an answer may be wrong.

    Args:
        dimension: Length of the embeddings.
        kind: `flat` compares with all: exact, and fast enough for thousands. `hnsw` follows a graph and `ivf` looks
            into a few of many lists: approximate, for a million. `ivf_pq` also compresses, to `subvectors` bytes each.
            Both `ivf` kinds need `train` first.
        capacity: People.
        per_person: Embeddings per person.
        lists: Lists of `ivf` and `ivf_pq`.
        probes: How many of them a search looks into.
        subvectors: Bytes per embedding of `ivf_pq`; divides the dimension.
        model: What made the embeddings, such as a file's checksum: a gallery is worthless to another model.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        dimension: int,
        kind: Kind = "flat",
        capacity: int = 1000,
        per_person: int = 10,
        lists: int = 64,
        probes: int = 8,
        subvectors: int = 32,
        model: str = "",
    ) -> None:
        self._settings = _Settings(dimension, kind, capacity, per_person, lists, probes, subvectors, model)
        self._index = self._prepared(self._settings.empty_index())
        self._people: OrderedDict[Person, list[int]] = OrderedDict()  # embeddings of each, last seen last
        self._owner: dict[int, Person] = {}
        self._removed: set[int] = set()  # from a graph, which cannot forget: skipped until it is rebuilt
        self._next = 0
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._people)

    def __contains__(self, person: object) -> bool:
        return person in self._people

    @property
    def people(self) -> list[Person]:
        """Everybody, the one not seen for longest first."""
        with self._lock:
            return list(self._people)

    def train(self, embeddings: np.ndarray) -> None:
        """Fit the lists of an `ivf` or `ivf_pq` gallery to typical embeddings (N, dimension), before anybody is added.

        Raises:
            ValueError: there are too few, they are not finite, or the gallery holds people already.
        """
        vectors, needed = self._vectors(embeddings), self._settings.training_points
        if len(vectors) < needed:
            raise ValueError(
                f"kind '{self._settings.kind}' trains with {needed} embeddings or more, got {len(vectors)}"
            )
        with self._lock:
            if self._people:
                raise ValueError(f"train comes before add: the gallery holds {len(self)} people already")
            self._index.train(vectors)

    def add(self, person: Person, embeddings: np.ndarray) -> list[Person]:
        """Enrol a person, or add to what is known of one.

        Args:
            person: Text or a whole number.
            embeddings: One (dimension,) or several (n, dimension); need not be normalised.

        Returns:
            The people that had to make room.

        Raises:
            ValueError: the embeddings have another dimension, are not finite or zero, or the gallery needs training.
        """
        if not isinstance(person, str | int) or isinstance(person, bool):
            raise ValueError(f"a person is named by text or a whole number, got {person!r}")
        vectors = self._vectors(embeddings)[-self._settings.per_person :]
        with self._lock:
            if not self._index.is_trained:
                raise ValueError(
                    f"a gallery of kind '{self._settings.kind}' must be trained before people are added: call train "
                    f"with {self._settings.training_points} embeddings or more"
                )
            new = list(range(self._next, self._next + len(vectors)))
            self._next += len(vectors)
            self._index.add_with_ids(vectors, np.array(new, np.int64))
            self._owner.update(dict.fromkeys(new, person))
            known = [*self._people.get(person, []), *new]
            self._people[person] = known[-self._settings.per_person :]
            self._people.move_to_end(person)
            forgotten = known[: -self._settings.per_person]
            evicted = []
            while len(self._people) > self._settings.capacity:
                oldest, theirs = self._people.popitem(last=False)
                evicted.append(oldest)
                forgotten += theirs
            self._forget(forgotten)
            return evicted

    def remove(self, person: Person) -> None:
        """Forget a person; KeyError where there is none of that name."""
        with self._lock:
            if person not in self._people:
                raise KeyError(f"nobody in the gallery is named {person!r}")
            self._forget(self._people.pop(person))

    def seen(self, person: Person) -> None:
        """Note that a person was seen, so that others are evicted first; KeyError where there is none of that name."""
        with self._lock:
            if person not in self._people:
                raise KeyError(f"nobody in the gallery is named {person!r}")
            self._people.move_to_end(person)

    def search(self, embeddings: np.ndarray, k: int = 5) -> list[list[Match]]:
        """Find the closest people to each of some embeddings.

        Args:
            embeddings: One (dimension,) or several (n, dimension).
            k: People per embedding.

        Returns:
            For each embedding up to k people, the closest first; fewer where the gallery holds fewer, or where an
            approximate index finds fewer.

        Raises:
            ValueError: k is below 1, or the embeddings have another dimension, are not finite or zero.
        """
        if k < 1:
            raise ValueError(f"k must be 1 or more, got {k}")
        vectors = self._vectors(embeddings)
        with self._lock:
            if not self._people:
                return [[] for _ in vectors]
            # As many embeddings as may belong to k people.
            each = 1 if len(self._owner) == len(self._people) else self._settings.per_person
            wanted = min(k * each, len(self._owner))
            with _threads_for(len(vectors)):
                similarities, found = self._index.search(vectors, wanted, params=self._parameters())
            return [self._matches(*row, k) for row in zip(similarities.tolist(), found.tolist(), strict=True)]

    def save(self, path: Path) -> None:
        """Write the gallery to one file, whole or not at all."""
        with self._lock:
            if self._removed:
                self._rebuild()
            header = {
                "version": _VERSION,
                "settings": asdict(self._settings),
                "next": self._next,
                "people": list(self._people.items()),
            }
            index = faiss.serialize_index(self._index)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), index=index)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path, dimension: int | None = None, model: str | None = None) -> "Gallery":
        """Read a gallery.

        Args:
            path: Written by `save`.
            dimension: What the gallery must have, if given.
            model: What must have made its embeddings, if given.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or no gallery, or is of another dimension or model.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                header = json.loads(file["header"].tobytes())
                if header["version"] != _VERSION:
                    raise ValueError(f"its format is {header['version']}, this program reads {_VERSION}")
                gallery = cls(**header["settings"])
                gallery._restore(header, faiss.deserialize_index(file["index"]))
        except FileNotFoundError:
            raise
        except _DAMAGE as error:
            raise ValueError(
                f"{path} is damaged or no gallery ({type(error).__name__}: {error}): enrol its people again"
            ) from error
        settings = gallery._settings
        if dimension is not None and settings.dimension != dimension:
            raise ValueError(
                f"{path} holds embeddings of {settings.dimension} dimensions, expected {dimension}"
            )
        if model is not None and settings.model != model:
            raise ValueError(
                f"{path} was made with the model '{settings.model}', expected '{model}': enrol its people again"
            )
        return gallery

    def _restore(self, header: dict[str, Any], index: Any) -> None:
        """Take over what a file holds, if its parts belong together."""
        people = [(person, list(map(int, entries))) for person, entries in header["people"]]
        self._people = OrderedDict(people)
        self._owner = {entry: person for person, entries in people for entry in entries}
        self._next = int(header["next"])
        if index.d != self._settings.dimension or index.ntotal != len(self._owner):
            raise ValueError(
                f"its index holds {index.ntotal} embeddings of {index.d} dimensions, its list of people "
                f"{len(self._owner)} of {self._settings.dimension}"
            )
        self._index = self._prepared(index)

    def _prepared(self, index: Any) -> Any:
        if self._settings.kind in ("ivf", "ivf_pq"):
            faiss.extract_index_ivf(index).nprobe = self._settings.probes
        return index

    def _vectors(self, embeddings: np.ndarray) -> np.ndarray:
        """Return embeddings (n, dimension) as float32 of length 1."""
        vectors = np.atleast_2d(np.array(embeddings, dtype=np.float32))
        if vectors.ndim != 2 or not len(vectors) or vectors.shape[1] != self._settings.dimension:
            raise ValueError(
                f"expected embeddings of {self._settings.dimension} dimensions, got shape {np.shape(embeddings)}"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("an embedding holds NaN or infinity, or only zeros")
        vectors /= lengths
        return vectors

    def _matches(self, similarities: list[float], entries: list[int], k: int) -> list[Match]:
        """Return each person once, with the first and thus closest embedding."""
        best: dict[Person, float] = {}
        for similarity, entry in zip(similarities, entries, strict=True):
            if entry >= 0:  # faiss fills up with -1
                best.setdefault(self._owner[entry], similarity)
            if len(best) == k:
                break
        return [Match(person, similarity) for person, similarity in best.items()]

    def _parameters(self) -> Any:
        if self._settings.kind != "hnsw":
            return None
        if not self._removed:
            return faiss.SearchParametersHNSW(efSearch=_HNSW_SEARCH)  # type: ignore[attr-defined]
        gone = faiss.IDSelectorBatch(np.fromiter(self._removed, np.int64, len(self._removed)))
        kept = faiss.IDSelectorNot(gone)
        parameters = faiss.SearchParametersHNSW(  # type: ignore[attr-defined]
            efSearch=_HNSW_SEARCH, sel=kept
        )
        parameters.selectors = gone, kept  # C++ holds bare pointers
        return parameters

    def _forget(self, entries: list[int]) -> None:
        if not entries:
            return
        for entry in entries:
            del self._owner[entry]
        if self._settings.kind != "hnsw":
            self._index.remove_ids(np.array(entries, np.int64))
            return
        self._removed.update(entries)
        if len(self._removed) > len(self._owner):
            self._rebuild()

    def _rebuild(self) -> None:
        """Build the graph again without what was removed."""
        index = self._settings.empty_index()
        if self._owner:
            entries = np.fromiter(self._owner, np.int64, len(self._owner))
            index.add_with_ids(np.stack([self._index.reconstruct(int(entry)) for entry in entries]), entries)
        self._index = index
        self._removed.clear()
