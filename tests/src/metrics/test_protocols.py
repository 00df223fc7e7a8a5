"""Protocols by name: each gives what its function gives, from the images of two folders."""

from dataclasses import replace

import numpy as np
import pytest

from src.metrics._images import Images
from src.metrics.cuhk03_metrics import cuhk03_metrics
from src.metrics.llcm_metrics import llcm_metrics
from src.metrics.regdb_metrics import regdb_metrics
from src.metrics.retrieval import retrieval_metrics
from src.metrics.sysu_mm01_metrics import sysu_mm01_metrics
from src.metrics.vehicleid_metrics import vehicleid_metrics
from src.registries import PROTOCOLS

GIVEN = ("query", "gallery", "distance", "max_rank")
ONE_GALLERY = ["market1501", "no_camera", "msmt17", "veri776"]


def side(cameras, modality, seed, people=6, images=3):
    """Images of every identity by every camera, features around the identity's own."""
    random = np.random.default_rng(seed)
    ids, where, frames = (
        part.ravel()
        for part in np.meshgrid(range(1, people + 1), cameras, range(1, images + 1), indexing="ij")
    )
    features = np.eye(people)[ids - 1] + random.normal(0, 0.6, (len(ids), people))
    modalities = np.full(len(ids), modality)
    return Images(features, ids, where, modalities, np.array([f"{frame:04d}" for frame in frames]), where)


THERMAL, VISIBLE = side((3, 6), "thermal", 0), side((1, 2, 4, 5), "visible", 1)


def arrays(query, gallery):
    return query.features, gallery.features, query.ids, gallery.ids, query.cameras, gallery.cameras


def apply(name, query=THERMAL, gallery=VISIBLE, **arguments):
    PROTOCOLS.check(name, arguments, GIVEN)
    return PROTOCOLS.get(name)(query, gallery, "cosine", 20, **arguments)


def test_every_protocol_is_tested_here():
    assert set(PROTOCOLS) == {*ONE_GALLERY, "cuhk03", "vehicleid", "sysu_mm01", "regdb", "llcm"}


@pytest.mark.parametrize("name", ONE_GALLERY)
def test_protocols_of_one_gallery(name):
    expected = retrieval_metrics(*arrays(VISIBLE, VISIBLE), protocol=name, max_rank=20)
    found = apply(name, VISIBLE)
    assert (found.mAP, found.protocol) == (expected.mAP, name)
    np.testing.assert_array_equal(found.cmc, expected.cmc)


def test_one_gallery_hides_the_room_and_a_protocol_of_a_data_set_its_cameras():
    thermal, visible = (
        replace(side, places=np.where(side.cameras == 3, 2, side.cameras)) for side in (THERMAL, VISIBLE)
    )
    expected = retrieval_metrics(*arrays(replace(thermal, cameras=thermal.places), visible), max_rank=20)
    assert apply("market1501", thermal, visible).mAP == expected.mAP != apply("market1501").mAP
    assert apply("sysu_mm01", thermal, visible, trials=2).mAP == apply("sysu_mm01", trials=2).mAP


def test_sysu_mm01_counts_frames_by_their_names():
    frames = VISIBLE.names.astype(int)
    expected = sysu_mm01_metrics(*arrays(THERMAL, VISIBLE), frames, mode="indoor", trials=3)
    assert apply("sysu_mm01", mode="indoor", trials=3).mAP == expected.mAP


def test_regdb_takes_modalities_whichever_folder_they_are_in():
    expected = regdb_metrics(
        VISIBLE.features, THERMAL.features, VISIBLE.ids, THERMAL.ids, "thermal_to_visible"
    )
    assert apply("regdb", direction="thermal_to_visible").mAP == expected.mAP
    assert apply("regdb", VISIBLE, THERMAL, direction="thermal_to_visible").mAP == expected.mAP


def test_llcm():
    expected = llcm_metrics(
        VISIBLE.features, THERMAL.features, VISIBLE.ids, THERMAL.ids, VISIBLE.cameras, THERMAL.cameras,
        VISIBLE.names, THERMAL.names, variant="published_code", direction="visible_to_infrared",
    )  # fmt: skip
    found = apply("llcm", variant="published_code", direction="visible_to_infrared")
    assert (found.mAP, found.sentence) == (expected.mAP, expected.sentence)


def test_cuhk03_and_vehicleid():
    found = apply("cuhk03", VISIBLE, trials=4)
    expected = cuhk03_metrics(*arrays(VISIBLE, VISIBLE), VISIBLE.names, trials=4, max_rank=20)
    np.testing.assert_array_equal(found.cmc, expected.cmc)
    everything = VISIBLE + THERMAL
    found = apply("vehicleid", VISIBLE, THERMAL, trials=4)
    assert found.mAP == vehicleid_metrics(everything.features, everything.ids, everything.names, trials=4).mAP


@pytest.mark.parametrize(
    ("name", "query", "message"),
    [
        ("regdb", VISIBLE, "needs visible and thermal images, got 144 and 0"),
        ("llcm", VISIBLE, "needs visible and thermal images"),
        ("sysu_mm01", VISIBLE, "query_cameras of SYSU-MM01 must be among"),
    ],
)
def test_images_that_do_not_fit_are_refused(name, query, message):
    with pytest.raises(ValueError, match=message):
        apply(name, query)


def test_sysu_mm01_needs_numbered_files():
    odd = replace(VISIBLE, names=np.full(len(VISIBLE.ids), "a_1"))
    with pytest.raises(ValueError, match="needs files named by their number, such as 0001.jpg, got 'a_1'"):
        apply("sysu_mm01", gallery=odd)
