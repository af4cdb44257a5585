"""The published encoders after a training went on into them: what changed, and how it is put back.

A matching model may be trained through the upper part of EfficientNet-Lite2 (everything after
stride 8; depthwise filters stay as published) and the last layers of MiniLM. Only those weights are
stored. The photograph still passes the lower part once: the published upper part makes the maps in
which the region proposer finds boxes, the tuned one the maps from which their features are pooled.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from crossfuse.encoders.efficientnet_lite import EfficientNetLite
from crossfuse.encoders.text import LAYERS, Bert, MiniLM, TextEncoder, load_text_encoder
from crossfuse.errors import CrossfuseError
from crossfuse.weights import load_weights

SPLIT = 8
TEXT_LAYERS = 2


class ImageTail(nn.Module):
    """A copy of EfficientNet-Lite after stride 8, as parameters."""

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        first = network.ends[SPLIT]
        self.blocks = copy.deepcopy(network.blocks[first:])
        self.head = copy.deepcopy(network.head)
        self.middle = network.ends[16] - first
        for layer in self.modules():
            for name in [n for n in layer._buffers if n in ("weight", "bias")]:
                value = layer._buffers.pop(name)
                assert value is not None
                layer.register_parameter(name, nn.Parameter(value))

    def forward(self, fine: Tensor) -> dict[int, Tensor]:
        """(B, C, h, w) at stride 8 -> stride -> map, at 8, 16 and 32."""
        maps, x = {SPLIT: fine}, fine
        for index, block in enumerate(self.blocks, start=1):
            x = block(x)
            if index == self.middle:
                maps[16] = x
        return {**maps, 32: self.head(x)}

    def tunable(self) -> Iterator[nn.Parameter]:
        """All parameters but the depthwise filters: few, and slow to differentiate."""
        return (p for p in self.parameters() if not (p.dim() == 4 and p.shape[1] == 1))


class TunedEncoders(nn.Module):
    """Both encoders with weights of their own: ``image`` after stride 8, ``text`` a whole BERT."""

    def __init__(self, network: EfficientNetLite, bert: Bert, text_layers: int = TEXT_LAYERS):
        super().__init__()
        self.image = ImageTail(network)
        self.text = copy.deepcopy(bert)
        self.tuned = tuple(f"encoder/layer/{i}/" for i in range(LAYERS - text_layers, LAYERS))
        self.requires_grad_(False)

    def text_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the last layers by their name in the published file."""
        return {
            name.replace("/", "."): value
            for name, value in self.text.table.items()
            if name.startswith(self.tuned)
        }

    def forget_words(self) -> None:
        """Random weights in the whole text encoder (N(0, 0.02), as BERT starts), all to be tuned.

        A control: nothing that was learnt from other text is left but the word pieces.
        """
        self.tuned = ("embeddings/", "encoder/")
        with torch.no_grad():
            for name, value in self.text.table.items():
                if "LayerNorm" in name:
                    value.fill_(1.0 if name.endswith("weight") else 0.0)
                elif name.endswith("bias"):
                    value.zero_()
                else:
                    value.normal_(0.0, 0.02)

    def changed(self) -> dict[str, Tensor]:
        """What a weights file holds."""
        image = {f"image.{k}": v for k, v in self.image.state_dict().items()}
        return image | {f"text.{k}": v.data for k, v in self.text_parameters().items()}


def tuned_tail(network: EfficientNetLite, state: Mapping[str, Tensor]) -> ImageTail:
    """The image part of a weights file (see :meth:`TunedEncoders.changed`), frozen.

    Raises:
        CrossfuseError: the file is of another network.
    """
    tail = ImageTail(network)
    own = {k.removeprefix("image."): v for k, v in state.items() if k.startswith("image.")}
    try:
        tail.load_state_dict(own, strict=True)
    except RuntimeError as error:
        raise CrossfuseError(
            "The tuned image encoder does not fit: {error}", error=error
        ) from error
    return tail.requires_grad_(False).eval()


def tuned_minilm(state: Mapping[str, Tensor]) -> MiniLM:
    """MiniLM with the text part of a weights file in place of the published layers.

    Raises:
        CrossfuseError: the file is of another network.
    """
    encoder = MiniLM()
    with torch.no_grad():
        for key, value in state.items():
            if not key.startswith("text."):
                continue
            name = key.removeprefix("text.").replace(".", "/")
            if name not in encoder.bert.table or encoder.bert.table[name].shape != value.shape:
                raise CrossfuseError("The tuned text encoder does not fit MiniLM: {key}.", key=key)
            encoder.bert.table[name].copy_(value)
    return encoder


def load_words(name: str, tuned: str = "") -> TextEncoder:
    """The text encoder ``name``; MiniLM with the layers of the weights ``tuned``, if given."""
    if tuned and name == "minilm":
        return tuned_minilm(load_weights(tuned)[0])
    return load_text_encoder(name)
