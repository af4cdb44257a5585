"""Furnishing an empty room: which pieces, and where they may stand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from crossfuse.data.rooms.built import LIBRARY, MAKERS, built_item, built_mesh
from crossfuse.data.rooms.catalogue import (
    CLASSES,
    IGNORE,
    Furniture,
    Mesh,
    Treatment,
    Warehouse,
    furniture,
    treatment_image,
    treatments,
)
from crossfuse.data.rooms.render import Instance

# kind of room -> (class, probability, most pieces, where). "wall": back against a wall,
# "free": anywhere, "seat": chairs round the last table or desk, "top": on a surface.
RECIPES: dict[str, tuple[tuple[str, float, int, str], ...]] = {
    "living": (
        ("sofa", 0.9, 2, "wall"), ("table", 0.7, 1, "free"), ("tv_monitor", 0.6, 1, "wall"),
        ("bookshelf", 0.45, 2, "wall"), ("cabinet", 0.4, 1, "wall"), ("chair", 0.5, 2, "free"),
        ("lamp", 0.6, 2, "free"), ("plant", 0.6, 2, "free"), ("radiator", 0.3, 1, "wall"),
        ("desk", 0.1, 1, "wall"),
    ),
    "bedroom": (
        ("bed", 0.95, 2, "wall"), ("cabinet", 0.7, 2, "wall"), ("lamp", 0.5, 2, "top"),
        ("desk", 0.3, 1, "wall"), ("chair", 0.5, 1, "seat"), ("plant", 0.35, 1, "free"),
        ("radiator", 0.4, 1, "wall"), ("bookshelf", 0.3, 1, "wall"), ("tv_monitor", 0.2, 1, "wall"),
    ),
    "kitchen": (
        ("cabinet", 0.9, 5, "wall"), ("sink", 0.75, 1, "wall"), ("refrigerator", 0.75, 1, "wall"),
        ("oven_stove", 0.75, 1, "wall"), ("table", 0.6, 1, "free"), ("chair", 0.7, 4, "seat"),
        ("plant", 0.3, 1, "top"), ("lamp", 0.3, 1, "free"), ("other", 0.2, 1, "wall"),
    ),
    "study": (
        ("desk", 0.85, 2, "wall"), ("chair", 0.85, 2, "seat"), ("tv_monitor", 0.5, 1, "top"),
        ("bookshelf", 0.75, 3, "wall"), ("lamp", 0.5, 2, "top"), ("cabinet", 0.3, 1, "wall"),
        ("plant", 0.4, 2, "free"), ("sofa", 0.2, 1, "wall"), ("radiator", 0.4, 1, "wall"),
    ),
    "bathroom": (
        ("toilet", 0.85, 1, "wall"), ("sink", 0.85, 2, "wall"), ("other", 0.7, 2, "wall"),
        ("radiator", 0.5, 1, "wall"), ("cabinet", 0.35, 1, "wall"), ("plant", 0.2, 1, "free"),
    ),
    "dining": (
        ("table", 0.95, 2, "free"), ("chair", 0.9, 6, "seat"), ("cabinet", 0.5, 2, "wall"),
        ("plant", 0.5, 2, "free"), ("lamp", 0.5, 1, "free"), ("radiator", 0.35, 1, "wall"),
        ("bookshelf", 0.2, 1, "wall"),
    ),
}  # fmt: skip
BUILT = 4  # built pieces are drawn as often as this many meshes of their class
ANYTHING = CLASSES[5:]  # everything but the shell of a room
SMALLEST = {"bathroom": (1.9, 3.0), "kitchen": (2.4, 4.2)}


@dataclass
class Room:
    """A furnished room. ``instances`` ready to ray-cast, boxes (lo, hi) of what stands in it."""

    kind: str
    width: float
    depth: float
    height: float
    notch: tuple[float, float] | None
    ceiling: bool
    instances: list[Instance] = field(default_factory=list)
    boxes: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    targets: list[np.ndarray] = field(default_factory=list)
    used: list[Furniture] = field(default_factory=list)
    surfaces: list[tuple[np.ndarray, np.ndarray, float]] = field(default_factory=list)
    fronts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def inside(self, low: np.ndarray, high: np.ndarray) -> bool:
        """Whether the box lies within the walls (and not in the cut-out corner)."""
        if low[0] < -1e-6 or low[1] < -1e-6 or high[2] > self.height + 1e-6:
            return False
        if high[0] > self.width + 1e-6 or high[1] > self.depth + 1e-6:
            return False
        if self.notch is None:
            return True
        corner = (self.width - self.notch[0], self.depth - self.notch[1])
        return not (high[0] > corner[0] + 1e-6 and high[1] > corner[1] + 1e-6)

    def free(self, low: np.ndarray, high: np.ndarray, gap: float = 0.0) -> bool:
        """Whether the box touches nothing that is already there."""
        return all(
            (low - gap >= b).any() or (high + gap <= a).any() for a, b in self.boxes + self.fronts
        )

    def walls(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Wall segments (from, to) counter-clockwise: the room lies to the left."""
        w, d = self.width, self.depth
        if self.notch is None:
            ring = [(0, 0), (w, 0), (w, d), (0, d)]
        else:
            a, b = w - self.notch[0], d - self.notch[1]
            ring = [(0, 0), (w, 0), (w, b), (a, b), (a, d), (0, d)]
        points = [np.array(p, float) for p in ring]
        return list(zip(points, [*points[1:], points[0]], strict=True))


