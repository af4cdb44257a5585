"""The linked views of a pair: photograph, regions and words; all heads; what the encoder saw."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from crossfuse.data.images import Photo
from crossfuse.engine.messages import Result
from crossfuse.geometry import Geometry, Joined, Regions
from crossfuse.trace import AttentionMap, Trace
from crossfuse.ui.linked_view import Selection, linked_view
from crossfuse.ui.linked_view.panels import (
    ImageGridPanel,
    MatrixPanel,
    OverviewPanel,
    RegionsPanel,
    WordsPanel,
)
from crossfuse.ui.shell import downloads
from crossfuse.ui.text import t

PLAIN = {"a", "an", "the", "of", "in", "on", "at", "with", "and", "is", "are", "to", "for", "by"}
THUMBNAIL = 320


@dataclass(frozen=True, eq=False)
class CoveragePanel(ImageGridPanel):
    """The map laid over the photograph, on a colour scale of its own (its numbers add up)."""

    def options(self) -> dict[str, Any]:
        return {"own_scale": True}


@dataclass(frozen=True, eq=False)
class WeightedRegionsPanel(RegionsPanel):
    """Regions on a colour scale of their own: one word often outweighs all 36 of them."""

    def options(self) -> dict[str, Any]:
        return {"own_scale": True}


def draw(result: Result, photo: Photo, word: str = "") -> None:
    """Point at a word: the photograph lights up. Point at a region: the words answer.

    ``word`` is shown first, if the sentence has it.
    """
    trace = _trace(result)
    panels = [
        WordsPanel("tokens", part="words", title=t("mmca.panel_words")),
        CoveragePanel(
            "photo", image=photo.pixels, title=t("mmca.panel_photo"), fixed={"stage": "painted"}
        ),
        WeightedRegionsPanel(
            "tokens", part="regions", image=photo.pixels, title=t("mmca.panel_regions")
        ),
    ]
    linked_view(
        "mmca_view",
        panels,
        _maps(trace, ("cross", "painted")),
        _geometries(trace, ("tokens", "photo")),
        title=t("mmca.view"),
        layout=[[0], [1, 2]],
        height=400,
        selection=Selection("tokens", first_word(trace, word)),
        settings={"stage": "cross", "scale": "row", "conditional": True, "smooth": True},
        texts=stage_texts(),
        model=trace.model,
        trace_meta=trace.meta,
        on_select="ignore",
    )
    st.caption(t("mmca.view_note", across=across_note(result, trace)))
    downloads(
        {
            t("mmca.trace"): ("mmca_trace.npz", "application/octet-stream", trace.to_bytes),
            t("mmca.words_csv"): ("mmca_words_to_regions.csv", "text/csv", lambda: table(trace)),
            t("mmca.regions_npz"): (
                "mmca_regions.npz",
                "application/octet-stream",
                lambda: region_file(result, trace),
            ),
        },
        key="mmca",
    )


def heads(result: Result, photo: Photo, word: str = "") -> None:
    """Every head as a small picture of its own, and the joint map of all four blocks."""
    trace = _trace(result)
    small = thumbnail(photo)
    cross = next(entry for entry in trace.maps if entry.stage == "cross")
    count = len(cross.heads)
    panels = [
        WordsPanel("tokens", part="words", title=t("mmca.panel_words")),
        *(
            CoveragePanel(
                "photo",
                image=small,
                title=t("mmca.head", number=head + 1),
                fixed={"stage": "painted", "head": head},
            )
            for head in range(count)
        ),
        OverviewPanel(title=t("mmca.panel_overview"), fixed={"stage": "painted"}),
        MatrixPanel(title=t("mmca.panel_joint"), fixed={"stage": "cross"}),
    ]
    lines = [list(range(1 + i, min(1 + i + 4, 1 + count))) for i in range(0, count, 4)]
    linked_view(
        "mmca_heads",
        panels,
        _maps(trace, ("cross", "painted")),
        _geometries(trace, ("tokens", "photo")),
        title=t("mmca.section_heads"),
        layout=[[0], *lines, [1 + count, 2 + count]],
        height=240,
        selection=Selection("tokens", first_word(trace, word)),
        settings={"stage": "cross", "scale": "row", "conditional": True, "smooth": True},
        texts=stage_texts(),
        on_select="ignore",
    )
    st.dataframe(block_table(cross, trace), hide_index=True, width="content")
    st.caption(t("mmca.blocks_note"))


def regions(result: Result, photo: Photo) -> None:
    """What the encoder saw: the regions, how they look at each other, and their shares."""
    trace = _trace(result)
    linked_view(
        "mmca_regions",
        [
            RegionsPanel("regions", image=photo.pixels, title=t("mmca.panel_asks"), role="query"),
            RegionsPanel("regions", image=photo.pixels, title=t("mmca.panel_asked"), role="key"),
        ],
        _maps(trace, ("self",)),
        _geometries(trace, ("regions",)),
        title=t("mmca.section_regions"),
        height=380,
        texts=stage_texts(),
        on_select="ignore",
    )
    shares = np.asarray(result.outputs["region_shares"])
    boxes = trace.geometries["regions"]
    order = np.argsort(-shares)
    st.dataframe(
        {
            t("mmca.region"): [boxes.labels[i] for i in order],
            t("mmca.share"): [float(shares[i]) for i in order],
            t("mmca.to_words"): [float(result.outputs["looking_across"][i]) for i in order],
        },
        hide_index=True,
        width="content",
        height=260,
    )
    st.caption(t("mmca.share_note", total=f"{float(shares.sum()):.3f}"))


def first_word(trace: Trace, word: str = "") -> int:
    """Position of ``word``, else of the first that is no function word and no special token."""
    tokens = trace.geometries["tokens"]
    assert isinstance(tokens, Joined)
    span = tokens.span("words")
    words = tokens.labels[span]
    if word in words:
        return span.start + words.index(word)
    content = [
        i
        for i, word in enumerate(words)
        if word.isalpha() and word.lower() not in PLAIN and not word.startswith("[")
    ]
    return span.start + (content[0] if content else 0)


def across_note(result: Result, trace: Trace) -> str:
    """Mean share of the words' attention that goes to regions, in percent."""
    tokens = trace.geometries["tokens"]
    assert isinstance(tokens, Joined)
    words = tokens.span("words")
    return f"{100 * float(np.mean(result.outputs['looking_across'][words])):.0f}"


