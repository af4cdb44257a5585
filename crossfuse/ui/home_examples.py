"""Small live examples for the home page: real maps, computed beforehand and kept small.

``assets/home/<page>.npz`` is a trace that the page's own pipeline computed
(``crossfuse explain ... --out``, reduced by ``python -m crossfuse.ui.home_examples``), and
``<page>_<geometry>.jpg`` the photograph below a geometry. The primer's example needs no file.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from crossfuse.geometry import Geometry, ImageGrid, Regions, Words
from crossfuse.models import worked_example as worked
from crossfuse.trace import AttentionMap, Trace, load
from crossfuse.ui.linked_view import (
    ImageGridPanel,
    Panel,
    RegionsPanel,
    Selection,
    WordsPanel,
    linked_view,
)
from crossfuse.ui.text import t

HOME = Path(__file__).resolve().parents[2] / "assets" / "home"


def has_example(name: str) -> bool:
    """Whether there is something live to show for a page."""
    return name == "primer" or (HOME / f"{name}.npz").is_file()


def show_example(name: str, *, height: int = 240) -> None:
    """Draw the linked view of a page's example."""
    trace, images, first = _by_hand() if name == "primer" else _stored(name)
    linked_view(
        f"home_{name}",
        [_panel(key, geometry, images.get(key)) for key, geometry in trace.geometries.items()],
        trace.maps,
        trace.geometries,
        height=height,
        selection=first,
        settings={"opacity": 0.4} if name == "primer" else None,
        compact=True,
        on_select="ignore",
        model=trace.model,
    )


def _panel(name: str, geometry: Geometry, image: np.ndarray | None) -> Panel:
    if isinstance(geometry, Regions):
        return RegionsPanel(name, image=image)
    if isinstance(geometry, ImageGrid):
        return ImageGridPanel(name, image=image)
    return WordsPanel(name)


def _by_hand() -> tuple[Trace, dict[str, np.ndarray], Selection]:
    example = worked.WorkedExample()
    image = worked.picture(example.cells)
    words = Words(tuple(t(f"primer.word_{name}") for name in worked.WORDS))
    names = tuple(t(f"primer.cell_{name}") for name in worked.CELLS)
    cells = Regions(worked.boxes(), (image.shape[1], image.shape[0]), names)
    weights = worked.run(example).weights
    trace = Trace(
        "worked_example",
        {"words": words, "cells": cells},
        (AttentionMap("example", 0, "words→cells", "words", "cells", weights),),
    )
    return trace, {"cells": image}, Selection("words", worked.WORDS.index("ball"))


@lru_cache(maxsize=16)
def _stored(name: str) -> tuple[Trace, dict[str, np.ndarray], Selection | None]:
    from PIL import Image

    trace = load(HOME / f"{name}.npz")
    images = {}
    for key in trace.geometries:
        path = HOME / f"{name}_{key}.jpg"
        if path.is_file():
            images[key] = np.asarray(Image.open(path).convert("RGB"))
    first = trace.meta.get("first")
    return trace, images, Selection(first[0], int(first[1])) if first else None
