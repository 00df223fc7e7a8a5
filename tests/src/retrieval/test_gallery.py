import contextlib
import json
import threading
import zipfile
from functools import cache
from pathlib import Path

import faiss
import numpy as np
import pytest

from src.retrieval.gallery import Gallery, Match

D = 16
KINDS = {
    "flat": {},
    "ivf": {"lists": 4, "probes": 4},
    "ivf_pq": {"lists": 4, "probes": 4, "subvectors": 4},
    "hnsw": {},
}
EACH = ["flat", "ivf", "hnsw", pytest.param("ivf_pq", marks=pytest.mark.slow)]  # trains for seconds


def embeddings(seed, n):
    return np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)


def gallery(kind="flat", **arguments):
    made = Gallery(D, kind=kind, **KINDS[kind], **arguments)
    if kind.startswith("ivf"):
        made._index = faiss.clone_index(trained(kind)._index)
    return made


@cache
def trained(kind):
    """Trained once: faiss takes seconds for a compressed index."""
    made = Gallery(D, kind=kind, **KINDS[kind])
    made.train(embeddings(99, 10_000))
    return made


def slow_search(people, query, k):
    """Person -> embeddings; the best cosine of each, with a loop."""
    best = {
        person: max(float(e @ query / np.linalg.norm(e) / np.linalg.norm(query)) for e in vectors)
        for person, vectors in people.items()
    }
    return sorted(best.items(), key=lambda entry: -entry[1])[:k]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])  # searched exhaustively, so these are exact
def test_search_agrees_with_a_loop(kind):
    people = {f"p{i}": embeddings(i, 1 + i % 3) for i in range(40)}
    made = gallery(kind)
    for person, vectors in people.items():
        assert made.add(person, vectors) == []
    queries = embeddings(1000, 8)
    for query, matches in zip(queries, made.search(queries, k=5), strict=True):
        expected = slow_search(people, query, 5)
        assert [match.person for match in matches] == [person for person, _ in expected]
        np.testing.assert_allclose([m.similarity for m in matches], [s for _, s in expected], atol=1e-5)
    assert len(made) == 40 and "p7" in made and "p40" not in made


@pytest.mark.parametrize("kind", EACH)
def test_everybody_finds_themselves_and_nobody_else_after_removal(kind):
    made, vectors = gallery(kind), embeddings(0, 60)
    for person, vector in enumerate(vectors):
        made.add(person, 3 * vector)
    assert [match[0].person for match in made.search(vectors, k=1)] == list(range(60))
    for person in range(0, 60, 2):
        made.remove(person)
    found = made.search(vectors, k=60)
    assert all({match.person for match in matches} <= set(range(1, 60, 2)) for matches in found)
    assert [found[person][0].person for person in range(1, 60, 2)] == list(range(1, 60, 2))
    for person in range(3, 60, 2):  # a graph is rebuilt on the way
        made.remove(person)
    assert [[match.person for match in matches] for matches in made.search(vectors[:2])] == [[1], [1]]
    made.remove(1)
    assert made.search(vectors[0]) == [[]] and len(made) == 0
    made.add("again", vectors[0])
    assert made.search(vectors[0], k=3)[0][0].person == "again"


@pytest.mark.parametrize("kind", EACH)
def test_a_file_gives_back_the_same_answers(kind, tmp_path):
    made = gallery(kind, capacity=30, model="osnet 1234")
    for person in range(40):
        made.add(f"person {person}" if person % 2 else person, embeddings(person, 2))
    made.remove(20)
    path = tmp_path / "new" / "people.gallery"
    made.save(path)
    made.save(path)  # over an older one
    again = Gallery.load(path, dimension=D, model="osnet 1234")
    assert again.people == made.people and len(again) == 29
    query = embeddings(500, 6)
    assert again.search(query) == made.search(query)
    assert again.add("newcomer", embeddings(77, 1)) == []
    assert again.add("one more", embeddings(78, 1)) == [made.people[0]]
    assert [file.name for file in path.parent.iterdir()] == ["people.gallery"]


def test_who_was_not_seen_for_longest_makes_room():
    made = gallery(capacity=3)
    for person in "abc":
        made.add(person, embeddings(ord(person), 1))
    made.seen("a")
    made.search(embeddings(ord("b"), 1))  # does not count as seen
    assert made.add("d", embeddings(4, 1)) == ["b"]
    assert made.add("c", embeddings(5, 1)) == []
    assert made.people == ["a", "d", "c"]
    assert made.add("e", embeddings(6, 1)) == ["a"]
    assert {match.person for match in made.search(embeddings(ord("a"), 1), k=9)[0]} == {"c", "d", "e"}


