"""Ray-casting a composed room: shaded photographs, and points as a hand-held scanner sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from crossfuse.data.rooms.catalogue import IGNORE, Mesh


@dataclass(frozen=True)
class Instance:
    """A mesh in its place: v' = rotate(v * scale) + offset. ``tint`` multiplies its colour."""

    mesh: Mesh
    label: int
    scale: np.ndarray
    yaw: float
    offset: np.ndarray
    tint: np.ndarray


@dataclass(frozen=True)
class Light:
    """Point light: position (3,) metres, colour (3,)."""

    position: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Pinhole: eye (3,), axes (3, 3) rows = right, down, forward; focal length, size in pixels."""

    eye: np.ndarray
    axes: np.ndarray
    focal: float
    width: int
    height: int

    @classmethod
    def looking(
        cls, eye: np.ndarray, target: np.ndarray, field_of_view: float, width: int, height: int
    ) -> Camera:
        """A level camera at ``eye`` aimed at ``target``; horizontal field of view in degrees."""
        forward = (target - eye) / np.linalg.norm(target - eye)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= max(float(np.linalg.norm(right)), 1e-9)
        down = np.cross(forward, right)
        focal = width / 2 / np.tan(np.radians(field_of_view) / 2)
        return cls(eye, np.stack([right, down, forward]), float(focal), width, height)

    def rays(self) -> np.ndarray:
        """Unit directions (height * width, 3), row-major."""
        x, y = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        local = np.stack(
            [
                (x - self.width / 2) / self.focal,
                (y - self.height / 2) / self.focal,
                np.ones_like(x),
            ],
            -1,
        ).reshape(-1, 3)
        world = local @ self.axes
        return (world / np.linalg.norm(world, axis=1, keepdims=True)).astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel positions (N, 2) and depth along the axis (N,) of points (N, 3)."""
        local = (points - self.eye.astype(np.float32)) @ self.axes.T.astype(np.float32)
        depth = local[:, 2]
        safe = np.where(depth > 1e-6, depth, 1.0)
        pixels = local[:, :2] / safe[:, None] * self.focal
        return pixels + np.array([self.width / 2, self.height / 2]), depth


class Stage:
    """All instances as one ray-castable mesh with colours and labels per triangle."""

    def __init__(self, instances: list[Instance], lights: list[Light], ambient: float) -> None:
        from embreex import rtcore_scene
        from embreex.mesh_construction import TriangleMesh

        corners, uv, colour, texture, label = [], [], [], [], []
        self.images: list[np.ndarray] = []
        for item in instances:
            v = item.mesh.vertices * item.scale
            c, s = np.cos(item.yaw), np.sin(item.yaw)
            v = v @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) + item.offset
            corners.append(v[item.mesh.faces].astype(np.float32))
            uv.append(item.mesh.uv)
            colour.append(item.mesh.colour * item.tint)
            shifted = np.where(item.mesh.texture < 0, -1, item.mesh.texture + len(self.images))
            texture.append(shifted)
            self.images.extend(image * item.tint for image in item.mesh.images)
            label.append(np.full(len(item.mesh.faces), item.label, np.uint8))
        self.corners = np.concatenate(corners)
        self.uv, self.colour = np.concatenate(uv), np.concatenate(colour).astype(np.float32)
        self.texture, self.label = np.concatenate(texture), np.concatenate(label)
        cross = np.cross(
            self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0]
        )
        self.normal = cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-12)
        self.lights, self.ambient = lights, ambient
        self._scene: Any = rtcore_scene.EmbreeScene()
        flat = self.corners.reshape(-1, 3)
        TriangleMesh(self._scene, flat, np.arange(len(flat), dtype=np.int32).reshape(-1, 3))

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest hits of rays (N, 3): distance (inf = none), triangle, u, v."""
        out = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            output=True,
        )
        triangle = out["primID"].astype(np.int64)
        distance = np.where(triangle < 0, np.inf, out["tfar"])
        return {"distance": distance, "triangle": triangle, "u": out["u"], "v": out["v"]}

    def albedo(self, hits: dict[str, np.ndarray]) -> np.ndarray:
        """Surface colour (N, 3) in 0..1 where rays hit; mid grey elsewhere."""
        triangle = np.maximum(hits["triangle"], 0)
        colour = self.colour[triangle].copy()
        texture = np.where(hits["triangle"] < 0, -1, self.texture[triangle])
        weights = np.stack([1 - hits["u"] - hits["v"], hits["u"], hits["v"]], 1)
        for index in np.unique(texture[texture >= 0]):
            chosen = np.flatnonzero(texture == index)
            uv = np.einsum("nk,nkc->nc", weights[chosen], self.uv[triangle[chosen]])
            image = self.images[index]
            height, width = image.shape[:2]
            column = np.floor((uv[:, 0] % 1) * width).astype(int) % width
            row = np.floor((1 - uv[:, 1] % 1) * height).astype(int) % height
            colour[chosen] = image[row, column]
        colour[hits["triangle"] < 0] = 0.5
        return colour

    def shade(
        self, positions: np.ndarray, hits: dict[str, np.ndarray], origins: np.ndarray
    ) -> np.ndarray:
        """Lit colour (N, 3) in 0..1; independent of the viewer but for the side of a face seen."""
        normal = self.normal[np.maximum(hits["triangle"], 0)]
        facing = np.einsum("nc,nc->n", normal, origins - positions)
        normal = np.where(facing[:, None] < 0, -normal, normal).astype(np.float32)
        total = np.full((len(positions), 3), self.ambient, np.float32)
        start = positions + normal * 2e-3
        for light in self.lights:
            to = light.position - start
            far = np.linalg.norm(to, axis=1)
            to = (to / np.maximum(far, 1e-6)[:, None]).astype(np.float32)
            lambert = np.maximum(np.einsum("nc,nc->n", normal, to), 0)
            lit = lambert > 0
            visible = np.zeros(len(positions), bool)
            blocked = self.cast(start[lit], to[lit])["distance"]
            visible[lit] = blocked > far[lit] - 0.05
            strength = lambert * (0.35 + 0.65 * visible) / (1 + 0.06 * far**2)
            total += strength[:, None] * light.colour
        return np.clip(self.albedo(hits) * total, 0, 1).astype(np.float32)


def photograph(stage: Stage, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3) uint8, labels (h, w) uint8 (255 = nothing hit), depth (h, w) metres."""
    rays = camera.rays()
    origins = np.broadcast_to(camera.eye.astype(np.float32), rays.shape)
    hits = stage.cast(origins, rays)
    missed = hits["triangle"] < 0
    distance = np.where(missed, 0, hits["distance"]).astype(np.float32)
    positions = origins + rays * distance[:, None]
    colour = stage.shade(positions, hits, origins)
    colour[missed] = 0.75
    label = np.where(missed, IGNORE, stage.label[np.maximum(hits["triangle"], 0)])
    shape = (camera.height, camera.width)
    depth = np.where(missed, np.inf, distance * (rays @ camera.axes[2]))
    gamma = np.power(colour, 1 / 1.25)
    return (
        (gamma * 255 + 0.5).astype(np.uint8).reshape(*shape, 3),
        label.astype(np.uint8).reshape(shape),
        depth.astype(np.float32).reshape(shape),
    )


