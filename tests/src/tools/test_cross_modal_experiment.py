"""The cross-modal experiment: what is run, what is counted, how certain a difference is, the tables and the page."""

import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image

from common.config import ConfigError, validate
from src.tools import cross_modal_experiment as tool
from src.tools import experiment
from src.tools.experiment import step_folder

PLAN = """
question: What does each part make?
seeds: [0, 1, 2]
preset: tiny
shared:
  - {config: start.yaml}
arms:
  one stem: [{config: one.yaml, overrides: ["model.model_path={shared}", "training.callbacks.Stop.patience=3"]}]
  alone: [{config: two.yaml}]
  two stems: [{config: two.yaml, overrides: ["model.model_path={shared}"]}]
parts:
  - {part: stems, arm: two stems, without: one stem}
  - {part: training, arm: one stem, without: untrained}
  - {part: start, arm: two stems, without: alone}
"""
RANK1 = {"one_stem": (0.30, 0.32, 0.31), "alone": (0.30, 0.36, 0.33), "two_stems": (0.40, 0.43, 0.42)}
VISIBLE = {"one_stem": (0.80, 0.81, 0.82), "alone": (0.80, 0.81, 0.82), "two_stems": (0.70, 0.72, 0.72)}
STEPS = {"shared": (10, 2), "one_stem": (20, 3), "alone": (20, 4), "two_stems": (20, 3)}


@pytest.fixture
def runs(monkeypatch):
    """The runs that were asked for, each answered with reports instead of a training."""
    asked = []

    def run_step(config, overrides, target, models, threads):
        if target.is_dir():
            return
        asked.append((target, overrides))
        arm, seed = target.parents[1].name, int(target.parent.name.removeprefix("seed_"))
        steps, epochs = STEPS[arm]
        (target / ".hydra").mkdir(parents=True)
        training = {"batch_size": 8, "steps_per_epoch": steps}
        (target / ".hydra/config.yaml").write_text(yaml.safe_dump({"training": training}))
        (target / "logs/metrics").mkdir(parents=True)
        rows = [f"{epoch},{0.1 * epoch}" for epoch in range(epochs)]
        log = "\n".join(["epoch,val_thermal_to_visible_mAP", *rows])
        (target / "logs/metrics/train_metrics.csv").write_text(log)
        (target / "evaluation").mkdir()
        if arm == "shared":
            return
        scores = {
            "rank1": RANK1[arm][seed], "mAP": RANK1[arm][seed] / 2, "visible_to_thermal_rank1": 0.25,
            "visible_to_visible_rank1": VISIBLE[arm][seed], "thermal_to_thermal_rank1": 0.9,
        }  # fmt: skip
        metrics = {f"float32/keras/{key}": value for key, value in scores.items()}
        metrics |= {f"baseline/random plain/{key}": 0.02 for key in scores}
        (target / "evaluation/metrics.json").write_text(json.dumps({"metrics": metrics}))
        (target / "evaluation/cmc.csv").write_text("rank,best (keras)\n1,40\n2,50\n")
        _write_queries(target / "evaluation/best_model_keras_queries.csv", RANK1[arm][seed])
        Image.new("RGB", (4, 4)).save(target / "evaluation/cross_modal_lists.png")

    monkeypatch.setattr(experiment, "run_step", run_step)
    monkeypatch.setattr(tool, "check_plan", lambda *given: None)  # its recipes are made up
    return asked