def test_a_person_keeps_the_newest_embeddings():
    made, vectors = gallery(per_person=3), embeddings(0, 5)
    for vector in vectors[:4]:
        made.add("a", vector)
    made.add("b", vectors[4])
    similarity = {n: made.search(vectors[n], k=1)[0][0].similarity for n in range(4)}
    assert similarity[0] < 0.999 and all(similarity[n] == pytest.approx(1, abs=1e-5) for n in (1, 2, 3))
    made.add("c", embeddings(1, 10))
    assert len(made._owner) == made._index.ntotal == 3 + 1 + 3


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_threads_may_share_a_gallery(kind):
    made, errors = gallery(kind, capacity=20), []

    def work(seed):
        try:
            random = np.random.default_rng(seed)
            for _ in range(150):
                person = int(random.integers(40))
                made.add(person, random.normal(size=D))
                for match in made.search(random.normal(size=(2, D)), k=3)[0]:
                    assert isinstance(match, Match)
                if random.random() < 0.3:
                    with contextlib.suppress(KeyError):  # another thread was faster
                        made.remove(person)
        except Exception as error:  # noqa: BLE001  a thread's failure would go unnoticed
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(made) <= 20
    assert sorted(made._owner) == sorted(entry for entries in made._people.values() for entry in entries)


@pytest.fixture
def saved(tmp_path):
    made = gallery()
    for person in range(20):
        made.add(person, embeddings(person, 1))
    path = tmp_path / "people.gallery"
    made.save(path)
    return path


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"hello" * 100,
        lambda data: data[: len(data) // 2],
        lambda data: data[:400] + bytes([data[400] ^ 255]) + data[401:],
        lambda data: data[:1500] + bytes([data[1500] ^ 255]) + data[1501:],
    ],
)
def test_a_damaged_file_is_refused(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(ValueError, match="people.gallery is damaged or no gallery"):
        Gallery.load(saved)


def change_header(path, **changes):
    with np.load(path) as file:
        header, index = json.loads(file["header"].tobytes()), file["index"]
    header.update(changes)
    with path.open("wb") as file:
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), index=index)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "its format is 2, this program reads 1"),
        (
            {"people": [["a", [0]]]},
            "its index holds 20 embeddings of 16 dimensions, its list of people 1 of 16",
        ),
        ({"people": 5}, "damaged or no gallery"),
        ({"settings": {"dimension": 16, "kind": "lsh"}}, "kind must be one of flat, ivf"),
        ({"settings": {"size": 16}}, "damaged or no gallery"),
    ],
)
def test_a_file_whose_parts_do_not_fit_is_refused(saved, changes, message):
    change_header(saved, **changes)
    with pytest.raises(ValueError, match=message):
        Gallery.load(saved)


def test_a_file_with_pickled_objects_is_refused(tmp_path):
    path = tmp_path / "people.gallery"
    with path.open("wb") as file:
        np.savez(file, header=np.array([{"a": 1}], object), index=np.zeros(3, np.uint8))
    assert zipfile.is_zipfile(path)
    with pytest.raises(ValueError, match="damaged or no gallery"):
        Gallery.load(path)


def test_a_file_of_another_model_is_refused(saved):
    with pytest.raises(ValueError, match="embeddings of 16 dimensions, expected 512"):
        Gallery.load(saved, dimension=512)
    with pytest.raises(ValueError, match="made with the model '', expected 'other'"):
        Gallery.load(saved, model="other")
    with pytest.raises(FileNotFoundError):
        Gallery.load(Path(saved.parent / "none"))


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        gallery().save(saved)
    assert saved.read_bytes() == before and len(list(saved.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: g.add("a", np.ones(5)), r"expected embeddings of 16 dimensions, got shape \(5,\)"),
        (lambda g: g.add("a", np.zeros((0, 16))), "expected embeddings of 16 dimensions"),
        (lambda g: g.add("a", np.full(16, np.nan)), "NaN or infinity, or only zeros"),
        (lambda g: g.search(np.zeros(16)), "NaN or infinity, or only zeros"),
        (lambda g: g.search(np.ones(16), k=0), "k must be 1 or more"),
        (lambda g: g.add(1.5, np.ones(16)), "named by text or a whole number"),
        (lambda g: Gallery(16, kind="lsh"), "kind must be one of flat, ivf, ivf_pq, hnsw"),
        (lambda g: Gallery(0), "dimension must be an integer of 1 or more, got 0"),
        (lambda g: Gallery(16, capacity=2.5), "capacity must be an integer"),
        (
            lambda g: Gallery(16, kind="ivf_pq", subvectors=5),
            "subvectors must divide the dimension 16, got 5",
        ),
        (lambda g: Gallery(16, lists=4, probes=5), r"probes must be at most lists \(4\), got 5"),
        (lambda g: Gallery(16, kind="ivf").add("a", np.ones(16)), "must be trained before people are added"),
        (
            lambda g: Gallery(16, kind="ivf").train(embeddings(0, 9)),
            "trains with 2496 embeddings or more, got 9",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(gallery())


def test_names_that_are_not_there():
    for call in (gallery().remove, gallery().seen):
        with pytest.raises(KeyError, match="nobody in the gallery is named 'x'"):
            call("x")
    made = gallery("ivf")
    made.add("a", np.ones(16))
    with pytest.raises(ValueError, match="train comes before add"):
        made.train(embeddings(0, 9984))
