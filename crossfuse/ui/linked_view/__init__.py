"""The linked view, the component that every page shows its maps with."""

from crossfuse.ui.linked_view.panels import (
    ImageGridPanel,
    MatrixPanel,
    Panel,
    RegionsPanel,
    WordsPanel,
    encode_photo,
)
from crossfuse.ui.linked_view.view import Selection, linked_view

__all__ = [
    "ImageGridPanel",
    "MatrixPanel",
    "Panel",
    "RegionsPanel",
    "Selection",
    "WordsPanel",
    "encode_photo",
    "linked_view",
]
