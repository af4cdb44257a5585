"""The linked view, the component that every page shows its maps with."""

from crossfuse.ui.linked_view.panels import (
    ImageGridPanel,
    MatrixPanel,
    OverviewPanel,
    Panel,
    RegionsPanel,
    WordsPanel,
    encode_photo,
)
from crossfuse.ui.linked_view.print_figures import print_figures
from crossfuse.ui.linked_view.view import Selection, linked_view, prepare_view

__all__ = [
    "ImageGridPanel",
    "MatrixPanel",
    "OverviewPanel",
    "Panel",
    "RegionsPanel",
    "Selection",
    "WordsPanel",
    "encode_photo",
    "linked_view",
    "prepare_view",
    "print_figures",
]