def _write_queries(path, rank1):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "identity", "average_precision_in_trials", "rank1_in_trials"))
        for number in range(12):
            writer.writerow((f"{number}.jpg", number // 3, rank1 / 2 + 0.01 * number, rank1 + 0.01 * number))
        writer.writerow(("nobody.jpg", 9, "", ""))


def _main(tmp_path, monkeypatch, *options, plan=PLAN):
    (tmp_path / "plan.yaml").write_text(plan)
    page = tmp_path / "docs/page.md"
    if not page.exists():
        page.parent.mkdir()
        page.write_text(f"before\n{tool._BEGIN}\nold\n<!-- end of the table -->\nafter\n")
    monkeypatch.setattr(tool, "_PAGE", page)
    monkeypatch.setattr(tool, "_PROJECT", tmp_path)
    command = [str(tmp_path / "plan.yaml"), "--folder", str(tmp_path / "out"), "--jobs", "1", *options]
    return tool.main(command), page.read_text()


def test_tables_pictures_and_verdicts_go_into_the_page(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 3 * (1 + 3)
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "| one stem | 1 k | 31.0 ± 1.0 | 15.5 ± 0.5 | 25.0 ± 0.0 | 81.0 ± 1.0 | 90.0 ± 0.0 |" in page
    assert "| untrained | - | 2.0 ± 0.0 |" in page and "| chance | - | " in page
    # +10.67 points with deviation 0.58 over three seeds: 4.303 x 0.58 / sqrt(3) = 1.43
    assert "| stems | two stems - one stem | +10.7 ± 0.6, [+9.2, +12.1], [+10.0, +11.0]" in page
    assert "- yes: the best arm, two stems, reaches 30 % thermal to visible: 41.7 %" in page
    assert "- yes: all arms saw the same number of images: 640" in page
    assert (
        "- two stems minus one stem: +5.3 mAP, 95 % interval [+4.6, +6.1] over the seeds: resolved." in page
    )
    assert "- Costs visible Rank-1, beyond the spread of the seeds: stems (-9.7); start (-9.7)." in page
    assert "Not shown to help" not in page
    pictures = {path.name for path in (tmp_path / "docs/images").iterdir()}
    assert pictures == {f"tiny_cross_modal_{name}.png" for name in ("cmc", "training", "lists")}
    assert all(f"images/{name}" in page for name in pictures)
    assert "- yes: at most 120 minutes on" in page
    code, page = _main(tmp_path, monkeypatch)
    assert code == 0 and len(runs) == 12, "what is finished is not repeated"
    assert "minutes" not in page, "only some runs were timed"
    assert all("dataset.dataset_name=sysu_mm01" in overrides for _, overrides in runs)


def test_a_smoke_run_is_tiny_and_leaves_the_page(tmp_path, runs, monkeypatch):
    code, page = _main(tmp_path, monkeypatch, "--smoke")
    assert code == 0 and "old" in page and len(runs) == 2 * (1 + 3)
    for _, overrides in runs:
        assert {"training.epochs=1", "~training.callbacks"} < set(overrides)
        assert not any("training.callbacks." in text for text in overrides)
    assert (tmp_path / "out/tiny_cross_modal_cmc.png").is_file()


def test_images_are_counted_with_the_shared_start_and_differences_are_said(tmp_path, runs, monkeypatch):
    monkeypatch.setitem(STEPS, "alone", (20, 3))
    _, page = _main(tmp_path, monkeypatch)
    assert "- **no**: all arms saw the same number of images: 480, 640" in page


def test_what_does_not_help_is_said(tmp_path, runs, monkeypatch):
    monkeypatch.setitem(RANK1, "alone", (0.40, 0.44, 0.41))
    _, page = _main(tmp_path, monkeypatch)
    assert (
        "- Not shown to help across modalities, the interval over the seeds reaches 0: start (+0.0 mAP)."
        in page
    )
    monkeypatch.setitem(RANK1, "two_stems", (0.20, 0.21, 0.22))
    for seed in range(3):
        folder = step_folder(tmp_path / "out", "two stems", seed, 1)
        folder.rename(folder.with_name("old"))
    _, page = _main(tmp_path, monkeypatch)
    assert "- **no**" not in page  # another arm is the best
    assert "stems (-5.0 mAP)" in page and "the best arm, alone," in page


def test_the_bootstrap_agrees_with_drawing_one_by_one():
    random = np.random.default_rng(0)
    identities = np.repeat(np.arange(20), random.integers(2, 6, 20))
    differences = [0.1 + 0.05 * random.normal() + 0.2 * random.normal(size=len(identities)) for _ in range(3)]
    for row in differences:
        row[3] = np.nan
    slow = []
    for _ in range(2000):
        people = random.choice(20, 20)
        chosen = np.concatenate([np.flatnonzero(identities == person) for person in people])
        slow.append(np.nanmean([differences[seed][chosen] for seed in random.choice(3, 3)]))
    found = tool.bootstrap(differences, identities)
    assert found == pytest.approx(np.percentile(slow, (2.5, 97.5)), abs=0.01)


def test_chance_is_that_of_random_embeddings(tiny_in):
    found = tool.chance(tiny_in("sysu_mm01"))
    # 6 people, one image each in two visible cameras; camera 3 does not see camera 2
    assert found["thermal to visible Rank-1"][0] == pytest.approx(1 / 6, abs=0.05)
    assert set(found) == set(tool.SCORES) and all(0 < values[0] < 1 for values in found.values())


def test_what_an_evaluation_lacks_is_named(tmp_path):
    with pytest.raises(
        ConfigError, match="needs evaluation.random_network=True; its evaluation has no random rank1"
    ):
        tool._of_random({"float32/keras/rank1": 0.5}, "rank1")
    with pytest.raises(
        ConfigError, match="expected a best_model_keras_queries.csv with the results of each query"
    ):
        tool._queries(tmp_path)


def test_the_plan_of_the_project_is_valid_and_its_arms_see_the_same_images():
    plan = validate(tool.Plan, yaml.safe_load(tool._PLAN.read_text(encoding="utf-8")))
    assert plan.seeds == [0, 1, 2] and plan.preset == "bench"
    assert (plan.parts[0].arm, plan.parts[0].without) == ("AGW", "single stem, both modalities")
    assert all(part.arm in plan.arms and part.without in {*plan.arms, "untrained"} for part in plan.parts)
    assert tool._BEGIN in tool._PAGE.read_text(encoding="utf-8")
    assert len({_images(plan, arm) for arm in plan.arms}) == 1


def _images(plan, arm):
    """Images of an arm by its YAML files and overrides, the shared start included."""
    steps = plan.arms[arm]
    if any("{shared}" in text for step in steps for text in step.overrides):
        steps = [*plan.shared, *steps]
    total = 0
    for step in steps:
        text = (tool._PROJECT / "config_file_examples" / step.config).read_text(encoding="utf-8")
        training = dict(yaml.safe_load(text)["training"])
        for key in ("epochs", "steps_per_epoch", "batch_size"):
            stated = [text.split("=")[1] for text in step.overrides if text.startswith(f"training.{key}=")]
            training[key] = int((stated or [training[key]])[-1])
        total += training["epochs"] * training["steps_per_epoch"] * training["batch_size"]
    return total
