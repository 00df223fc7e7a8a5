"""Every example configuration is valid, and its name says its mode."""

import re
from pathlib import Path

import pytest

from common.config import compose, validate
from src.registries import build_schedule
from src.schema import Config
from src.services.evaluation import _other_direction

FOLDER = Path(__file__).parents[2] / "config_file_examples"
EXAMPLES = sorted(FOLDER.rglob("*.yaml"))


def test_there_is_an_example_for_every_mode():
    assert {
        "training",
        "evaluation",
        "prediction",
        "evaluation_qcs8550",
        "prediction_qcs8550",
        "quantization",
        "benchmarking",
        "chain_tqeb",
        "distillation",
        "chain_tkqeb",
        "chain_taqeb",
        "chain_eqe",
        "chain_qb",
        "deployment",
        "chain_qd",
    } <= {path.name.removesuffix("_config.yaml") for path in EXAMPLES}


@pytest.fixture(autouse=True)
def models_folder(monkeypatch):
    monkeypatch.setenv("MODELS_DIR", "/models")


def _composed(path: Path, *overrides: str) -> Config:
    return validate(Config, compose(["--config-name", str(path.relative_to(FOLDER)), *overrides]))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_valid_and_named_after_its_mode(path):
    config = _composed(path)
    assert path.name.startswith(config.operation_mode) or path.parent.name in ("multi_step", "vireid")
    assert path.read_text().startswith(("# ", "# @package _global_\n# ")), (
        "an example begins with what it is for"
    )


def test_the_index_names_every_example():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([\w/]+\.yaml)`", index)) == {str(path.relative_to(FOLDER)) for path in EXAMPLES}


MADE = {
    "training": "saved_models/best_model.keras",
    "distillation": "distilled_models/best_model.keras",
    "adaptation": "saved_models/adapted_model.keras",
}


def test_recipes_read_what_the_recipes_before_them_write():
    """A folder that no recipe has is made by a command in the first lines of one."""
    texts = {path: path.read_text(encoding="utf-8") for path in EXAMPLES}
    read = [
        (path, *found)
        for path in EXAMPLES
        for found in re.findall(r": \$\{MODELS_DIR\}/(\w+)/(\S+)", texts[path])
    ]
    assert len(read) > 10
    for path, folder, file in read:
        makers = [path.with_name(f"{folder}{end}.yaml") for end in ("", "_config")]
        maker = next((maker for maker in makers if maker in texts), None)
        if maker is not None:
            assert file == MADE[_composed(maker).operation_mode], path
        else:
            assert any(re.search(rf"hydra\.run\.dir=\S*/{folder}\b", text) for text in texts.values()), path


@pytest.mark.parametrize("name", ["regdb", "llcm"])
def test_recipes_score_both_directions_of_a_data_set_that_has_them(name):
    assert _other_direction(_composed(FOLDER / f"vireid/phase2_agw_{name}.yaml")) is not None


def test_each_trial_of_regdb_starts_from_its_own_first_phase():
    phase1, phase2 = (FOLDER / f"vireid/{phase}_regdb.yaml" for phase in ("phase1", "phase2_agw"))
    start = _composed(phase2, "dataset.arguments.trial=7").model.model_path
    assert start == Path("/models/phase1_regdb_trial7/saved_models/best_model.keras")
    assert "dir: ${MODELS_DIR}/phase1_regdb_trial${dataset.arguments.trial}\n" in phase1.read_text()


@pytest.mark.parametrize("name", ["agw_sysu_mm01", "agw_regdb", "agw_llcm", "agw_caj_sysu_mm01"])
def test_recipes_of_phase_2_have_the_published_rate_in_every_epoch(name):
    """AGW: `lr * (epoch + 1) / 10` below epoch 10, then 1, 0.1 from 20 and 0.01 from 50 times the rate."""
    training = _composed(FOLDER / f"vireid/phase2_{name}.yaml").training
    [(schedule, arguments)] = training.callbacks.items()
    published = [
        0.01 * ((epoch + 1) / 10 if epoch < 10 else 1 if epoch < 20 else 0.1 if epoch < 50 else 0.01)
        for epoch in range(training.epochs)
    ]
    rate = build_schedule(schedule, arguments)
    assert [rate(epoch) for epoch in range(training.epochs)] == pytest.approx(published)


SYNTHETIC = ("vireid/phase4_adaptation_synthetic", "chain_taqeb_config", "chain_tkaqeb_config")


@pytest.mark.parametrize("name", SYNTHETIC)
def test_recipes_adapt_to_the_synthetic_people_in_one_way(name):
    section = _composed(FOLDER / f"{name}.yaml").adaptation
    assert section.mean_teacher == pytest.approx(1 - 1 / section.steps_per_round)
    schedule = section.learning_rate_schedule.arguments
    assert schedule["decay_steps"] == section.rounds
    assert schedule["initial_lr"] == section.optimizer.arguments["learning_rate"]
    length = {"target", "rounds", "steps_per_round", "mean_teacher", "learning_rate_schedule"}
    own = _composed(FOLDER / f"{SYNTHETIC[0]}.yaml").adaptation
    assert section.model_dump(exclude=length) == own.model_dump(exclude=length)
