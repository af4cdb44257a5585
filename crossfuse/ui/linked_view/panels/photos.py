"""A film strip of photographs, each with a weight of its own and one for each of its cells."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from crossfuse.ui.linked_view.panels.base import Panel


@dataclass(frozen=True, eq=False)
class PhotosPanel(Panel):
    """Draws a ``Joined`` of a ``ViewStack`` and, if there are any, one ``ImageGrid`` a photograph.

    ``images``: the photographs in the order of the stack, (H, W, 3) uint8.
    """

    kind: ClassVar[str] = "photos"

    images: Sequence[np.ndarray] = ()

    def options(self) -> dict[str, Any]:
        return {"sizes": [[image.shape[1], image.shape[0]] for image in self.images]}

    def arrays(self) -> dict[str, np.ndarray]:
        files = [_jpeg(image) for image in self.images]
        ends = np.cumsum([0, *(len(file) for file in files)])
        return {
            "files": np.frombuffer(b"".join(files), dtype=np.uint8),
            "ends": ends.astype(np.int32),
        }


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=86)
    return buffer.getvalue()
