import numpy as np
import pytest

from src.metrics._protocols import PROTOCOLS
from src.metrics.counted_images import counted_images
from src.metrics.retrieval import retrieval_metrics


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_a_list_of_the_counted_images_has_the_average_precision_that_is_reported(protocol):
    random = np.random.default_rng(3)
    query, gallery = random.normal(size=(12, 4)), random.normal(size=(60, 4))
    query_ids, gallery_ids = random.integers(0, 5, 12), random.integers(-1, 6, 60)
    query_cameras, gallery_cameras = random.integers(1, 5, 12), random.integers(1, 5, 60)
    metrics = retrieval_metrics(
        query, gallery, query_ids, gallery_ids, query_cameras, gallery_cameras, protocol
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]
    for n, similarity in enumerate(unit[0] @ unit[1].T):
        counted = counted_images(
            protocol, int(query_ids[n]), int(query_cameras[n]), gallery_ids.tolist(), gallery_cameras.tolist()
        )
        order = [i for i in np.argsort(-similarity) if counted[i]]
        right = np.array([gallery_ids[i] == query_ids[n] for i in order])
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        assert precision[right].mean() == pytest.approx(metrics.average_precision[n])


def test_identities_may_be_names():
    counted = counted_images("market1501", "anna", 1, ["anna", "anna", "ben"], [1, 2, 1])
    assert counted.tolist() == [False, True, True]


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="protocol must be one of"):
        counted_images("market", 1, 1, [1], [2])
