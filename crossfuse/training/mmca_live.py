"""Features of MMCA made on the spot, by the encoders and in the way that the page uses them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crossfuse.data.captions import PER_IMAGE, CaptionedPhoto, pack_images
from crossfuse.encoders.regions import KINDS, load_region_encoder
from crossfuse.encoders.text import MiniLM, Sentence, pad_states
from crossfuse.encoders.tuned import load_words
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCAConfig


@dataclass(frozen=True)
class LiveFeatures:
    """Features of a split, made on the spot by the encoders that the page uses."""

    sets: dict[str, tuple[Tensor, Tensor]]
    found: dict[str, list[np.ndarray]]
    sentences: list[Sentence]
    offset: np.ndarray

    def regions(self, rows: np.ndarray, kind: str) -> tuple[Tensor, Tensor]:
        features, boxes = self.sets[kind]
        return features[rows], boxes[rows]

    def words(self, captions: np.ndarray) -> tuple[Tensor, Tensor]:
        return pad_states([self.sentences[c] for c in captions])

    def boxes(self, kind: str) -> list[np.ndarray]:
        return self.found[kind]

    def ranges(self, caption: int) -> list[tuple[int, int]]:
        """Character range of each word piece of a caption."""
        return self.sentences[caption].ranges


def encode_photos(
    data: Path,
    photos: Sequence[CaptionedPhoto],
    kind: str,
    config: MMCAConfig | None = None,
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda _: None,
) -> LiveFeatures:
    """Run the model's encoders over a split.

    Raises:
        CrossfuseError: the archive lacks some of the photographs.
    """
    config = config or MMCAConfig.small()
    encoder = load_region_encoder(device=device, tuned=config.tuned, scene=config.scene_size > 0)
    text = load_words(config.words, config.tuned)
    if isinstance(text, MiniLM):
        text.to(device)
    raw: dict[int, bytes] = dict(pack_images(data, photos))
    missing = [photo.file for row, photo in enumerate(photos) if row not in raw]
    if missing:
        raise CrossfuseError(f"The archive lacks {len(missing)} photographs, first {missing[0]}.")
    features, padded = [], []
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for start in range(0, len(photos), 8):
        some = range(start, min(start + 8, len(photos)))
        pictures = [np.asarray(Image.open(io.BytesIO(raw[r])).convert("RGB")) for r in some]
        for name, sets in encoder.encode_kinds(pictures, KINDS).items():
            for regions in sets:
                found[name].append(regions.boxes.numpy())
                if name == kind:
                    short = 36 - len(regions.boxes)
                    features.append(_padded(regions.features, short))
                    padded.append(_padded(regions.boxes, short))
        if start % 200 == 0:
            say(f"photographs: {start} of {len(photos)}")
    sentences: list[Sentence] = []
    texts = [caption.text for photo in photos for caption in photo.captions[:PER_IMAGE]]
    for start in range(0, len(texts), 50):
        sentences += text.encode(texts[start : start + 50])
    offset = np.concatenate([[0], np.cumsum([len(s.states) for s in sentences])])
    sets_of = {kind: (torch.stack(features), torch.stack(padded))}
    return LiveFeatures(sets_of, found, sentences, offset)


def _padded(values: Tensor, short: int) -> Tensor:
    """Repeat the last region where fewer than 36 were proposed."""
    return torch.cat([values, values[-1:].expand(short, -1)]) if short else values
