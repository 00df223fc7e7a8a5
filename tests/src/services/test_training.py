import pytest

from src.services.training import _with_best
from src.training.checkpoint import Best, Progress

FILES = ("best_augmented_model.keras", "best_model.keras")


@pytest.fixture
def checkpoint(tmp_path):
    """The last checkpoint of an interrupted training, with its best models beside it."""
    folder = tmp_path / "before"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text(name)
    return folder / "last_augmented_model.keras"


def test_a_resumed_training_keeps_the_best_models_so_far(checkpoint, tmp_path):
    done = Progress(Best("val_mAP", "max", 0.9, 1), epoch=3)
    assert _with_best(done, checkpoint, tmp_path) == done
    for name in FILES:
        assert (tmp_path / name).read_text() == name
    assert {path.name for path in tmp_path.iterdir()} == {"before", *FILES}


def test_where_the_best_models_are_lost_a_coming_epoch_is_the_best(checkpoint, tmp_path, caplog):
    checkpoint.with_name("best_model.keras").unlink()
    done = _with_best(Progress(Best("val_mAP", "max", 0.9, 1), epoch=3), checkpoint, tmp_path)
    assert (done.best, done.epoch) == (Best("val_mAP", "max"), 3)
    assert "best_model.keras is not there" in caplog.text


def test_a_training_without_a_best_epoch_has_nothing_to_keep(checkpoint, tmp_path, caplog):
    done = Progress(Best("val_loss", "min"), step=2)
    assert _with_best(done, checkpoint, tmp_path) == done
    assert [path.name for path in tmp_path.iterdir()] == ["before"] and not caplog.text
