"""The experiment on adaptation: what is run on which people, the shares of the gap, purity, the tables and the page."""

import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from common.config import ConfigError, compose, validate
from datasets.synthetic import generate
from datasets.synthetic._generate import shots
from datasets.synthetic.layouts import LAYOUTS
from datasets.synthetic.presets import PRESETS
from src.data.readers._files import camera_of
from src.data.readers.vt_mot import vt_mot
from src.schema import Config
from src.tools import adaptation_experiment as tool
from src.tools import experiment
from src.tools._planned import read_plan
from src.tools.experiment import SHARED, step_folder

MAP = {
    "before": 0.2, "adapted": 0.4, "oracle": 0.5, "tracks_and_pairs_no_clustering": 0.3,
    "Cluster_Contrast_on_images": 0.35,
}  # fmt: skip


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return generate("tiny", tmp_path_factory.mktemp("people") / "tiny", "vt_mot", progress=False)


@pytest.fixture
def stopped():
    """Arms and seeds that a guard ends after three of eight rounds."""
    return set()


@pytest.fixture
def runs(monkeypatch, target, stopped):
    """The runs that were asked for, each answered with reports instead of a training."""
    asked = []

    def run_step(config, overrides, folder, models, threads):
        if folder.is_dir():
            return
        arm, seed = folder.parents[1].name, int(folder.parent.name.removeprefix("seed_"))
        asked.append((arm, config, overrides, models))
        (folder / "evaluation").mkdir(parents=True)
        (folder / "saved_models").mkdir()
        (folder / "seconds.txt").write_text("120.0\n")
        made = "best" if arm == SHARED or folder.name == "step_2" else "adapted"
        (folder / f"saved_models/{made}_model.keras").touch()
        value = 0.6 if arm == SHARED else 0.55 if folder.name == "step_2" else MAP[arm] + 0.01 * seed
        scores = {f"float32/keras/{key}": value for key in tool._SCORES.values()}
        (folder / "evaluation/metrics.json").write_text(json.dumps({"metrics": scores}))
        Image.new("RGB", (4, 4)).save(folder / "evaluation/embedding_map.png")
        if arm in (SHARED, "before") or folder.name == "step_2":
            return
        (folder / "adaptation/pseudo_labels").mkdir(parents=True)
        left = 5 if (arm, seed) in stopped else 0
        counts = {"metrics": {"rounds": 8 - left, "rounds_left": left}}
        (folder / "adaptation/metrics.json").write_text(json.dumps(counts))
        with (folder / "adaptation/pseudo_labels.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("file", "modality", "camera", "label"))
            for sample in vt_mot(target, "training"):
                person = int(sample.identity.removeprefix("syntheticx"))
                label = "" if person == 1 else f"{sample.modality}-{max(person, 3) - 3}"
                writer.writerow((sample.path, sample.modality, sample.camera, label))
        shutil.copy(folder / "adaptation/pseudo_labels.csv", folder / "adaptation/pseudo_labels/round_1.csv")
        rows = [
            f"{n},{modality},{'' if n == 1 else 0.5}" for n in (1, 2) for modality in ("visible", "thermal")
        ]
        (folder / "adaptation/rounds.csv").write_text("\n".join(["round,modality,agreement", *rows]))

    monkeypatch.setattr(experiment, "run_step", run_step)
    monkeypatch.setattr(tool, "generate", lambda *_: target)
    return asked


def _main(tmp_path, monkeypatch, *options):
    page = tmp_path / "docs/page.md"
    if not page.exists():
        page.parent.mkdir()
        page.write_text(f"before\n{tool._BEGIN}\nold\n<!-- end of the table -->\nafter\n")
    monkeypatch.setattr(tool, "_PAGE", page)
    code = tool.main([str(tool._PLAN), "--folder", str(tmp_path / "out"), "--jobs", "1", *options])
    return code, page.read_text()


def test_tables_pictures_and_verdicts_go_into_the_page(tmp_path, runs, monkeypatch, target):
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 3 * (1 + 6)
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "| adapted | target | 41.0 ± 1.0 | 41.0 ± 1.0 | 41.0 ± 1.0 | 41.0 ± 1.0 |" in page
    assert "| before | source | 60.0 ± 0.0 |" in page and "| adapted | source | 55.0 ± 0.0 |" in page
    assert "| oracle | +30.0 ± 0.0, 100 % |" in page and "| adapted | +20.0 ± 0.0, 67 % |" in page
    assert "| Cluster Contrast on images | +15.0 ± 0.0, 50 % |" in page
    told = "67 % of the gap to the oracle, +30.0 points of mAP, 95 % interval [+30.0, +30.0], is closed"
    assert f"- yes: thermal to visible: {told}" in page
    assert (
        "- Tracks, pairs and the clustering that they allow make together, in points of mAP, with 95 % intervals "
        "over the seeds: thermal to visible +5.0 ± 0.0, [+5.0, +5.0]" in page
    )
    # Eight people, of whom one is noise and two are in one cluster, each at two places by day and at one by night.
    assert "| adapted | visible | 6 | 8 | 12.5 ± 0.0 | 85.7 ± 0.0 | 83.6 ± 0.0 | 87.5 ± 0.0 | - |" in page
    assert "| adapted | thermal | 6 | 8 | 12.5 ± 0.0 | 85.7 ± 0.0 | 81.6 ± 0.0 | - | - |" in page
    pictures = {path.name for path in (tmp_path / "docs/images").iterdir()}
    assert pictures == {
        f"drone_adaptation_{name}.png" for name in ("before", "adapted", "agreement", "purity")
    }
    assert "- yes: every arm and seed took all rounds\n" in page
    assert "- yes: at most 90 minutes on" in page
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 21, "what is finished is not repeated"
    assert "- yes: at most 90 minutes on" in page and "1 side by side, not in one go: 42\n" in page


def test_every_step_has_its_people_and_its_model(tmp_path, runs, monkeypatch, target):
    _main(tmp_path, monkeypatch)
    assert all(f"dataset.root_path={target}" in overrides for _, _, overrides, _ in runs)
    start = tmp_path / "out/shared/seed_1/step_1/saved_models/best_model.keras"
    assert [models["shared"] for arm, _, _, models in runs if arm == "oracle"][1] == start
    adapted = [
        models["previous"] for arm, config, _, models in runs if arm == "adapted" and "chain" in config
    ]
    assert {path.name for path in adapted} == {"adapted_model.keras"} and len(adapted) == 3
    given = {arm: text for arm, _, overrides, _ in runs for text in overrides if "pseudo_labels=" in text}
    assert set(given) == {"oracle"}, "true labels are for the oracle alone"
    with Path(given["oracle"].partition("=")[2]).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(vt_mot(target, "training"))


def test_an_arm_that_a_guard_ended_is_named(tmp_path, runs, stopped, monkeypatch):
    stopped.add(("Cluster_Contrast_on_images", 1))
    _, page = _main(tmp_path, monkeypatch)
    told = "a guard ended Cluster Contrast on images, seed 1: 3 of 8"
    assert f"- **no**: every arm and seed took all rounds; {told}\n" in page


def test_an_adaptation_whose_first_round_was_taken_back_has_no_picture_of_its_purity(
    tmp_path, runs, monkeypatch
):
    _main(tmp_path, monkeypatch)
    (tmp_path / "out/adapted/seed_0/step_1/adaptation/pseudo_labels/round_1.csv").unlink()
    code, page = _main(tmp_path, monkeypatch)
    assert (
        code == 0 and "drone_adaptation_agreement.png" in page and "drone_adaptation_purity.png" not in page
    )


def test_a_smoke_run_is_tiny_and_leaves_the_page(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch, "--smoke")
    assert code == 0 and "old" in page and len(runs) == 2 * (1 + 6)
    for arm, _, overrides, _ in runs:
        if arm == SHARED:
            assert "training.epochs=1" in overrides
        elif "operation_mode=evaluation" not in overrides:
            assert "adaptation.rounds=2" in overrides
    assert (tmp_path / "out/tiny_adaptation_agreement.png").is_file()


def test_a_share_is_the_mean_gain_of_the_mean_gap():
    results = {
        "before": {"visible": np.array([0.2, 0.5, 0.3])},
        "adapted": {"visible": np.array([0.3, 0.6, 0.4])},
        "oracle": {"visible": np.array([0.5, 0.65, 0.55])},
    }
    share = tool.closed_share(results, "visible")
    assert share == pytest.approx(0.3 / 0.7), "the mean of the shares of the seeds is 0.47"
    told = tool.verdict_on_share(results, "visible")
    assert told.startswith(
        "- **no**: visible: 43 % of the gap to the oracle, +23.3 points of mAP, 95 % interval ["
    )
    half = {**results, "adapted": {"visible": np.array([0.36, 0.6, 0.4])}}
    assert tool.verdict_on_share(half, "visible").startswith("- yes: visible: 51 %")


@pytest.mark.parametrize("gap", [(0.0, 0.0, 0.0), (-0.017, 0.003, 0.023), (-0.1, -0.1, -0.11)])
def test_where_there_may_be_no_gap_there_is_no_share(gap):
    before = np.array([0.5, 0.4, 0.45])
    scores = {"before": before, "adapted": before + 0.005, "oracle": before + gap}
    results = {arm: dict.fromkeys(tool._SCORES, values) for arm, values in scores.items()}
    assert np.isnan(tool.closed_share(results, "visible"))
    told = tool.verdict_on_share(results, "visible")
    assert told.startswith("- **unresolved**: visible: the gap to the oracle, ") and "nan" not in told
    assert "| adapted | +0.5 ± 0.0 |" in "\n".join(tool.gains_table(results))
    if gap[2] > 0:
        assert "+0.3 points of mAP, 95 % interval [-4.7, +5.3], is not above 0" in told


def test_a_place_of_the_target_is_one_camera_of_each_sensor():
    """What is centred by modality and camera is then what one sensor sees, of whom a person has six tracks."""
    sensors, tracks = defaultdict(set), defaultdict(set)
    for shot in shots(PRESETS["drone"]):
        path = Path(LAYOUTS["vt_mot"](shot))
        camera = camera_of(path.stem.partition("_")[2])
        sensors[shot.modality, camera].add(shot.camera)
        if shot.split == "train":
            tracks[shot.identity].add(path.stem.rpartition("_")[0])
    assert len(sensors) == 4 and all(len(seen) == 1 for seen in sensors.values())
    assert {len(walks) for walks in tracks.values()} == {6}


def test_a_plan_without_an_arm_is_refused(tmp_path):
    plan = yaml.safe_load(tool._PLAN.read_text(encoding="utf-8"))
    del plan["arms"]["oracle"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    with pytest.raises(ConfigError, match="arms: needs oracle"):
        read_plan(tool.Plan, tmp_path / "plan.yaml")


@pytest.mark.parametrize("smoke", [False, True])
def test_every_step_of_the_project_is_a_valid_configuration(smoke, monkeypatch, tmp_path):
    monkeypatch.setenv("MODELS_DIR", "/models")
    plan = read_plan(tool.Plan, tool._PLAN)
    plan = tool.for_smoke(plan) if smoke else plan
    plan = tool.on_people(plan, tmp_path / "source", tmp_path / "target", tmp_path / "labels.csv")
    for arm, steps in {SHARED: plan.shared, **plan.arms}.items():
        for number, step in enumerate(steps, 1):
            texts = [
                text.replace("{shared}", "m.keras").replace("{previous}", "a.keras")
                for text in step.overrides
            ]
            config = validate(Config, compose(["--config-name", step.config, *texts]))
            of_source = arm == SHARED or number == 2
            assert config.services[-1] == "evaluation"
            assert config.of_target.dataset.root_path == tmp_path / ("source" if of_source else "target")
            assert (config.services[0] == "adaptation") == (arm not in (SHARED, tool._BEFORE) and number == 1)
            if smoke and config.services[0] != "evaluation":
                section = config.training if arm == SHARED else config.adaptation
                assert section.batch_size == 16


def test_the_arms_of_the_project_learn_alike_from_the_same_start(monkeypatch):
    monkeypatch.setenv("MODELS_DIR", "/models")
    plan = read_plan(tool.Plan, tool._PLAN)
    assert plan.seeds == [0, 1, 2] and (plan.source, plan.target) == ("bench", "drone")
    differ, sections = {"k1", "k2", "clustering", "constraints", "pseudo_labels"}, {}
    for arm in (tool._ADAPTED, tool._ORACLE, tool._CONTROL, tool._FREE):
        step = plan.arms[arm][0]
        texts = [text.replace("{shared}", "m.keras").replace("{labels}", "l.csv") for text in step.overrides]
        config = validate(Config, compose(["--config-name", step.config, *texts]))
        section = config.adaptation
        own = section.model_dump(exclude=differ)
        assert own == sections.setdefault("all", own), arm
        sections[arm] = section
        assert str(config.model.model_path) == "m.keras"
    adapted, free = sections[tool._ADAPTED], sections[tool._FREE]
    assert adapted.clustering.arguments == {"threshold": 0.75, "min_samples": 2}
    assert free.clustering.name == "dbscan" and free.clustering.arguments == {"eps": 0.6, "min_samples": 4}
    assert tool._BEGIN in tool._PAGE.read_text(encoding="utf-8")
    assert step_folder(tool._PROJECT, "a", 0, 1).name == "step_1"
