"""Pictures of an evaluation: what is chosen, what its numbers are, and what is left out. Their looks are for eyes."""

import csv
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from src.data.pipeline import load_images
from src.data.preprocessing import Preprocessing
from src.data.sample import Sample
from src.metrics.operating_point import OperatingPoint
from src.metrics.verification import Verification
from src.metrics.verification_pairs import verification_pairs
from src.registries import DATASETS
from src.services._pictures import Scored, evaluation_pictures
from src.services._pictures.activation_maps import activation_maps
from src.services._pictures.cross_modal_lists import cross_modal_lists
from src.services._pictures.embedding_map import embedding_map
from src.services._pictures.ranked_lists import ranked_lists
from src.services._pictures.similarity_matrix import similarity_matrix
from src.training.validation import score

PREPROCESSING = Preprocessing((32, 16, 3))


@pytest.fixture(scope="module")
def samples(tiny):
    return [DATASETS.get("synthetic")(tiny / folder) for folder in ("query", "bounding_box_test")]


def _embeddings(samples, noise, seed=0):
    """A direction for each identity plus noise."""
    random = np.random.default_rng(seed)
    people = sorted({sample.identity for part in samples for sample in part})
    directions = dict(zip(people, random.normal(size=(len(people), 8)), strict=True))
    for part in samples:
        vectors = np.array([directions[sample.identity] for sample in part])
        vectors = vectors + noise * random.normal(size=vectors.shape)
        yield (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _scored(name, samples, noise, threshold=False):
    query, gallery = _embeddings(samples, noise)
    ids, cameras = ([[getattr(s, key) for s in part] for part in samples] for key in ("identity", "camera"))
    verification = Verification(*verification_pairs(query, gallery, *ids, *cameras))
    point = OperatingPoint.chosen(verification, verification) if threshold else None
    return Scored(name, name, query, gallery, score(query, gallery, *samples), verification, point)


def _rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _network(channels=4):
    image = keras.Input((32, 16, 3))
    x = keras.layers.Conv2D(channels, 3, strides=4, padding="same", activation="relu", name="map")(image)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(image, keras.layers.Flatten()(x))


def test_one_call_draws_everything_with_its_numbers_beside_it(samples, tmp_path):
    scored = [_scored("int8", samples, 0.9), _scored("float", samples, 0.5, threshold=True)]
    drawn = evaluation_pictures(tmp_path, scored, *samples, 0, _network(), PREPROCESSING)
    assert [path.name for path, _ in drawn] == [
        "cmc.png", "roc.png", "int8_distance_histogram.png", "float_distance_histogram.png",
        "ranked_lists_worst.png", "ranked_lists_random.png", "cross_modal_lists.png", "similarity_matrix.png",
        "embedding_map.png", "activation_maps.png",
    ]  # fmt: skip
    for path, caption in drawn:
        with Image.open(path) as image:
            assert image.format == "PNG"
        assert _rows(path.with_suffix(".csv"))
        assert caption.endswith(f". Numbers: {path.stem}.csv.")
    assert len(list(tmp_path.iterdir())) == 2 * len(drawn)


def test_curves_hold_all_models_and_the_numbers_of_the_metrics(samples, tmp_path):
    scored = [_scored("int8", samples, 0.9), _scored("float", samples, 0.5)]
    short = replace(scored[1].metrics, cmc=scored[1].metrics.cmc[:5])
    evaluation_pictures(tmp_path, [scored[0], replace(scored[1], metrics=short)], *samples, 0)
    cmc = _rows(tmp_path / "cmc.csv")
    assert [row["rank"] for row in cmc] == ["1", "2", "3", "4", "5"]
    for model in scored:
        assert [float(row[model.name]) for row in cmc] == pytest.approx(100 * model.metrics.cmc[:5])
        fmr, tar = model.verification.roc()
        rows = [row for row in _rows(tmp_path / "roc.csv") if row["model"] == model.name]
        assert [float(row["false_match_rate"]) for row in rows] == pytest.approx(fmr)
        assert [float(row["true_acceptance_rate"]) for row in rows] == pytest.approx(tar)
        bins = _rows(tmp_path / f"{model.name}_distance_histogram.csv")
        assert sum(int(row["same identity"]) for row in bins) == len(model.verification.genuine)
        assert sum(int(row["different identities"]) for row in bins) == len(model.verification.impostor)


def test_a_caption_tells_the_threshold_and_what_it_does(samples, tmp_path):
    model = _scored("float", samples, 0.5, threshold=True)
    captions = {path.name: caption for path, caption in evaluation_pictures(tmp_path, [model], *samples, 0)}
    point = model.operating_point
    caption = captions["float_distance_histogram.png"]
    assert f"suggested threshold {point.threshold:.4g}, chosen for the {point.rule}" in caption
    assert f"rejects {100 * point.false_non_match_rate:.3g} %" in caption


def test_what_cannot_be_drawn_is_left_out(samples, tmp_path):
    model = replace(_scored("float", samples, 0.5), verification=None)
    constant = [np.ones_like(part) / np.sqrt(8) for part in (model.query, model.gallery)]
    model = replace(model, query=constant[0], gallery=constant[1])
    names = [path.name for path, _ in evaluation_pictures(tmp_path, [model], *samples, 0)]
    assert names == [
        "cmc.png", "ranked_lists_worst.png", "ranked_lists_random.png", "cross_modal_lists.png",
        "similarity_matrix.png",
    ]  # fmt: skip
    few = Verification(np.array([0.1]), np.full(9, 0.5))
    names = [
        path.name
        for path, _ in evaluation_pictures(tmp_path, [replace(model, verification=few)], *samples, 0)
    ]
    assert "roc.png" not in names and "float_distance_histogram.png" in names


def test_the_worst_queries_come_with_what_the_protocol_counts_nearest_first(samples, tmp_path):
    query, gallery = samples
    model = _scored("float", samples, 1.5)
    metrics = model.metrics
    pictures = list(ranked_lists(tmp_path, model.query, model.gallery, query, gallery, metrics, seed=1))
    rows = _rows(tmp_path / "ranked_lists_worst.csv")
    shown = list(dict.fromkeys(row["query"] for row in rows))
    worst = sorted(range(len(query)), key=lambda n: metrics.average_precision[n])[:5]
    assert shown == [str(query[n].path) for n in worst]
    for n in worst:
        similarity = model.query[n] @ model.gallery.T
        order = [
            i for i in np.argsort(-similarity)
            if gallery[i].is_person
            and (gallery[i].identity, gallery[i].camera) != (query[n].identity, query[n].camera)
        ]  # fmt: skip
        own = [row for row in rows if row["query"] == str(query[n].path)]
        assert [row["gallery"] for row in own] == [str(gallery[i].path) for i in order[:10]]
        assert [row["rank"] for row in own] == [str(rank) for rank in range(1, 11)]
        right = [gallery[i].identity == query[n].identity for i in order]
        assert [row["correct"] for row in own] == [str(value) for value in right[:10]]
        assert {int(row["first_right_rank"]) for row in own} == {right.index(True) + 1}
        precisions = [float(row["average_precision"]) for row in own]
        assert precisions == pytest.approx([metrics.average_precision[n]] * 10, abs=1e-6)
    others = {row["query"] for row in _rows(tmp_path / "ranked_lists_random.csv")}
    assert len(others) == 5 and not others & set(shown)
    assert "protocol market1501 counts" in pictures[0][1] and "seed 1" in pictures[1][1]


def test_queries_without_a_match_are_not_the_worst_and_few_queries_give_one_picture(tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "x.png")
    gallery = [Sample(tmp_path / "x.png", identity, 2) for identity in ("a", "b", "b")]
    query = [Sample(tmp_path / "x.png", identity, 1) for identity in ("nobody", "a")]
    vectors = np.eye(3, dtype=np.float32)
    metrics = score(vectors[:2], vectors, query, gallery)
    [worst, none] = ranked_lists(tmp_path, vectors[:2], vectors, query, gallery, metrics, 0)
    assert none is None and worst is not None
    rows = _rows(tmp_path / "ranked_lists_worst.csv")
    assert {row["identity"] for row in rows} == {"a"}
    # b, b and a: query a is orthogonal to a and one b, and among equals the wrong one comes first
    assert [row["gallery_identity"] for row in rows] == ["b", "b", "a"]


def test_the_similarity_matrix_is_sorted_by_identity(samples, tmp_path):
    people = [s for part in samples for s in part]
    vectors = np.concatenate(list(_embeddings(samples, 0.3)))
    similarity_matrix(tmp_path / "m.png", vectors, people, "title", seed=2)
    rows = _rows(tmp_path / "m.csv")
    identities = [row["identity"] for row in rows]
    assert identities == sorted(identities, key=int) and -1 not in map(int, identities)
    numbers = {str(sample.path): n for n, sample in enumerate(people)}
    chosen = [numbers[row["file"]] for row in rows]
    assert len(set(chosen)) == len(chosen)
    matrix = np.array([[float(row[str(n)]) for n in range(len(rows))] for row in rows])
    assert matrix == pytest.approx(vectors[chosen] @ vectors[chosen].T, abs=1e-4)
    single = [people[0], *(s for s in people if not s.is_person)]
    assert similarity_matrix(tmp_path / "n.png", vectors[: len(single)], single, "", 0) is None


def test_the_embedding_map_keeps_neighbours_and_repeats_itself(samples, tmp_path):
    people = [s for part in samples for s in part]
    vectors = np.concatenate(list(_embeddings(samples, 0.05)))
    for name in ("a", "b"):
        path, caption = embedding_map(tmp_path / f"{name}.png", vectors, people, "title", seed=3)
    rows = _rows(tmp_path / "a.csv")
    assert rows == _rows(tmp_path / "b.csv")
    assert len(rows) == sum(s.is_person for s in people)
    points = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    identities = np.array([row["identity"] for row in rows])
    assert (identities[distances.argmin(axis=1)] == identities).mean() > 0.95
    assert "t-SNE" in caption and "seed 3" in caption


def test_the_embedding_map_draws_a_thousand_points_in_twenty_colours(tmp_path, monkeypatch):
    from common import plotting

    people = [Sample(tmp_path, 1 + n % 40, 1, "thermal" if n % 3 else "visible") for n in range(1200)]
    vectors = np.random.default_rng(0).normal(size=(1200, 4)).astype(np.float32)
    drawn = []
    monkeypatch.setattr(
        plotting, "scatter_panels", lambda path, points, panels, title: drawn.append((points, panels))
    )
    monkeypatch.setattr("sklearn.manifold.TSNE.fit_transform", lambda self, x: x[:, :2])
    _, caption = embedding_map(tmp_path / "m.png", vectors, people, "", seed=0)
    [(points, panels)] = drawn
    assert points.shape == (1000, 2)
    assert list(panels) == ["identity", "modality"]
    assert len(set(panels["identity"])) == 21 and None in panels["identity"]
    assert "1000 of 1200" in caption and "20 identities have a colour; other identities are grey" in caption


def test_activation_maps_are_the_length_of_the_last_feature_map(samples, tmp_path):
    network, shown = _network(), samples[0][:3]
    path, caption = activation_maps(tmp_path / "a.png", network, shown, PREPROCESSING)
    features = keras.Model(network.inputs[0], network.get_layer("map").output)(
        load_images(shown, PREPROCESSING)
    )
    expected = np.sqrt(np.square(features.numpy()).sum(axis=-1))
    rows = _rows(tmp_path / "a.csv")
    written = np.array([[float(row[f"column_{n}"]) for n in range(4)] for row in rows]).reshape(3, 8, 4)
    assert written == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert "(8 x 4)" in caption and "Without gradients" in caption


def test_activation_maps_of_a_training_network_and_of_grey_images(samples, tmp_path):
    image = keras.Input((32, 16, 1))
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3, name="map")(image))
    outputs = {"embedding": features, "logits": keras.layers.Dense(3)(features)}
    grey = Preprocessing((32, 16, 1), color_mode="grayscale")
    assert activation_maps(tmp_path / "g.png", keras.Model(image, outputs), samples[0][:2], grey)