def scan(
    stage: Stage, eyes: np.ndarray, rays_each: int, spacing: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points a hand-held scanner at ``eyes`` (E, 3) would collect.

    One random hit is kept per voxel of ``spacing`` metres. Range noise grows with distance, hits at
    grazing angles and beyond 6 m are mostly lost, and patches are missing, as in real scans.

    Returns:
        positions (N, 3) float32 metres, colours (N, 3) uint8, labels (N,) uint8.
    """
    origins = np.repeat(eyes.astype(np.float32), rays_each, 0)
    directions = rng.normal(size=(len(origins), 3)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = stage.cast(origins, directions)
    triangle = np.maximum(hits["triangle"], 0)
    cosine = np.abs(np.einsum("nc,nc->n", directions, stage.normal[triangle]))
    keep = (hits["triangle"] >= 0) & (hits["distance"] < 9)
    keep &= rng.random(len(origins)) < np.clip(cosine / 0.25, 0.1, 1)
    keep &= rng.random(len(origins)) < np.clip(2.0 - hits["distance"] / 6, 0.3, 1)
    hits = {name: value[keep] for name, value in hits.items()}
    origins, directions, cosine = origins[keep], directions[keep], cosine[keep]
    exact = origins + directions * hits["distance"][:, None].astype(np.float32)
    cells = np.floor(exact / spacing).astype(np.int64)
    cells -= cells.min(0)
    key = (cells[:, 0] * 4096 + cells[:, 1]) * 4096 + cells[:, 2]
    first = np.unique(key, return_index=True)[1]
    hole = rng.normal(size=(rng.integers(3, 9), 3)) * 0.3  # patches the scanner missed
    hole += exact[rng.integers(0, len(exact), len(hole))] - hole * 0.8
    radius = rng.uniform(0.05, 0.22, len(hole))
    lost = (np.linalg.norm(exact[first, None] - hole[None], axis=2) < radius).any(1)
    first = first[~lost]
    hits = {name: value[first] for name, value in hits.items()}
    exact, origins, directions = exact[first], origins[first], directions[first]
    colour = stage.shade(exact, hits, origins)
    sigma = 0.0015 + 0.0012 * hits["distance"] ** 2
    noisy = exact + directions * (rng.normal(size=len(exact)) * np.minimum(sigma, 0.02))[:, None]
    colour = np.power(np.clip(colour, 0, 1), 1 / 1.25) + rng.normal(0, 0.015, colour.shape)
    return (
        noisy.astype(np.float32),
        (np.clip(colour, 0, 1) * 255 + 0.5).astype(np.uint8),
        stage.label[hits["triangle"]],
    )
