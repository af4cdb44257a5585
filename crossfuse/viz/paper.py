"""Maps and rows as figures for print: Matplotlib, saved as PDF, SVG or PNG.

Figures are made without pyplot, so that several users can draw at once. Text falls back glyph by
glyph to a font with Chinese characters where one is installed.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Geometry, ImageGrid, Joined, Regions
from crossfuse.trace import AttentionMap
from crossfuse.viz.colours import palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["pdf", "svg", "png"]
FAMILIES = (
    "Source Sans 3",
    "Noto Sans",
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
)
UNITS = {
    "attention": "attention weight (share of the row)",
    "grouped": "attention mass (share of the row)",
    "relevance": "relevance",
    "similarity": "similarity",
}
MOST_LABELS = 60
MOST_BARS = 30


@cache
def families() -> tuple[str, ...]:
    """Those of ``FAMILIES`` that are installed, in their order; DejaVu Sans always is."""
    from matplotlib import font_manager

    known = {font.name for font in font_manager.fontManager.ttflist}
    return tuple(name for name in FAMILIES if name in known)


def row_figure(
    entry: AttentionMap,
    geometries: Mapping[str, Geometry],
    item: int,
    *,
    reading: Literal["row", "column"] = "row",
    head: int | None = None,
    image: np.ndarray | None = None,
    part: str | None = None,
    title: str = "",
    limit: float | None = None,
) -> Figure:
    """One row (where ``item`` looks) or column (who looks at it) over its geometry.

    ``image``: (H, W, 3) uint8 under an image grid or regions. ``part`` picks a part of a Joined
    geometry. ``head`` None is the mean of the heads. ``limit`` is the end of the colour scale;
    by default the largest weight shown.

    Raises:
        CrossfuseError: the map does not hold that row.
    """
    if reading == "row":
        weights = entry.row(item, head)
        if weights is None:
            raise CrossfuseError(
                "Map {id!r} does not hold the row of item {item}.", id=entry.id, item=item
            )
        shown, asked = geometries[entry.key], geometries[entry.query].labels[item]
    else:
        heads = slice(None) if head is None else slice(head, head + 1)
        chosen = entry.weights[heads, :, item]
        weights = np.full(len(geometries[entry.query]), np.nan, dtype=np.float32)
        held = np.arange(len(weights)) if entry.rows is None else entry.rows
        weights[held] = chosen.astype(np.float32).mean(axis=0)
        shown, asked = geometries[entry.query], geometries[entry.key].labels[item]
    if part is not None and isinstance(shown, Joined):
        weights = weights[shown.span(part)]
        shown = shown.parts[shown.part_names.index(part)]
    figure, axes = _figure(6.0, _height(shown))
    norm = _norm(weights, limit)
    if isinstance(shown, ImageGrid):
        _draw_grid(axes, shown, weights, image, norm)
    elif isinstance(shown, Regions):
        _draw_regions(axes, shown, weights, image, norm)
    else:
        _draw_bars(axes, shown, weights, norm)
    uniform = 1 / entry.weights.shape[2]
    _colour_bar(figure, axes, norm, entry, uniform)
    verb = "looks at" if reading == "row" else "is looked at by"
    _title(axes, title or f"{asked} {verb}", f"{entry.id}, {_head_name(entry, head)}")
    return figure


def matrix_figure(
    entry: AttentionMap,
    geometries: Mapping[str, Geometry],
    *,
    head: int | None = None,
    title: str = "",
) -> Figure:
    """The whole map as a heat map: rows ask, columns are asked."""
    values = entry.weights.astype(np.float32)
    values = values.mean(axis=0) if head is None else values[head]
    rows, columns = values.shape
    figure, axes = _figure(6.4, float(np.clip(6.4 * rows / columns, 2.4, 8.0)))
    norm = _norm(values, None)
    axes.imshow(values, cmap=_colours(norm), norm=norm, aspect="auto", interpolation="nearest")
    held = range(rows) if entry.rows is None else entry.rows.tolist()
    row_labels = [geometries[entry.query].labels[i] for i in held]
    _labels(axes, "y", row_labels)
    _labels(axes, "x", list(geometries[entry.key].labels))
    axes.set_ylabel("query", fontfamily=list(families()))
    axes.set_xlabel("key", fontfamily=list(families()))
    _colour_bar(figure, axes, norm, entry, 1 / columns)
    _title(axes, title or entry.id, _head_name(entry, head))
    return figure


def to_bytes(figure: Figure, form: Format, *, dpi: int = 300) -> bytes:
    """The figure as a file. SVG and PDF carry their letters as outlines or embedded fonts."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=dpi, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _height(shown: Geometry) -> float:
    if isinstance(shown, ImageGrid | Regions):
        width, height = shown.image_size
        return float(np.clip(5.2 * height / width + 0.6, 2.0, 9.0))
    return 0.9 + 0.26 * min(len(shown), MOST_BARS)