def block_table(cross: AttentionMap, trace: Trace) -> dict[str, list[str]]:
    """Mean mass that each modality gives to each, head by head."""
    tokens = trace.geometries["tokens"]
    assert isinstance(tokens, Joined)
    parts = {name: tokens.span(name) for name in ("regions", "words")}
    columns: dict[str, list[str]] = {
        t("mmca.block_head"): [str(i + 1) for i in range(len(cross.heads))]
    }
    for query, rows in parts.items():
        for key, keys in parts.items():
            mass = cross.weights[:, rows, keys].sum(-1).mean(-1)
            name = t("mmca.block", query=t(f"mmca.part_{query}"), key=t(f"mmca.part_{key}"))
            columns[name] = [f"{100 * value:.0f} %" for value in mass]
    return columns


def table(trace: Trace) -> bytes:
    """Head mean of word -> region weights, a line a word, as CSV."""
    tokens = trace.geometries["tokens"]
    assert isinstance(tokens, Joined)
    cross = next(entry for entry in trace.maps if entry.stage == "cross")
    regions, words = tokens.span("regions"), tokens.span("words")
    block = cross.weights[:, words, regions].mean(0)
    lines = [",".join(["word", *(name.replace(" ", "_") for name in tokens.labels[regions])])]
    for word, row in zip(tokens.labels[words], block, strict=True):
        quoted = '"' + word.replace('"', '""').lstrip("=+-@") + '"'
        lines.append(",".join([quoted, *(f"{value:.6g}" for value in row)]))
    return ("\n".join(lines) + "\n").encode()


def region_file(result: Result, trace: Trace) -> bytes:
    """Features and boxes of the regions, in the layout that the page reads."""
    regions = trace.geometries["regions"]
    assert isinstance(regions, Regions)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        features=np.asarray(result.outputs["region_features"]),
        boxes=regions.boxes,
        image_size=np.array(regions.image_size),
    )
    return buffer.getvalue()


def stage_texts() -> dict[str, str]:
    """Names of stages and directions of this model, for the view."""
    return {
        "stage.cross": t("mmca.stage_cross"),
        "stage.painted": t("mmca.stage_painted"),
        "stage.self": t("mmca.stage_self"),
        "direction.tokens→tokens": t("mmca.direction_tokens"),
        "direction.tokens→photo": t("mmca.direction_photo"),
        "direction.regions→regions": t("mmca.direction_regions"),
    }


def thumbnail(photo: Photo) -> np.ndarray:
    picture = Image.fromarray(photo.pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return np.asarray(picture)


def _trace(result: Result) -> Trace:
    assert result.trace is not None
    return result.trace


def _maps(trace: Trace, stages: Sequence[str]) -> list[AttentionMap]:
    return [entry for entry in trace.maps if entry.stage in stages]


def _geometries(trace: Trace, names: Sequence[str]) -> dict[str, Geometry]:
    return {name: trace.geometries[name] for name in names}
