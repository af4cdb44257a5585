"""Two photographs for a chapter: chosen samples or uploads, and what is done to the second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import streamlit as st

from crossfuse.data.images import read_image, sample_photo, sample_photos
from crossfuse.explain.controls import blank, drawing, shuffle_tiles
from crossfuse.ui.shell import upload_files
from crossfuse.ui.state import choose
from crossfuse.ui.text import t

UPLOAD = "upload"
TYPES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif")
LIMIT_MB = 100
TILE_SHARE = 6  # tiles along the shorter side of a shuffled photograph


@dataclass(frozen=True)
class Chosen:
    """A sample's name or the bytes of an upload, as the pipeline takes it."""

    source: str | bytes

    def pixels(self) -> np.ndarray:
        """(H, W, 3) uint8, upright.

        Raises:
            CrossfuseError: an upload that cannot be read.
        """
        if isinstance(self.source, str):
            return sample_photo(self.source).pixels
        return read_image(self.source).pixels

    def treated(self, treatment: str) -> str | bytes | np.ndarray:
        """What to send: the photograph as it is, ``"shuffle"``d in tiles, ``"blank"``, or turned
        into a ``"drawing"``."""
        if treatment == "shuffle":
            pixels = self.pixels()
            return shuffle_tiles(pixels, max(1, min(pixels.shape[:2]) // TILE_SHARE))
        if treatment == "blank":
            return blank(self.pixels())
        if treatment == "drawing":
            return drawing(self.pixels())
        return self.source


def choose_photo(key: str, label: str, default: str) -> Chosen:
    """A select box of samples and "your own photograph", bound to ``?key=``."""
    names = [*sample_photos(), UPLOAD]
    name = choose(
        label,
        names,
        key=key,
        default=default,
        format_func=lambda option: t(f"primer.photo_{option}"),
        style="select",
    )
    if name != UPLOAD:
        return Chosen(name)
    files = upload_files(
        t("primer.upload"), key=f"photo_{key}", types=TYPES, limit_mb=LIMIT_MB,
        help=t("primer.upload_help"),
    )  # fmt: skip
    if not files:
        st.caption(t("primer.upload_none", sample=t(f"primer.photo_{default}")))
        return Chosen(default)
    return Chosen(files[0].data)
