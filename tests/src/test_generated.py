"""Generated files are up to date."""

import pytest

from src.tools.make_docs import generated_files

FILES = generated_files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_generated_file_is_current(path):
    assert path.read_text(encoding="utf-8") == FILES[path], "run `make docs` and commit the result"
