"""The preview shows what training sees: the same images, seeds and functions."""

import cv2
import numpy as np
import pytest

from common.config import ConfigError, validate
from src.augmentation._sequence import sequence
from src.schema import Config
from src.tools.preview_augmentation import main, preview, write


def configuration(tiny, augmentation):
    return {
        "operation_mode": "training",
        "general": {"global_seed": 5},
        "model": {"model_name": "osnet_a025", "input_shape": [64, 32, 3]},
        "dataset": {"dataset_name": "Market1501", "training_path": str(tiny / "bounding_box_train")},
        "data_augmentation": augmentation,
        "training": {"batch_size": 8, "epochs": 1, "optimizer": "Adam"},
    }


AUGMENTATION = {
    "random_translation": {"width_factor": 0.2, "height_factor": 0},
    "random_invert": {"change_rate": 1},
}


def test_columns_are_what_training_would_see_at_these_steps(tiny):
    config = validate(Config, configuration(tiny, AUGMENTATION))
    columns = preview(config, images=3, variants=2)
    assert list(columns) == ["before", "step 0", "step 1"]
    before = columns["before"]
    assert before.shape == (3, 64, 32, 3) and before.dtype == np.uint8 and before.std() > 10
    function = sequence(AUGMENTATION)
    for step in (0, 1):
        expected = function(before.astype(np.float32), np.int32([5, step])).numpy()
        np.testing.assert_allclose(columns[f"step {step}"], expected, atol=1)
    assert not np.array_equal(columns["step 0"], columns["step 1"])


def test_each_augmentation_by_itself(tiny):
    columns = preview(validate(Config, configuration(tiny, AUGMENTATION)), images=2, each=True)
    assert list(columns) == ["before", "1 random_translation", "2 random_invert"]
    np.testing.assert_array_equal(columns["2 random_invert"], 255 - columns["before"])


def test_one_row_an_image(tmp_path):
    columns = {
        name: np.full((2, 20, 10, 3), value, np.uint8) for name, value in (("before", 0), ("after", 200))
    }
    path = write(tmp_path / "new" / "sheet.png", columns)
    picture = cv2.imread(str(path))
    assert picture is not None
    shades = [set(np.unique(half[half.shape[0] // 2 :])) for half in np.array_split(picture, 2, axis=1)]
    assert 0 in shades[0] and 200 in shades[1] and 200 not in shades[0]


def test_nothing_to_show_is_said(tiny):
    with pytest.raises(ConfigError, match="no section data_augmentation"):
        preview(validate(Config, configuration(tiny, {})))
    tested = {"dataset_name": "Market1501", "test_query_path": "query", "test_gallery_path": "gallery"}
    changes = {"operation_mode": "evaluation", "model": {"model_path": "m.keras"}, "dataset": tested}
    with pytest.raises(ConfigError, match="dataset.training_path is not set: there are no images to show"):
        preview(validate(Config, configuration(tiny, AUGMENTATION) | changes))


def test_command(tiny, tmp_path, monkeypatch, capsys):
    import yaml

    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(configuration(tiny, AUGMENTATION)))
    monkeypatch.chdir(tmp_path)
    command = ["--config-name", "mine", "--config-dir", str(tmp_path), "--images", "2", "--variants", "1"]
    assert main(command) == 0
    assert "experiments_outputs/augmentation_preview.png" in capsys.readouterr().out
    assert (tmp_path / "experiments_outputs" / "augmentation_preview.png").stat().st_size > 1000
    assert main([*command, "data_augmentation.random_invert.change_rate=2"]) == 2
    assert (
        "error: augmentation 'random_invert' cannot be made: random_invert: change_rate"
        in capsys.readouterr().err
    )
    assert main([*command, "--output", "other.png", "model.input_shape=(64,32,1)",
                 "preprocessing.color_mode=grayscale"]) == 0  # fmt: skip
    assert (tmp_path / "other.png").is_file()
    assert main(["--images", "2"]) == 2
    assert "no configuration is given" in capsys.readouterr().err
