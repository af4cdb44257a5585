"""From a furnished room to files: scan, photographs, tags, attribution."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from crossfuse.data.rooms.catalogue import (
    CLASSES,
    Furniture,
    Warehouse,
    attribution,
    find_package,
    furniture,
)
from crossfuse.data.rooms.layout import Room, furnish
from crossfuse.data.rooms.render import Camera, Light, Stage, photograph, scan

VIEWS = 16
PHOTO_SIZE = (320, 240)
SPACING = 0.025
PARTIAL = 4  # partial scans of a room, at most


@dataclass(frozen=True)
class Scene:
    """One composed room, in memory.

    positions (N, 3) m, colours (N, 3) uint8, labels (N,) uint8, seen (N,) uint16 bit mask;
    photos and pixel_labels (V, h, w[, 3]) uint8; info: JSON-able facts (tags, scans, cameras).
    """

    positions: np.ndarray
    colours: np.ndarray
    labels: np.ndarray
    seen: np.ndarray
    photos: np.ndarray
    pixel_labels: np.ndarray
    info: dict
    used: list[Furniture]


def tags_of(labels: np.ndarray) -> list[int]:
    """Classes with at least 100 points and 0.05 % of all points."""
    counts = np.bincount(labels[labels < len(CLASSES)], minlength=len(CLASSES))
    return np.flatnonzero((counts >= 100) & (counts >= 5e-4 * len(labels))).tolist()


def compose_room(
    seed: int, split: str, warehouse: Warehouse, *, views: int = VIEWS, free_only: bool = False
) -> Scene:
    """Furnish, scan and photograph one room; the same seed gives the same room."""
    room = furnish(seed, split, warehouse, free_only=free_only)
    rng = np.random.default_rng([seed, 7, 0 if split == "train" else 1])
    stage = Stage(room.instances, _lights(room, rng), float(rng.uniform(0.26, 0.45)))
    eyes = _eyes(room, int(rng.integers(18, 40)), rng)
    positions, colours, labels = scan(stage, eyes, 30_000, SPACING, rng)
    cameras, photos, pixels, depths = _photographs(room, stage, views, rng)
    seen = _seen(positions, cameras, depths)
    yaw = rng.uniform(0, 2 * np.pi)  # real scans are not aligned with their walls
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    centre = np.array([room.width / 2, room.depth / 2, 0])
    positions = ((positions - centre) @ turn.T).astype(np.float32)
    info = {
        "seed": seed,
        "split": split,
        "kind": room.kind,
        "size_m": [round(v, 3) for v in (room.width, room.depth, room.height)],
        "tags": tags_of(labels),
        "scans": _partial_scans(seen, labels, views, rng),
        "cameras": [_camera_facts(c, turn, centre) for c in cameras],
        "meshes": sorted({item.path for item in room.used}),
    }
    return Scene(positions, colours, labels, seen, photos, pixels, info, room.used)


def _lights(room: Room, rng: np.random.Generator) -> list[Light]:
    lights = []
    for _ in range(2):
        at = rng.uniform(0.2, 0.8, 2) * [room.width, room.depth]
        if room.notch is not None:
            at *= 0.6
        position = np.array([*at, room.height - rng.uniform(0.15, 0.5)])
        warmth = rng.uniform(-0.08, 0.1)
        colour = rng.uniform(0.2, 0.5) * np.array([1 + warmth, 1.0, 1 - warmth])
        lights.append(Light(position.astype(np.float32), colour.astype(np.float32)))
    return lights


def _eyes(room: Room, count: int, rng: np.random.Generator) -> np.ndarray:
    """Free positions 0.6 to 2.1 m high, at least 0.25 m from everything."""
    out: list[np.ndarray] = []
    for _ in range(4000):
        at = rng.uniform([0.25, 0.25, 0.6], [room.width - 0.25, room.depth - 0.25, 2.1])
        margin = np.full(3, 0.25)
        clear = all((at - margin >= b).any() or (at + margin <= a).any() for a, b in room.boxes)
        if room.inside(at - 0.2, at + 0.2) and clear:
            out.append(at)
            if len(out) == count:
                break
    if not out:  # a room so full that only the space under the ceiling is left
        out = [np.array([room.width * 0.4, room.depth * 0.4, room.height - 0.2])]
    return np.array(out)


def _photographs(
    room: Room, stage: Stage, views: int, rng: np.random.Generator
) -> tuple[list[Camera], np.ndarray, np.ndarray, np.ndarray]:
    eyes = _eyes(room, views * 3, rng)
    eyes[:, 2] = np.clip(eyes[:, 2], 1.2, 1.8)
    targets = list(room.targets) or [np.array([room.width / 2, room.depth / 2, 1.0])]
    cameras: list[Camera] = []
    images: list[np.ndarray] = []
    pixels: list[np.ndarray] = []
    depths: list[np.ndarray] = []
    spare: list[tuple] = []
    order = rng.permutation(len(targets))
    for attempt in range(views * 2):
        if len(images) == views:
            break
        target = targets[order[attempt % len(order)]] + rng.normal(0, 0.3, 3)
        far = np.linalg.norm(eyes - target, axis=1)
        good = np.flatnonzero((far > 1.0) & (far < 4.5))
        eye = eyes[rng.choice(good) if len(good) else np.argmax(far)]
        width, height = PHOTO_SIZE
        camera = Camera.looking(eye, target, rng.uniform(60, 75), width, height)
        image, label, depth = photograph(stage, camera)
        things = np.isin(label, [0, 1, 2], invert=True).mean()
        shot = (camera, image, label, depth)
        if things < 0.06 or np.median(depth) < 0.45:
            spare.append(shot)
        else:
            cameras.append(camera)
            images.append(image)
            pixels.append(label)
            depths.append(depth)
    for camera, image, label, depth in spare[: views - len(images)]:
        cameras.append(camera)
        images.append(image)
        pixels.append(label)
        depths.append(depth)
    return cameras, np.stack(images), np.stack(pixels), np.stack(depths)


def _seen(positions: np.ndarray, cameras: list[Camera], depths: np.ndarray) -> np.ndarray:
    seen = np.zeros(len(positions), np.uint16)
    for bit, (camera, depth) in enumerate(zip(cameras, depths, strict=True)):
        pixel, far = camera.project(positions)
        column, row = np.floor(pixel).astype(int).T
        fits = (far > 0.1) & (column >= 0) & (row >= 0)
        fits &= (column < camera.width) & (row < camera.height)
        chosen = np.flatnonzero(fits)
        visible = far[chosen] < depth[row[chosen], column[chosen]] + 0.08
        seen[chosen[visible]] |= np.uint16(1 << bit)
    return seen


def _partial_scans(
    seen: np.ndarray, labels: np.ndarray, views: int, rng: np.random.Generator
) -> list[dict]:
    """Corners of the room: what one to four photographs see, with tags of their own."""
    scans = []
    for _ in range(PARTIAL):
        chosen = sorted(rng.choice(views, int(rng.integers(1, 5)), replace=False).tolist())
        mask = np.uint16(sum(1 << v for v in chosen))
        inside = labels[(seen & mask) > 0]
        if len(inside) >= 2000:
            scans.append({"views": chosen, "tags": tags_of(inside)})
    return scans


def _camera_facts(camera: Camera, turn: np.ndarray, centre: np.ndarray) -> dict:
    return {
        "eye": np.round(turn @ (camera.eye - centre), 4).tolist(),
        "axes": np.round(camera.axes @ turn.T, 5).tolist(),
        "focal_px": round(camera.focal, 3),
        "size_px": [camera.width, camera.height],
    }


def write_scene(scene: Scene, folder: Path) -> None:
    """Store a scene as a folder; complete or not at all."""
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "photos").mkdir(parents=True)
    (scratch / "labels").mkdir()
    order = np.lexsort(np.floor(scene.positions / 0.1).T)  # neighbours together compress better
    rounded = np.round(scene.positions[order] * 512) / 512
    np.savez_compressed(
        scratch / "points.npz",
        positions=rounded.astype(np.float32),
        colours=scene.colours[order],
        labels=scene.labels[order],
        seen=scene.seen[order],
    )
    for index, (photo, label) in enumerate(zip(scene.photos, scene.pixel_labels, strict=True)):
        data = io.BytesIO()
        Image.fromarray(photo).save(data, "JPEG", quality=88)
        (scratch / "photos" / f"{index:02d}.jpg").write_bytes(data.getvalue())
        Image.fromarray(label).save(scratch / "labels" / f"{index:02d}.png")
    (scratch / "room.json").write_text(json.dumps(scene.info))
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


@lru_cache(maxsize=1)
def _warehouse(package: Path) -> Warehouse:
    return Warehouse(package)


def _compose_into(job: tuple[Path, int, str, Path]) -> None:
    package, seed, split, folder = job
    write_scene(compose_room(seed, split, _warehouse(package)), folder)


def generate(
    out: str | Path,
    scenes: int,
    seed: int = 0,
    *,
    val_scenes: int | None = None,
    furniture_folder: str | Path | None = None,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> Path:
    """Compose ``scenes`` training rooms and a third as many validation rooms under ``out``.

    Rooms that are already there are kept, so an interrupted run goes on where it stopped. A room
    follows from its number and ``seed`` alone, however many ``workers`` (processes) share the work.

    Raises:
        CrossfuseError: the furniture archives are not found.
    """
    package = find_package(furniture_folder)
    root = Path(out)
    counts = {"val": val_scenes if val_scenes is not None else -(-scenes // 3), "train": scenes}
    for split, count in counts.items():
        (root / split).mkdir(parents=True, exist_ok=True)
        folders = [root / split / f"room_{index:04d}" for index in range(count)]
        left = [i for i, folder in enumerate(folders) if not (folder / "room.json").is_file()]
        jobs = [(package, seed * 100_003 + i, split, folders[i]) for i in left]
        if workers > 1 and len(jobs) > 1:
            with ProcessPoolExecutor(workers) as pool:
                for index, _ in zip(left, pool.map(_compose_into, jobs), strict=True):
                    progress(f"{split} {index + 1}/{count}")
        else:
            for index, job in zip(left, jobs, strict=True):
                _compose_into(job)
                progress(f"{split} {index + 1}/{count}")
    (root / "classes.json").write_text(json.dumps(CLASSES))
    used = {
        path for p in root.glob("*/*/room.json") for path in json.loads(p.read_text())["meshes"]
    }
    listed = [item for item in furniture() if item.path in used]
    (root / "ATTRIBUTION.md").write_text(attribution(listed), encoding="utf-8")
    return root