def _norm(weights: np.ndarray, limit: float | None) -> Any:
    from matplotlib.colors import Normalize

    finite = weights[np.isfinite(weights)]
    top = limit if limit is not None else float(np.abs(finite).max()) if finite.size else 1.0
    low = -top if finite.size and finite.min() < 0 else 0.0
    return Normalize(low, top or 1.0, clip=True)


def _colours(norm: Any) -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap(palette("diverging" if norm.vmin < 0 else "sequential", "light") / 255)


def _photo(axes: Axes, image: np.ndarray | None, size: tuple[int, int]) -> None:
    width, height = size
    if image is not None:
        grey = np.asarray(image, dtype=np.float32).mean(axis=-1) / 255
        axes.imshow(0.42 + 0.58 * grey, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)


def _draw_grid(
    axes: Axes, grid: ImageGrid, weights: np.ndarray, image: np.ndarray | None, norm: Any
) -> None:
    _photo(axes, image, grid.image_size)
    width, height = grid.cell
    left, top = grid.centres[0] - np.array([width, height]) / 2
    extent = (left, left + width * grid.columns, top + height * grid.rows, top)
    values = weights.reshape(grid.rows, grid.columns)
    strength = np.nan_to_num(_strength(values, norm))
    alpha = 1.0 if image is None else np.clip(0.08 + 0.84 * strength**0.75, 0, 1)
    axes.imshow(
        values, cmap=_colours(norm), norm=norm, alpha=alpha, extent=extent, interpolation="nearest"
    )
    axes.set(xlim=(0, grid.image_size[0]), ylim=(grid.image_size[1], 0))


def _draw_regions(
    axes: Axes, regions: Regions, weights: np.ndarray, image: np.ndarray | None, norm: Any
) -> None:
    from matplotlib.patches import Rectangle

    _photo(axes, image, regions.image_size)
    strength = np.nan_to_num(_strength(weights, norm))
    for index in np.argsort(strength):
        x0, y0, x1, y1 = regions.boxes[index]
        colour = _colours(norm)(norm(weights[index]))
        axes.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                facecolor=(*colour[:3], 0.05 + 0.6 * strength[index]),
                edgecolor=colour,
                linewidth=0.8 + strength[index],
            )
        )
    best = int(np.argmax(strength))
    x0, y0 = regions.boxes[best, :2]
    axes.text(
        x0, y0, regions.labels[best], color="white", fontsize=9, fontfamily=list(families()),
        va="bottom", bbox={"facecolor": "black", "alpha": 0.8, "pad": 2, "linewidth": 0},
    )  # fmt: skip


def _draw_bars(axes: Axes, shown: Geometry, weights: np.ndarray, norm: Any) -> None:
    """Items without a place: bars in order, or the strongest of them where there are too many."""
    order = np.arange(len(weights))
    if len(order) > MOST_BARS:
        order = np.argsort(-np.nan_to_num(np.abs(weights)))[:MOST_BARS]
    values = weights[order]
    axes.barh(np.arange(len(order)), values, color=_colours(norm)(norm(values)),
              edgecolor="0.4", linewidth=0.5)  # fmt: skip
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_yticks(
        np.arange(len(order)), [shown.labels[i] for i in order], fontfamily=list(families())
    )
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _strength(values: np.ndarray, norm: Any) -> np.ndarray:
    scaled = np.asarray(norm(values), dtype=float)
    return np.abs(2 * scaled - 1) if norm.vmin < 0 else scaled


def _labels(axes: Axes, side: Literal["x", "y"], labels: list[str]) -> None:
    axis = axes.xaxis if side == "x" else axes.yaxis
    if len(labels) > MOST_LABELS:
        return
    axis.set_ticks(
        range(len(labels)), labels, fontfamily=list(families()), fontsize=8,
        rotation=90 if side == "x" else 0,
    )  # fmt: skip
    axis.set_tick_params(length=0)


def _colour_bar(figure: Figure, axes: Axes, norm: Any, entry: AttentionMap, uniform: float) -> None:
    from matplotlib.cm import ScalarMappable

    bar = figure.colorbar(
        ScalarMappable(norm, _colours(norm)), ax=axes, fraction=0.04, pad=0.02, aspect=30
    )
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=6)
    bar.set_label(UNITS.get(entry.kind, entry.kind), fontfamily=list(families()))
    if entry.kind in ("attention", "grouped") and uniform < norm.vmax:
        bar.ax.axhline(uniform, color="black", linewidth=1.2)
        bar.ax.text(
            -0.35, uniform, f"1/{round(1 / uniform)}", ha="right", va="center", fontsize=8,
            transform=bar.ax.get_yaxis_transform(),
        )  # fmt: skip


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontfamily=list(families()), pad=18)
    axes.text(
        0, 1.0, subtitle, transform=axes.transAxes, fontsize=8.5, color="0.35", va="bottom",
        fontfamily=list(families()),
    )  # fmt: skip


def _head_name(entry: AttentionMap, head: int | None) -> str:
    return "mean of heads" if head is None else entry.heads[head]
