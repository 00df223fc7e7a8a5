import pytest

from common.config import ConfigError
from src.data.metadata import metadata_of
from src.data.sample import Sample


@pytest.fixture
def samples(tmp_path):
    return [Sample(tmp_path / name, "a", 1) for name in ("a_1.jpg", "a_2.jpg")]


def test_columns_that_are_known_of_every_image(tmp_path, samples):
    (tmp_path / "metadata.csv").write_text(
        "file,visibility,place,altitude\na_2.jpg,0.5,yard,30\na_1.jpg,1,street,\n"
    )
    assert metadata_of(samples) == {"visibility": ["1", "0.5"], "place": ["street", "yard"]}


def test_images_without_metadata_have_none(samples):
    assert metadata_of(samples) == {}
    assert metadata_of([]) == {}


def test_a_file_without_names_is_refused(tmp_path, samples):
    (tmp_path / "metadata.csv").write_text("image,visibility\na_1.jpg,1\n")
    with pytest.raises(
        ConfigError, match=r"metadata.csv has no column file: .* first line is 'image,visibility'"
    ):
        metadata_of(samples)
