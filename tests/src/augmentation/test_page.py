"""What docs/README_DATA_AUGMENTATION.md shows works, and it leaves nothing out."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from common.config import compose, validate
from src.augmentation._sequence import sequence
from src.registries import AUGMENTATIONS
from src.schema import Config

PAGE = (Path(__file__).parents[3] / "docs" / "README_DATA_AUGMENTATION.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.+)$", PAGE.split("## Speed")[0], re.MULTILINE))


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_blocks_can_be_built(block):
    assert sequence(yaml.safe_load(block)["data_augmentation"], (32, 32, 3)) is not None


def test_the_command_of_the_picture_can_be_composed():
    [command] = [block for block in blocks("bash") if "docs/images" in block]
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "src.tools.preview_augmentation"]
    own = {"--each", "--images", "2", "--output", "docs/images/augmentation_preview.png"}
    config = validate(Config, compose([word for word in words[3:] if word not in own]))
    assert sequence(config.data_augmentation, (64, 32, 3)) is not None
    assert len(config.data_augmentation) == 12


def test_the_tables_have_every_augmentation_with_its_arguments_and_defaults():
    assert set(ROWS) == set(AUGMENTATIONS)
    sampling = {"fill_mode", "interpolation", "fill_value", "change_rate"}
    for name, row in ROWS.items():
        for argument, default in AUGMENTATIONS.find(name).parameters.items():
            if argument in sampling and "*sampling*" in row:
                continue
            value = "" if default is None else f"={default.strip(chr(39)).removesuffix('.0')}"
            assert f"`{argument}{value}`" in row, (name, argument)
