"""The linked view: panels joined by attention maps, alive in the browser.

``linked_view`` sends the maps once; hovering, pinning and the choice of stage, layer, head and
direction then need no server. Python hears only of pins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Geometry, Joined
from crossfuse.trace import SCHEMA, AttentionMap
from crossfuse.ui.linked_view.bundle import script
from crossfuse.ui.linked_view.files import address_of
from crossfuse.ui.linked_view.packing import Arrays, pack_geometries, pack_maps, payload
from crossfuse.ui.linked_view.panels.base import Panel
from crossfuse.ui.text import current_language, page_texts


@dataclass(frozen=True)
class Selection:
    """A pinned item. ``item`` counts through the whole geometry, also through a Joined one.

    ``map``: id of the map that answered, ``reading``: whether by its ``"row"`` or ``"column"``;
    ``partner``: the key item of a pinned matrix cell. ``missing``: the map does not hold that row,
    so the page should compute it. The rest are the reader's choices at that moment (``head`` -1 is
    the mean of the heads, ``direction`` ``"all"`` is all of them).
    """

    geometry: str
    item: int
    map: str | None = None
    reading: str | None = None
    partner: int | None = None
    missing: bool = False
    stage: str | None = None
    layer: int | None = None
    direction: str | None = None
    head: int | None = None


def linked_view(
    key: str,
    panels: Sequence[Panel],
    maps: Sequence[AttentionMap],
    geometries: Mapping[str, Geometry],
    *,
    title: str = "",
    layout: Sequence[Sequence[int]] | None = None,
    height: int = 380,
    compact: bool = False,
    selection: Selection | None = None,
    resting: Selection | None = None,
    settings: Mapping[str, str | int | float | bool] | None = None,
    texts: Mapping[str, str] | None = None,
    model: str = "",
    trace_meta: Mapping[str, Any] | None = None,
    on_select: Literal["rerun", "ignore"] | Callable[[], None] = "rerun",
) -> Selection | None:
    """Show panels linked by maps, and return what is pinned (None when nothing is).

    ``geometries`` and ``maps`` are those of a trace. ``layout``: lines of positions in ``panels``;
    all in one line by default (they stack on narrow screens). ``height``: largest height of a
    panel's drawing in CSS pixels. ``compact`` leaves out the menus (small examples). ``selection``
    is shown when it changes, as if the reader had pointed at it; ``resting`` is shown before the
    reader has pointed at anything.
    ``settings``: first choices of the reader, any of ``stage``, ``layer``, ``direction``, ``head``
    (-1: mean), ``scale`` (``"map" | "row" | "clip"``), ``read`` (``"row" | "column"``),
    ``conditional``, ``smooth``, ``opacity``, ``top``. ``texts`` overrides words of the view, e.g.
    ``{"direction.de→psd": "DE asks PSD", "unit_relevance": "..."}``; keys are those of
    ``assets/texts/en/linked_view.md`` and ``"<axis>.<value>"``. ``model`` and ``trace_meta`` go
    into the saved NPZ, which ``crossfuse.trace.load`` reads. ``on_select="ignore"`` keeps pins in
    the browser; a callable is called on each pin before the page runs again.

    Raises:
        CrossfuseError: a panel or map names a geometry that is absent, or the maps are too large.
    """
    used = {entry.query for entry in maps} | {entry.key for entry in maps}
    used |= {name for panel in panels for name in panel.geometries}
    _check(panels, used, geometries)
    geometry_meta, arrays = pack_geometries({name: geometries[name] for name in sorted(used)})
    map_meta, map_arrays = pack_maps(maps)
    arrays |= map_arrays
    meta = {
        "id": key,
        "title": title,
        "file": _file_name(title or key),
        "height": height,
        "compact": compact,
        "layout": [list(line) for line in layout or [range(len(panels))]],
        "panels": [_panel(index, panel, arrays) for index, panel in enumerate(panels)],
        "geometries": geometry_meta,
        "maps": map_meta,
        "settings": dict(settings or {}),
        "texts": {**page_texts("linked_view", current_language()), **(texts or {})},
        "selection": _asked(key, selection),
        "resting": {"geometry": resting.geometry, "item": int(resting.item)} if resting else None,
        "report": on_select != "ignore",
        "schema": SCHEMA,
        "model": model,
        "trace": dict(trace_meta or {}),
    }
    result = _component()(
        key=key,
        data=payload(meta, arrays, lambda array, name: address_of(array, f"{key} {name}")),
        default={"pin": None},
        on_pin_change=on_select if callable(on_select) else lambda: None,
    )
    return _selection(result.pin, selection)


def prepare_view() -> None:
    """Have the browser load the script of the view before there is something to show."""
    _component()(key="_linked_view_ready")


def _component() -> Callable[..., Any]:
    return st.components.v2.component("crossfuse_linked_view", js=script())


def _check(panels: Sequence[Panel], used: set[str], geometries: Mapping[str, Geometry]) -> None:
    absent = sorted(used - set(geometries))
    if absent:
        raise CrossfuseError(
            "The view has no geometry {absent!r}; it has {geometries}.",
            absent=absent[0],
            geometries=", ".join(geometries) or "none",
        )
    for panel in panels:
        for name in panel.geometries if panel.part is not None else ():
            geometry = geometries[name]
            if not isinstance(geometry, Joined):
                raise CrossfuseError(
                    "A panel asks for part {part!r} of {name!r}, which has no parts.",
                    part=panel.part,
                    name=name,
                )
            geometry.span(panel.part or "")


def _panel(index: int, panel: Panel, arrays: Arrays) -> dict[str, Any]:
    own = panel.arrays()
    arrays |= {f"p/{index}/{name}": array for name, array in own.items()}
    return {
        "id": str(index),
        "kind": panel.kind,
        "geometries": list(panel.geometries),
        "title": panel.title,
        "part": panel.part,
        "role": panel.role,
        "fixed": dict(panel.fixed),
        "width": panel.width,
        "options": panel.options(),
        "arrays": list(own),
    }


def _asked(key: str, selection: Selection | None) -> dict[str, Any] | None:
    """What Python wants pinned, with a turn that grows with each new wish.

    A page that hands back what the browser just reported changes nothing, so that the arrays are
    not sent again.
    """
    memory = st.session_state.setdefault(f"_{key}_asked", {"turn": 0, "source": None})
    if selection is None:
        # A view that is drawn afresh does not pin what an earlier one was asked to pin.
        if st.session_state.get(key) is None:
            memory["source"] = None
    else:
        source = {"geometry": selection.geometry, "item": int(selection.item)}
        state = st.session_state.get(key)
        pin = (state.get("pin") if state else None) or {}
        shown = {name: pin.get(name) for name in source}
        if source not in (memory["source"], shown):
            memory.update(turn=memory["turn"] + 1, source=source)
    return dict(memory) if memory["source"] else None


def _selection(pin: Mapping[str, Any] | None, asked: Selection | None) -> Selection | None:
    if pin is None:  # the browser has not reported anything yet
        return asked
    return Selection(**pin) if pin else None


def _file_name(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text).strip("-").lower()[:60] or "linked-view"
