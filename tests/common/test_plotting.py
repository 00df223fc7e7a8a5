import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from common import plotting
from common.plotting import bars, heat_map, histogram, image_grid, line_curves, scatter_panels


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def shows(path, colour):
    """Whether a colour (#rrggbb) covers a visible part of the figure."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return (np.abs(pixels(path) - rgb).sum(-1) < 30).sum() > 100


def test_line_curves_draw_every_curve(tmp_path):
    curves = {"a": ([1, 2, 3], [0.1, 0.5, 0.2]), "b": (np.arange(3), np.array([0.3, np.nan, 0.4]))}
    path = line_curves(tmp_path / "new" / "curves.png", curves, xlabel="rank", ylabel="share", title="CMC")
    assert shows(path, "#2563eb")
    assert [entry.name for entry in path.parent.iterdir()] == ["curves.png"]
    log = line_curves(tmp_path / "log.png", curves, xlabel="rank", ylabel="share", title="CMC", xscale="log")
    assert (pixels(log) != pixels(path)).any()
    one = pixels(line_curves(tmp_path / "one.png", {"a": curves["a"]}, xlabel="rank", ylabel="share"))
    assert (one != pixels(path)).any()


def test_histogram_shows_groups_and_the_marked_value(tmp_path):
    groups = {"same": np.random.default_rng(0).normal(0, 1, 500), "other": [2.0, 2.1, np.nan], "none": []}
    path = histogram(tmp_path / "h.png", groups, xlabel="distance", vline=0.7)
    assert (pixels(path) != pixels(histogram(tmp_path / "g.png", groups, xlabel="distance"))).any()
    named = histogram(tmp_path / "n.png", groups, xlabel="distance", vline=0.7, vlabel="threshold")
    assert (pixels(path) != pixels(named)).any()


def test_bars(tmp_path):
    assert shows(
        bars(tmp_path / "b.png", {"a": 1.0, "b": 3.5, "c": np.nan}, xlabel="ms", unit=" ms"), "#2563eb"
    )


def test_scatter_panels_colour_the_same_points_by_other_labels(tmp_path):
    points = np.random.default_rng(0).normal(size=(300, 2))
    who = ["$1_a$" if i % 3 else None for i in range(300)]
    where = [str(i % 2) for i in range(300)]
    one = scatter_panels(tmp_path / "one.png", points, {"identity": who})
    assert shows(one, "#2563eb") and shows(one, "#d1d5db") and not shows(one, "#dc2626")
    two = scatter_panels(tmp_path / "two.png", points, {"identity": who, "camera": where}, title="t-SNE")
    assert shows(two, "#dc2626")
    assert pixels(two).shape[1] == 2 * pixels(one).shape[1]


def test_labels_beyond_the_colours_differ_in_shape(tmp_path, monkeypatch):
    points = np.repeat(np.arange(8.0)[:, None], 2, axis=1)
    panels = {"identity": [str(i) for i in range(8)]}
    several = pixels(scatter_panels(tmp_path / "several.png", points, panels))
    monkeypatch.setattr(plotting, "_MARKERS", "o")
    assert (several != pixels(scatter_panels(tmp_path / "one.png", points, panels))).any()


def test_heat_map_shows_values_and_lines_between_groups(tmp_path):
    matrix = np.kron(np.eye(2), np.ones((3, 3)))
    matrix[0, 5] = np.nan
    path = heat_map(tmp_path / "h.png", matrix, {"$a": 3, "b" * 40: 3}, label="similarity", title="t")
    assert shows(path, "#fde725") and shows(path, "#440154")
    one = heat_map(tmp_path / "one.png", matrix, {"$a": 6}, label="similarity", title="t")
    assert (pixels(path) != pixels(one)).any()


def test_image_grid_shows_images_of_any_kind_with_frames(tmp_path):
    images = [
        np.full((20, 10, 3), (200, 30, 90), np.uint8),
        np.full((24, 12, 1), 128, np.uint8),
        np.full((20, 10), 0.25),
        np.full((20, 10, 3), (0.2, 0.9, 0.1)),
    ]
    path = image_grid(
        tmp_path / "grid.png", images, columns=3, titles=list("abcd"),
        border_colours=["#16a34a", None, "#dc2626", None], title="ranks",
    )  # fmt: skip
    for colour in ("#c81e5a", "#808080", "#404040", "#33e61a", "#16a34a", "#dc2626"):
        assert shows(path, colour), colour


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": []}, "needs images"),
        ({"columns": 0}, "at least one column"),
        ({"titles": ["a", "b"]}, "1 images but 2 titles"),
        ({"border_colours": []}, "1 images but 0 border_colours"),
    ],
)
def test_image_grid_names_mistakes(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        image_grid(tmp_path / "g.png", **({"images": [np.zeros((4, 4))], "columns": 1} | arguments))


@pytest.mark.parametrize("draw", [lambda path: line_curves(path, {}, "x", "y"), lambda path: bars(path, {}, "x"),
                                  lambda path: histogram(path, {"none": []}, "x")])  # fmt: skip
def test_nothing_to_draw_gives_an_empty_figure(tmp_path, draw):
    assert not shows(draw(tmp_path / "empty.png"), "#2563eb")


def test_matplotlib_is_imported_only_to_draw():
    program = "import sys, common.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
