"""What the maps of a multi-view pyramid say together: mass between views, and maps carried back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from crossfuse.attention import LayerMap
from crossfuse.explain.relevance import relevance_rows, weighted_maps
from crossfuse.explain.rollout import Layer, pooling_operator, rollout
from crossfuse.models.mmvit import MapLayout, MMViT, MMViTOutput
from crossfuse.models.pooling_attention import Layout
from crossfuse.trace import AttentionMap


def mass_between_views(maps: Sequence[LayerMap], layouts: dict[str, MapLayout]) -> dict[str, Any]:
    """How much each view looks at each view, for every block where several meet.

    ``mass``: list of (V, V), M[u, v] = mean over the rows of view u, and over heads, of the mass on
    the keys of view v; rows sum to 1. ``base``: list of (V,), the share of keys that are of view v,
    which is what M would be for a model that spreads its attention evenly. The class token counts
    as part of view 1. ``mass_blocks``: the names of the maps.
    """
    found: dict[str, list[Any]] = {"mass": [], "base": [], "mass_blocks": []}
    for entry in maps:
        name = f"{entry.stage}/{entry.layer}/{entry.direction}"
        layout = layouts[name]
        if len(layout.keys) < 2:
            continue
        mean = entry.weights[0].detach().mean(0).cpu().numpy()
        rows = np.cumsum([0, *map(len, layout.queries.values())])
        columns = np.cumsum([0, *map(len, layout.keys.values())])
        mass = [
            [float(mean[r0:r1, c0:c1].sum(1).mean()) for c0, c1 in _pairs(columns)]
            for r0, r1 in _pairs(rows)
        ]
        found["mass"].append(np.array(mass, dtype=np.float32))
        found["base"].append(np.diff(columns).astype(np.float32) / columns[-1])
        found["mass_blocks"].append(name)
    return found


def carried_maps(
    model: MMViT, output: MMViTOutput, target: Tensor, image: tuple[int, int]
) -> list[AttentionMap]:
    """Rollout and gradient-weighted relevance of a logit, over the cells that enter the pyramid.

    The class token's own share says nothing about the picture: it is left out, and the rest is
    given as shares of its sum, so that pictures can be compared.

    ``output`` must come from a forward pass of one picture with gradients and
    ``Want.everything(check=True)``; ``target`` is one of its logits.
    """
    raw = [entry.weights[0].detach().float().mean(0).cpu().numpy() for entry in output.maps]
    weighted = [part[0].cpu().numpy() for part in weighted_maps(target, output.maps)]
    start = decision(model, image)
    layouts = model.view_layouts(image).values()
    cells = np.concatenate([np.arange(len(e)) >= int(e.has_class) for e in layouts])
    result = []
    for kind, maps, carry in (("rollout", raw, rollout), ("relevance", weighted, relevance_rows)):
        row = carry(layers_of(model, maps, image), start)[0]
        row = row[cells] / max(float(row[cells].sum()), 1e-12)
        result.append(
            AttentionMap(
                "all stages", len(model.blocks), kind, "prediction", "cells",
                row[None, None].astype(np.float32), kind="relevance",
            )
        )  # fmt: skip
    return result


def decision(model: MMViT, image: tuple[int, int]) -> np.ndarray:
    """The weight of every token of the last block in what the head reads: (1, tokens)."""
    last = model.stream_layouts(image)[-1]
    if model.config.head == "class_token":
        row = np.zeros(sum(map(len, last.values())))
        row[0] = 1.0
        return row[None]
    parts = []
    for view, layout in last.items():
        cells = layout.grid[0] * layout.grid[1]
        parts.append(np.full(cells, 1.0 / cells))
        if view == 0:
            parts.insert(0, np.ones(1))
    return (np.concatenate(parts) / len(parts))[None]


def layers_of(model: MMViT, maps: Sequence[np.ndarray], image: tuple[int, int]) -> list[Layer]:
    """Every block as one :class:`Layer` over the tokens of all its views, one after another."""
    entries = list(model.layouts(image).values())
    streams = model.stream_layouts(image)
    layers = []
    for index, block in enumerate(model.pyramid):
        inside, outside = streams[index], streams[index + 1]
        column = _starts(inside)
        row = _starts(outside)
        own = [(e, m) for e, m in zip(entries, maps, strict=True) if e.layer == index]
        keys = sum(m.shape[1] for _, m in own)
        attention = np.zeros((sum(map(len, outside.values())), keys))
        pooled = np.zeros((keys, sum(map(len, inside.values()))))
        shortcut = np.zeros((attention.shape[0], pooled.shape[1]))
        first_key = 0
        for entry, matrix in own:
            first_row = 0
            for view, layout in entry.queries.items():
                part = matrix[first_row : first_row + len(layout)]
                place = slice(row[view], row[view] + len(layout))
                attention[place, first_key : first_key + matrix.shape[1]] = part
                stay = slice(column[view], column[view] + len(inside[view]))
                shortcut[place, stay] = _shortcut(inside[view], layout, block.plan.query_stride)
                first_row += len(layout)
            for view, layout in entry.keys.items():
                stride = layout.stride // inside[view].stride
                operator = pooling_operator(*inside[view].grid, stride, int(layout.has_class))
                stay = slice(column[view], column[view] + len(inside[view]))
                pooled[first_key : first_key + len(layout), stay] = operator
                first_key += len(layout)
        layers.append(Layer(attention, pooled, shortcut))
    return layers


def _shortcut(inside: Layout, queries: Layout, stride: int) -> np.ndarray:
    if queries.grid[0] == 0:  # only the class token goes on
        return np.eye(1, len(inside))
    if stride == 1:
        return np.eye(len(inside))
    return pooling_operator(*inside.grid, stride, int(inside.has_class))


def _starts(layouts: dict[int, Layout]) -> dict[int, int]:
    sizes = np.cumsum([0, *map(len, layouts.values())])
    return dict(zip(layouts, map(int, sizes), strict=False))


def _pairs(edges: np.ndarray) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in pairwise(edges)]
