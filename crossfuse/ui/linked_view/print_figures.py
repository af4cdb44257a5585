"""Downloads of the pinned row and of the whole map as figures for print."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from crossfuse.geometry import Geometry, Joined
from crossfuse.trace import AttentionMap
from crossfuse.ui.linked_view.view import Selection
from crossfuse.ui.text import t
from crossfuse.viz import paper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: tuple[paper.Format, ...] = ("pdf", "svg", "png")


def print_figures(
    key: str,
    maps: Sequence[AttentionMap],
    geometries: Mapping[str, Geometry],
    selection: Selection | None,
    *,
    images: Mapping[str, np.ndarray] | None = None,
) -> None:
    """A button that opens downloads (PDF, SVG, PNG) of what is pinned and of its whole map.

    ``images``: the photograph, (H, W, 3) uint8, by the name of its geometry, or by
    ``"geometry/part"`` for a part of a Joined one. Figures are drawn when they are asked for.
    """
    entry = _map_of(maps, selection)
    if entry is None:
        return
    head = selection.head if selection and selection.head is not None else -1
    chosen = None if head < 0 or head >= len(entry.heads) else head
    with st.popover(t("linked_view.print"), icon=":material/print:"):
        if selection and not selection.missing and selection.map:
            for part, name, image in _targets(entry, geometries, selection, images or {}):
                draw = partial(
                    paper.row_figure,
                    entry,
                    geometries,
                    selection.item,
                    reading="column" if selection.reading == "column" else "row",
                    head=chosen,
                    image=image,
                    part=part,
                )
                _buttons(f"{key}-{name}", t("linked_view.print_row", name=name), draw)
        else:
            st.caption(t("linked_view.print_pin"))
        whole = partial(paper.matrix_figure, entry, geometries, head=chosen)
        _buttons(f"{key}-map", t("linked_view.print_map"), whole)


def _map_of(maps: Sequence[AttentionMap], selection: Selection | None) -> AttentionMap | None:
    wanted = selection.map if selection else None
    return next((entry for entry in maps if entry.id == wanted), maps[0] if maps else None)


def _targets(
    entry: AttentionMap,
    geometries: Mapping[str, Geometry],
    selection: Selection,
    images: Mapping[str, np.ndarray],
) -> list[tuple[str | None, str, np.ndarray | None]]:
    """(part, name, image) of each geometry or part that the row or column lies on."""
    name = entry.query if selection.reading == "column" else entry.key
    geometry = geometries[name]
    if not isinstance(geometry, Joined):
        return [(None, name, images.get(name))]
    return [(part, part, images.get(f"{name}/{part}")) for part in geometry.part_names]


def _buttons(key: str, label: str, draw: Callable[[], Figure]) -> None:
    st.markdown(f"**{label}**")
    for column, form in zip(st.columns(len(FORMATS)), FORMATS, strict=True):
        column.download_button(
            form.upper(),
            data=partial(_file, draw, form),
            file_name=f"{key}.{form}",
            key=f"print-{key}-{form}",
            on_click="ignore",
            width="stretch",
        )


def _file(draw: Callable[[], Figure], form: paper.Format) -> bytes:
    return paper.to_bytes(draw(), form)
