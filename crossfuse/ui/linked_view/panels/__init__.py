"""The panels of a linked view: for each, a dataclass here and a JavaScript module beside it."""

from crossfuse.ui.linked_view.panels.base import Panel, encode_photo
from crossfuse.ui.linked_view.panels.image_grid import ImageGridPanel
from crossfuse.ui.linked_view.panels.matrix import MatrixPanel
from crossfuse.ui.linked_view.panels.overview import OverviewPanel
from crossfuse.ui.linked_view.panels.photos import PhotosPanel
from crossfuse.ui.linked_view.panels.points import PointsPanel
from crossfuse.ui.linked_view.panels.regions import RegionsPanel
from crossfuse.ui.linked_view.panels.scalp import ScalpPanel
from crossfuse.ui.linked_view.panels.time_frequency import TimeFrequencyPanel
from crossfuse.ui.linked_view.panels.turns import TurnsPanel
from crossfuse.ui.linked_view.panels.words import WordsPanel

__all__ = [
    "ImageGridPanel",
    "MatrixPanel",
    "OverviewPanel",
    "Panel",
    "PhotosPanel",
    "PointsPanel",
    "RegionsPanel",
    "ScalpPanel",
    "TimeFrequencyPanel",
    "TurnsPanel",
    "WordsPanel",
    "encode_photo",
]