def test_a_network_without_a_feature_map_has_no_activation_maps(samples, tmp_path):
    image = keras.Input((32, 16, 3))
    tokens = keras.layers.Reshape((32, 48))(image)
    network = keras.Model(image, keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(4)(tokens)))
    assert activation_maps(tmp_path / "t.png", network, samples[0][:2], PREPROCESSING) is None
    assert not list(tmp_path.iterdir())


def test_people_are_looked_up_in_the_other_modality_in_both_directions(samples, tmp_path):
    everyone = [*samples[0], *samples[1]]
    embeddings = np.concatenate(list(_embeddings(samples, 0.5)))
    path, caption = cross_modal_lists(tmp_path / "lists.png", embeddings, everyone, "market1501", seed=0)
    rows = _rows(path.with_suffix(".csv"))
    assert caption.startswith("4 people")
    queries = list(dict.fromkeys((row["query"], row["query_modality"], row["identity"]) for row in rows))
    assert [modality for _, modality, _ in queries] == ["thermal", "visible"] * 4
    assert [who for *_, who in queries[::2]] == [who for *_, who in queries[1::2]]
    numbers = {str(sample.path): n for n, sample in enumerate(everyone)}
    for query, modality, _ in queries:
        listed = [row for row in rows if row["query"] == query]
        other = [n for n, sample in enumerate(everyone) if sample.modality != modality]
        expected = sorted((float(embeddings[n] @ embeddings[numbers[query]]) for n in other), reverse=True)
        assert [float(row["similarity"]) for row in listed] == pytest.approx(
            expected[: len(listed)], abs=1e-5
        )
        assert all(row["correct"] == str(row["gallery_identity"] == row["identity"]) for row in listed)


def test_there_are_no_cross_modal_lists_of_one_modality(samples, tmp_path):
    visible = [sample for sample in samples[0] if sample.modality == "visible"]
    embeddings = np.eye(len(visible), dtype=np.float32)
    assert cross_modal_lists(tmp_path / "lists.png", embeddings, visible, "market1501", seed=0) is None