def furnish(seed: int, split: str, warehouse: Warehouse, *, free_only: bool = False) -> Room:
    """Compose one room.

    Args:
        seed: everything about the room follows from it.
        split: "train" or "val"; meshes and treatments are taken from this half only.
        free_only: use only CC0 meshes (rooms that are to be redistributed).
    """
    rng = np.random.default_rng([seed, 0 if split == "train" else 1])
    kind = str(rng.choice([*RECIPES, "anything"]))
    least, most = SMALLEST.get(kind, (2.8, 6.0))
    width, depth = rng.uniform(least, most, 2)
    notch = None
    if min(width, depth) > 3.4 and rng.random() < 0.25:
        notch = (width * rng.uniform(0.25, 0.45), depth * rng.uniform(0.25, 0.45))
    room = Room(kind, width, depth, rng.uniform(2.35, 2.9), notch, rng.random() < 0.45)
    pool = [f for f in furniture() if f.split == split]
    if free_only:
        pool = [f for f in pool if f.licence == "CC0-1.0"]
    _shell(room, split, rng)
    learn = split == "train"
    placer = _Placer(room, pool, warehouse, rng, recolour=learn, built=learn and not free_only)
    for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
        placer.add("door", "wall")
    for _ in range(int(rng.choice([0, 1, 1, 2, 3]))):
        placer.add("window", "wall")
    recipe = RECIPES.get(kind)
    if recipe is None:
        chosen = rng.choice(ANYTHING, rng.integers(3, 9), replace=False)
        recipe = tuple((c, 1.0, 2, str(rng.choice(["wall", "free"]))) for c in chosen)
    for category, probability, most_pieces, where in recipe:
        if rng.random() < probability:
            for _ in range(int(rng.integers(1, most_pieces + 1))):
                placer.add(category, where)
    for category in rng.choice(ANYTHING, 2, replace=False):  # something out of place
        if rng.random() < 0.25:
            placer.add(str(category), "free")
    for _ in range(int(rng.integers(0, 4))):
        placer.add_clutter()
    return room


def _quad(corners: list, uv: list, image: np.ndarray) -> Mesh:
    return Mesh(
        np.array(corners, np.float32),
        np.array([[0, 1, 2], [0, 2, 3]], np.int32),
        np.array([[uv[0], uv[1], uv[2]], [uv[0], uv[2], uv[3]]], np.float32),
        np.full((2, 3), 0.7, np.float32),
        np.zeros(2, np.int32),
        (image,),
    )


def _fixed(mesh: Mesh, label: int) -> Instance:
    return Instance(mesh, label, np.ones(3), 0.0, np.zeros(3), np.ones(3))


def _shell(room: Room, split: str, rng: np.random.Generator) -> None:
    def pick(surface: str) -> Treatment:
        fitting = [t for t in treatments() if t.surface == surface and t.split == split]
        chosen = fitting[rng.integers(len(fitting))]
        if split == "train" and rng.random() < 0.6:  # a paint of its own
            tint = rng.uniform(0.6, 1.15) * rng.uniform(0.82, 1.12, 3)
            first, second = (np.clip(tint * rgb, 0, 1) for rgb in (chosen.rgb, chosen.rgb2))
            chosen = replace(chosen, rgb=tuple(first), rgb2=tuple(second))
        return chosen

    wall, floor, ceiling = pick("wall"), pick("floor"), pick("ceiling")
    covering = treatment_image(wall)
    height = room.height
    for start, end in room.walls():
        length = float(np.linalg.norm(end - start)) / wall.tile
        corners = [(*start, 0), (*end, 0), (*end, height), (*start, height)]
        top = height / wall.tile
        uv = [(0, 0), (length, 0), (length, top), (0, top)]
        room.instances.append(_fixed(_quad(corners, uv, covering), CLASSES.index("wall")))
    w, d = room.width, room.depth
    plates = [(0.0, 0.0, w, d)]
    if room.notch is not None:
        plates = [(0.0, 0.0, w, d - room.notch[1]), (0.0, d - room.notch[1], w - room.notch[0], d)]
    flats = [(floor, 0.0, "floor")] + ([(ceiling, height, "ceiling")] if room.ceiling else [])
    for treatment, z, name in flats:
        image = treatment_image(treatment)
        for x0, y0, x1, y1 in plates:
            corners = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
            uv = [(x / treatment.tile, y / treatment.tile) for x, y, _ in corners]
            room.instances.append(_fixed(_quad(corners, uv, image), CLASSES.index(name)))


