"""What a map between two photographs is good for: segmentation, detection and transfer, live."""

from __future__ import annotations

import numpy as np
import streamlit as st

from crossfuse.engine import Result
from crossfuse.errors import CrossfuseError
from crossfuse.geometry import ImageGrid
from crossfuse.models import feature_map_uses as uses
from crossfuse.trace import Trace
from crossfuse.ui.primer.figures import uses_table
from crossfuse.ui.shell import show_error
from crossfuse.ui.text import t
from crossfuse.viz.blocks import frame_box, tint_cells

EXEMPLAR = ((36, 50), (18, 36))  # per cent of the asked photograph: a face, in the default one


def draw(result: Result, trace: Trace, stride: int) -> None:
    """Segmentation, detection and colour transfer: each one product with the map."""
    st.subheader(t("primer.uses"), anchor="uses")
    st.markdown(t("primer.uses_text"))
    entry, back = (entry for entry in trace if entry.stage == f"stride {stride}")
    asking, asked = trace.geometries[entry.query], trace.geometries[entry.key]
    assert isinstance(asking, ImageGrid)
    assert isinstance(asked, ImageGrid)
    weights = entry.weights.astype(np.float32).mean(axis=0)
    returned = back.weights.astype(np.float32).mean(axis=0)
    photo_a, photo_b = result.outputs["photo_a"], result.outputs["photo_b"]
    left, right, _ = st.columns([3, 3, 4], gap="medium")
    with left:
        across = st.slider(
            t("primer.uses_across"), 0, 100, EXEMPLAR[0], 1, key="across", bind="query-params",
            format="%d %%",
        )  # fmt: skip
    with right:
        down = st.slider(
            t("primer.uses_down"), 0, 100, EXEMPLAR[1], 1, key="down", bind="query-params",
            format="%d %%",
        )  # fmt: skip
    width, height = asked.image_size
    box = (
        across[0] / 100 * width, down[0] / 100 * height,
        across[1] / 100 * width, down[1] / 100 * height,
    )  # fmt: skip
    try:
        exemplar = uses.cells_in_box(asked, box)
    except CrossfuseError as error:
        show_error(error)
        return
    found = uses.locate(weights, asking, exemplar)
    pictures = [
        (frame_box(photo_b, box, asked.image_size), "uses_marked"),
        (tint_cells(photo_a, asking, uses.propagate_mask(weights, exemplar)), "uses_segment"),
        (frame_box(photo_a, found.box, asking.image_size), "uses_detect"),
        (uses.transfer_colour(returned, asked, asking, photo_b, photo_a), "uses_transfer"),
    ]
    for column, (picture, key) in zip(st.columns(4, gap="small"), pictures, strict=True):
        column.image(picture, width="stretch")
        fills = {"share": f"{100 * found.peak:.0f}"} if key == "uses_detect" else {}
        column.markdown(t(f"primer.{key}", **fills))
    st.latex(
        rf"\underset{{{len(asking)}}}{{\text{{{t('primer.uses_result')}}}}} = "
        rf"\underset{{{len(asking)} \times {len(asked)}}}{{A}}\;"
        rf"\underset{{{len(asked)}}}{{\text{{{t('primer.uses_known')}}}}}"
    )
    st.caption(t("primer.uses_limits"))
    uses_table()
