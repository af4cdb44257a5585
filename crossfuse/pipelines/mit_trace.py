"""The trace of MIT: what its tokens are, and its maps split by who asks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfuse.attention import LayerMap
from crossfuse.data.point_scene import PointScene
from crossfuse.encoders.views import PATCH_GRID
from crossfuse.geometry import ClassTokens, Geometry, ImageGrid, Joined, PointSegments, ViewStack
from crossfuse.models.mit import MITOutput
from crossfuse.trace import AttentionMap, Trace


@dataclass(frozen=True)
class Photos:
    """What is looked at: pictures (H, W, 3) uint8, their names, ``drawn`` from the cloud or not."""

    pixels: list[np.ndarray]
    names: list[str]
    drawn: bool


def _geometries(
    scene: PointScene, photos: Photos, names: tuple[str, ...], patches: bool
) -> dict[str, Geometry]:
    segments = PointSegments(scene.centroids, scene.counts)
    classes = ClassTokens(names)
    sizes = np.array([(p.shape[1], p.shape[0]) for p in photos.pixels])
    parts: list[Geometry] = [ViewStack(tuple(photos.names), sizes)]
    part_names = ["views"]
    if patches:
        parts += [ImageGrid.regular(*PATCH_GRID, (int(w), int(h))) for w, h in sizes]
        part_names += [f"photo {i + 1}" for i in range(len(sizes))]
    return {
        "segments": Joined((segments,), ("segments",)),
        "photos": Joined(tuple(parts), tuple(part_names)),
        "classes": classes,
        "tokens_3d": Joined((classes, segments), ("classes", "segments")),
        "tokens_2d": Joined((classes, *parts), ("classes", *part_names)),
    }


def trace_of(out: MITOutput, scene: PointScene, photos: Photos, names: tuple[str, ...]) -> Trace:
    """All maps of one forward pass, heads apart; ``names``: of the classes."""
    patches = any(
        m.stage == "decoder" and m.weights.shape[-1] > len(photos.pixels)
        for m in out.maps
        if m.direction == "3d->2d"
    )
    geometries = _geometries(scene, photos, names, patches)
    maps = [entry for record in out.maps for entry in _split(record, len(names))]
    meta = {
        "photographs": "drawn from the cloud" if photos.drawn else "given",
        "voxel_m": float(scene.voxels.size),
    }
    return Trace("mit", geometries, tuple(maps), meta)


def _split(record: LayerMap, classes: int) -> list[AttentionMap]:
    """Records as maps. A cross map is split by who asks: class tokens, and the stream itself."""
    weights = record.weights[0].cpu().numpy().astype(np.float16)
    if record.stage != "decoder":
        side = f"tokens_{record.direction[:2]}"
        stage = f"{record.stage}_{record.direction[:2]}" if record.stage == "encoder" else "self"
        direction = "points->points" if record.direction[:2] == "3d" else "photos->photos"
        return [AttentionMap(stage, record.layer, direction, side, side, weights)]
    asks, asked = {
        "3d->2d": ("segments", "photos"),
        "2d->3d": ("photos", "segments"),
    }[record.direction]
    words = {"segments": "points", "photos": "photos"}
    to = words[asked]
    return [
        AttentionMap(
            "decoder", record.layer, f"{words[asks]}->{to}", asks, asked, weights[:, classes:]
        ),
        AttentionMap(
            "decoder", record.layer, f"classes->{to}", "classes", asked, weights[:, :classes]
        ),
    ]