class _Placer:
    def __init__(
        self,
        room: Room,
        pool: list[Furniture],
        warehouse: Warehouse,
        rng: np.random.Generator,
        recolour: bool,
        built: bool,
    ) -> None:
        self.room, self.warehouse, self.rng, self.recolour = room, warehouse, rng, recolour
        self.built = built
        self.by_class: dict[str, list[Furniture]] = {}
        for item in pool:
            name = item.category if item.category in CLASSES else "other"
            self.by_class.setdefault(name, []).append(item)
        self.seat_box: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, category: str, where: str) -> bool:
        """Try to place one piece of the class; False when it fits nowhere."""
        choices = self.by_class.get(category, [])
        if not choices:
            return False
        rng = self.rng
        if self.built and category in MAKERS and rng.random() < BUILT / (BUILT + len(choices)):
            item = built_item(category, int(rng.integers(1 << 30)))
        else:
            item = choices[rng.integers(len(choices))]
        scale = rng.uniform(0.88, 1.12) * rng.uniform(0.95, 1.05, 3)
        size = np.array(item.size) * scale
        if category in ("door", "window"):
            scale[1] *= min(1.0, rng.uniform(0.06, 0.12) / size[1])
            size = np.array(item.size) * scale
        if size[2] + item.base > self.room.height:
            scale[2] *= (self.room.height - 0.02) / (size[2] + item.base)
            size = np.array(item.size) * scale
        base = item.base * (scale[2] if category in ("door", "window") else 1.0)
        small = size[2] < 0.75 and max(size[0], size[1]) < 0.75 and base < 0.05
        if category == "lamp" and base > 1.2:
            hanging = size[0] > 0.25 and base > 1.5
            return self._hang(item, scale, size) if hanging else self._wall(item, scale, size, base)
        if category in ("lamp", "plant", "tv_monitor", "oven_stove") and small:
            on_top = category != "plant" or where == "top" or rng.random() < 0.5
            if on_top and self._top(item, scale, size):
                return True
        if where == "seat" and self.seat_box is not None and self._seat(item, scale, size):
            return True
        if base > 0.05 or where == "wall" or category in ("door", "window"):
            return self._wall(item, scale, size, base)
        return self._free(item, scale, size)

    def add_clutter(self) -> None:
        """A plain box, on the floor or on a surface: labelled as nothing."""
        rng = self.rng
        size = rng.uniform(0.08, 0.4, 3)
        box = _box_mesh(size, rng.uniform(0.1, 0.9, 3))
        for _ in range(8):
            if self.room.surfaces and rng.random() < 0.5:
                low, high, z = self.room.surfaces[rng.integers(len(self.room.surfaces))]
                at = rng.uniform(low, high)
            else:
                at, z = rng.uniform([0, 0], [self.room.width, self.room.depth]), 0.0
            if self._put(box, IGNORE, np.ones(3), size, at, z, rng.uniform(0, 2 * np.pi)):
                return

    def _put(
        self,
        mesh: Mesh | Furniture,
        label: int,
        scale: np.ndarray,
        size: np.ndarray,
        at: np.ndarray,
        base: float,
        yaw: float,
        gap: float = 0.0,
    ) -> bool:
        c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
        half = np.array([c * size[0] + s * size[1], s * size[0] + c * size[1]]) / 2
        low = np.array([at[0] - half[0], at[1] - half[1], base + 0.004])
        high = np.array([at[0] + half[0], at[1] + half[1], base + size[2] - 0.004])
        if not self.room.inside(low, high) or not self.room.free(low, high, gap):
            return False
        tint = np.ones(3)
        if self.recolour and self.rng.random() < 0.45:
            even = 0.12 if self.rng.random() < 0.7 else 0.5
            tint = self.rng.uniform(0.6, 1.15) * self.rng.uniform(1 - even, 1.12, 3)
        solid = self._mesh(mesh) if isinstance(mesh, Furniture) else mesh
        offset = np.array([at[0], at[1], base])
        self.room.instances.append(Instance(solid, label, scale, yaw, offset, tint))
        self.room.boxes.append((low, high))
        self.room.targets.append((low + high) / 2)
        if isinstance(mesh, Furniture):
            self.room.used.append(mesh)
            flat = mesh.category in ("table", "desk", "cabinet", "bookshelf")
            if flat and mesh.top is not None and 0.3 < mesh.top * scale[2] + base < 1.3:
                inner = half * 0.7
                top = base + mesh.top * scale[2]
                self.room.surfaces.append((at[:2] - inner, at[:2] + inner, top))
            if mesh.category in ("table", "desk"):
                self.seat_box = (low, high)
        return True

    def _mesh(self, item: Furniture) -> Mesh:
        return built_mesh(item) if item.library == LIBRARY else self.warehouse.mesh(item)

    def _wall(self, item: Furniture, scale: np.ndarray, size: np.ndarray, base: float) -> bool:
        rng, walls = self.rng, self.room.walls()
        for _ in range(14):
            start, end = walls[rng.integers(len(walls))]
            along = end - start
            length = float(np.linalg.norm(along))
            if length < size[0] + 0.02:
                continue
            along /= length
            inward = np.array([-along[1], along[0]])
            where = rng.uniform(size[0] / 2, length - size[0] / 2)
            at = start + along * where + inward * (size[1] / 2 + 0.005)
            yaw = float(np.arctan2(along[1], along[0])) + np.pi  # its back (+y) faces the wall
            if not self._put(item, item.label, scale, size, at, base, yaw):
                continue
            if item.category == "door":
                a = start + along * (where - size[0] / 2)
                b = start + along * (where + size[0] / 2) + inward * 0.8
                low, high = np.minimum(a, b), np.maximum(a, b)
                self.room.fronts.append((np.array([*low, 0.0]), np.array([*high, 1.9])))
            return True
        return False

    def _free(self, item: Furniture, scale: np.ndarray, size: np.ndarray) -> bool:
        rng = self.rng
        for _ in range(14):
            at = rng.uniform([0.1, 0.1], [self.room.width - 0.1, self.room.depth - 0.1])
            yaw = rng.choice([0, np.pi / 2, np.pi, -np.pi / 2]) + rng.normal(0, 0.15)
            if self._put(item, item.label, scale, size, at, 0.0, float(yaw), gap=0.05):
                return True
        return False

    def _seat(self, item: Furniture, scale: np.ndarray, size: np.ndarray) -> bool:
        assert self.seat_box is not None
        low, high = self.seat_box
        centre, rng = (low + high)[:2] / 2, self.rng
        for _ in range(10):
            side = int(rng.integers(4))
            out = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)][side], float)
            reach = (high - low)[0 if side < 2 else 1] / 2 + size[1] / 2 + rng.uniform(0.01, 0.15)
            slide = rng.uniform(-0.35, 0.35) * (high - low)[1 if side < 2 else 0]
            at = centre + out * reach + np.array([-out[1], out[0]]) * slide
            yaw = float(np.arctan2(out[1], out[0]) - np.pi / 2 + rng.normal(0, 0.12))
            if self._put(item, item.label, scale, size, at, 0.0, yaw):
                return True
        return False

    def _top(self, item: Furniture, scale: np.ndarray, size: np.ndarray) -> bool:
        for index in self.rng.permutation(len(self.room.surfaces)):
            low, high, z = self.room.surfaces[index]
            at = self.rng.uniform(low, high)
            yaw = float(self.rng.uniform(0, 2 * np.pi))
            if self._put(item, item.label, scale, size, at, z + 0.002, yaw):
                return True
        return False

    def _hang(self, item: Furniture, scale: np.ndarray, size: np.ndarray) -> bool:
        base = self.room.height - size[2] - 0.01
        at = np.array([self.room.width, self.room.depth]) * self.rng.uniform(0.25, 0.7, 2)
        return self._put(item, item.label, scale, size, at, base, 0.0)


def _box_mesh(size: np.ndarray, colour: np.ndarray) -> Mesh:
    x, y = size[0] / 2, size[1] / 2
    z = size[2]
    corners = [(a, b, c) for c in (0, z) for a, b in ((-x, -y), (x, -y), (x, y), (-x, y))]
    quads = [(0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    count = len(faces)
    return Mesh(
        np.array(corners, np.float32),
        np.array(faces, np.int32),
        np.zeros((count, 3, 2), np.float32),
        np.tile(colour.astype(np.float32), (count, 1)),
        np.full(count, -1, np.int32),
        (),
    )
