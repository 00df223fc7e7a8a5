"""Figures to files. The only file that imports matplotlib, which it does when something is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import whole_file

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")
_GAP = 0.08  # inches between images
_MARKERS = "o^sD"
_MARKED_POINTS = 30
_LONGEST_LABEL = 14


def line_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    xscale: str = "linear",
) -> Path:
    """Draw curves {label: (x, y)}; values that are not finite leave a gap.

    Args:
        path: The PNG.
        curves: Any number of points each.
        xlabel: What x is, with the unit.
        ylabel: What y is, with the unit.
        title: Title.
        xscale: `linear` or `log`.

    Returns:
        `path`.
    """
    figure, axes = _figure(xlabel, ylabel, title)
    axes.set_xscale(xscale)
    for index, (label, (x, y)) in enumerate(curves.items()):
        marker = "." if len(x) <= _MARKED_POINTS else None
        axes.plot(x, y, label=label, color=_COLOURS[index % len(_COLOURS)], linewidth=1.8, marker=marker)
    _legend(axes, curves)
    return _save(figure, path)


def histogram(
    path: Path,
    groups: Mapping[str, Sequence[float] | np.ndarray],
    xlabel: str,
    ylabel: str = "density",
    title: str = "",
    vline: float | None = None,
    vlabel: str = "",
    bins: int = 60,
) -> Path:
    """Draw the distribution of each group on common bins, each with area 1, so that sizes may differ.

    Args:
        path: The PNG.
        groups: {label: values}; values that are not finite are left out.
        xlabel: What the values are, with the unit.
        ylabel: Label of the vertical axis.
        title: Title.
        vline: Value to mark, such as a threshold.
        vlabel: What it is, for the legend.
        bins: Number of bins over the range of all groups.
    """
    finite = {label: _finite(values) for label, values in groups.items()}
    finite = {label: values for label, values in finite.items() if len(values)}
    figure, axes = _figure(xlabel, ylabel, title)
    if finite:
        edges = np.histogram_bin_edges(np.concatenate(list(finite.values())), bins)
        for index, (label, values) in enumerate(finite.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            axes.hist(
                values, edges, density=True, alpha=0.45, color=colour, label=f"{label} (n = {len(values)})"
            )
    if vline is not None:
        axes.axvline(
            vline, color="#111827", linestyle="--", linewidth=1.2, label=f"{vlabel} {vline:.4g}".strip()
        )
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
    _legend(axes, finite)
    return _save(figure, path)


def bars(path: Path, values: Mapping[str, float], xlabel: str, title: str = "", unit: str = "") -> Path:
    """Draw one horizontal bar per label, first on top, each with its value written beside it."""
    figure, axes = _figure(xlabel, "", title, height=1.2 + 0.38 * max(1, len(values)))
    numbers = np.array(list(values.values()), dtype=float)
    drawn = axes.barh(list(values), np.nan_to_num(numbers), color=_COLOURS[0], height=0.65)
    axes.bar_label(drawn, [f"{number:.4g}{unit}" for number in numbers], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(visible=False, axis="y")
    return _save(figure, path)


def image_grid(
    path: Path,
    images: Sequence[np.ndarray],
    columns: int,
    titles: Sequence[str] | None = None,
    border_colours: Sequence[str | None] | None = None,
    title: str = "",
) -> Path:
    """Draw images row by row.

    Args:
        path: The PNG.
        images: uint8 or float in [0, 1], (H, W), (H, W, 1) or (H, W, 3 or 4); sizes may differ.
        columns: Images in a row.
        titles: Text above each image.
        border_colours: Colour of the frame around each image, None for no frame.
        title: Title of the figure.

    Raises:
        ValueError: no images, or titles or colours of another number.
    """
    if not images or columns < 1:
        raise ValueError(f"image_grid needs images and at least one column, got {len(images)} and {columns}")
    for name, given in (("titles", titles), ("border_colours", border_colours)):
        if given is not None and len(given) != len(images):
            raise ValueError(f"image_grid: {len(images)} images but {len(given)} {name}")
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    # One pair of axes in inches: a pair for each image takes seconds
    rows = -(-len(images) // columns)
    tallest = max(image.shape[0] / image.shape[1] for image in images)  # every image is 1 inch wide
    above = 0 if titles is None else 0.04 + 0.13 * max(text.count("\n") + 1 for text in titles)
    width = max(_GAP + (1 + _GAP) * columns, 0.08 * len(title))
    height = _GAP + (above + tallest + _GAP) * rows + (0.3 if title else 0)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, bottom = _GAP + (1 + _GAP) * column, (above + tallest + _GAP) * (rows - 1 - row) + _GAP
        size = image.shape[0] / image.shape[1]
        image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        place = (left, left + 1, bottom + tallest - size, bottom + tallest)
        axes.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, extent=place)
        if titles is not None:
            axes.text(
                left + 0.5,
                place[3] + 0.04,
                titles[index],
                fontsize=7,
                ha="center",
                va="bottom",
                parse_math=False,
            )
        if border_colours is not None and border_colours[index] is not None:
            frame = Rectangle((left, place[2]), 1, size, fill=False, color=border_colours[index], linewidth=3)
            axes.add_patch(frame)
    axes.set(xlim=(0, width), ylim=(0, height))
    if title:
        axes.text(width / 2, height - 0.06, title, fontsize=10, ha="center", va="top", parse_math=False)
    return _save(figure, path)


def scatter_panels(
    path: Path, points: np.ndarray, panels: Mapping[str, Sequence[str | None]], title: str = ""
) -> Path:
    """Draw the same points once for each panel, coloured by the panel's labels; axes without a meaning.

    Args:
        path: The PNG.
        points: (N, 2).
        panels: {title: label of each point}; up to 28 labels differ in colour and shape; None is grey and behind.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(panels), 5.6), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (name, labels) in zip(drawn, panels.items(), strict=True):
        axes.scatter(*points[[label is None for label in labels]].T, s=9, color="#d1d5db", linewidths=0)
        known = sorted({label for label in labels if label is not None}, key=lambda text: (len(text), text))
        for index, label in enumerate(known):
            turn, colour = divmod(index, len(_COLOURS) - 1)  # the last one is a grey
            axes.scatter(
                *points[[other == label for other in labels]].T, s=20, color=_COLOURS[colour], linewidths=0,
                marker=_MARKERS[turn % len(_MARKERS)], label=label[:_LONGEST_LABEL],
            )  # fmt: skip
        axes.set_title(name, fontsize=11, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_color("#d1d5db")
        if known:
            axes.legend(
                frameon=False,
                fontsize=8,
                loc="upper left",
                bbox_to_anchor=(1, 1),
                handletextpad=0.1,
                markerscale=1.5,
            )
    if title:
        figure.suptitle(title, fontsize=11, parse_math=False)
    return _save(figure, path)


def heat_map(path: Path, matrix: np.ndarray, groups: Mapping[str, int], label: str, title: str = "") -> Path:
    """Draw a square matrix whose rows and columns belong to groups that follow one another.

    Args:
        path: The PNG.
        matrix: (N, N); values that are not finite are blank.
        groups: {name: number of rows}, together N; lines divide them.
        label: What the values are, beside the colour bar.
        title: Title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.2), layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(matrix, cmap="viridis", interpolation="nearest")
    bar = figure.colorbar(shown, ax=axes, label=label, shrink=0.9)
    bar.outline.set_visible(False)
    ends = np.cumsum(list(groups.values()))
    for end in ends[:-1] - 0.5:
        axes.axhline(end, color="white", linewidth=0.6)
        axes.axvline(end, color="white", linewidth=0.6)
    centres = ends - (np.array(list(groups.values())) + 1) / 2
    names = [name[:_LONGEST_LABEL] for name in groups]
    axes.set_xticks(centres, names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(centres, names, fontsize=7, parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=11, parse_math=False)
    return _save(figure, path)


def _figure(xlabel: str, ylabel: str, title: str, height: float = 4.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=11)
    axes.grid(visible=True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Any, entries: Mapping[str, Any]) -> None:
    if entries:
        axes.legend(frameon=False, fontsize=9)


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float).ravel()
    return values[np.isfinite(values)]


def _save(figure: Any, path: Path) -> Path:
    path = Path(path)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120)
    return path
