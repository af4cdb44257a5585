"""Furniture built from boxes, tubes and lumps, for classes of which there are few meshes.

With one toilet and two refrigerators to learn from, a network learns those three objects. Each
built piece follows from its class and a seed: sizes, proportions, variants and colours are drawn.
Like every mesh here: metres, z up, x and y centred, lowest z = 0, back towards +y. Training rooms
mix them with the audited meshes; validation rooms never use them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crossfuse.data.rooms.catalogue import Furniture, Mesh

LIBRARY = "built"
_CUBE = [(0, 3, 2), (0, 2, 1), (4, 5, 6), (4, 6, 7), (0, 1, 5), (0, 5, 4), (1, 2, 6), (1, 6, 5),
         (2, 3, 7), (2, 7, 6), (3, 0, 4), (3, 4, 7)]  # fmt: skip
_FLAT_UV = ((0, 1), (0, 1), (0, 2), (1, 2), (0, 2), (1, 2))  # axes that span each side
SIDES = 14


class Piece:
    """Triangles as they are added; ``base``: height of the lower edge, ``top``: of its surface."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.base = 0.0
        self.top: float | None = None
        self.images: list[np.ndarray] = []
        self._vertices: list[np.ndarray] = []
        self._faces: list[np.ndarray] = []
        self._uv: list[np.ndarray] = []
        self._colour: list[np.ndarray] = []
        self._texture: list[np.ndarray] = []
        self._count = 0

    def _add(
        self, vertices: np.ndarray, faces: list, colour: np.ndarray, uv: np.ndarray, image: int
    ) -> None:
        self._vertices.append(np.asarray(vertices, np.float32))
        self._faces.append(np.asarray(faces, np.int32) + self._count)
        self._colour.append(np.tile(np.asarray(colour, np.float32), (len(faces), 1)))
        self._uv.append(np.asarray(uv, np.float32))
        self._texture.append(np.full(len(faces), image, np.int32))
        self._count += len(vertices)

    def box(self, low: tuple, high: tuple, colour: np.ndarray, image: int = -1) -> None:
        """An upright box between two corners; ``image`` covers its sides metre by metre."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        corners = [(x, y, z) for z in (z0, z1) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        points = np.array(corners)
        uv = [points[list(face)][:, list(_FLAT_UV[i // 2])] for i, face in enumerate(_CUBE)]
        self._add(points, _CUBE, colour, np.array(uv), image)

    def tube(
        self, at: tuple, radius: float, height: float, colour: np.ndarray, end: float | None = None
    ) -> None:
        """A standing tube or cone from ``at`` (centre of its foot), closed above."""
        turn = np.arange(SIDES) / SIDES * 2 * np.pi
        ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
        last = radius if end is None else end
        up = np.array([0, 0, height])
        points = np.concatenate([ring * radius, ring * last + up, [up]]) + np.array(at)
        after = [(i + 1) % SIDES for i in range(SIDES)]
        faces = [(i, j, SIDES + j) for i, j in enumerate(after)]
        faces += [(i, SIDES + j, SIDES + i) for i, j in enumerate(after)]
        faces += [(SIDES + i, SIDES + j, 2 * SIDES) for i, j in enumerate(after)]
        self._add(points, faces, colour, np.zeros((len(faces), 3, 2)), -1)

    def lump(self, at: tuple, radii: tuple, colour: np.ndarray, square: float = 1.0) -> None:
        """A superellipsoid; ``square`` below 1 rounds a box instead of a ball."""
        rings = 9
        polar = np.linspace(0, np.pi, rings)[:, None]
        turn = (np.arange(SIDES) / SIDES * 2 * np.pi)[None]

        def shaped(v: np.ndarray) -> np.ndarray:
            return np.sign(v) * np.abs(v) ** square

        x, y = (
            shaped(np.sin(polar)) * shaped(np.cos(turn)),
            shaped(np.sin(polar)) * shaped(np.sin(turn)),
        )
        z = shaped(np.cos(polar)) * np.ones_like(turn)
        points = np.stack([x, y, z], -1).reshape(-1, 3) * np.array(radii) + np.array(at)
        faces = []
        for r in range(rings - 1):
            for s in range(SIDES):
                a, b = r * SIDES + s, r * SIDES + (s + 1) % SIDES
                faces += [(a, a + SIDES, b), (b, a + SIDES, b + SIDES)]
        self._add(points, faces, colour, np.zeros((len(faces), 3, 2)), -1)

    def wood(self, rgb: np.ndarray) -> int:
        """Index of a new image with grain along its second axis."""
        grain = np.repeat(self.rng.normal(0, 0.06, (64, 1)), 64, 1)
        grain = grain + self.rng.normal(0, 0.02, (64, 64))
        self.images.append(np.clip(rgb + grain[..., None], 0, 1).astype(np.float32))
        return len(self.images) - 1

    def mesh(self) -> Mesh:
        v = np.concatenate(self._vertices)
        low, high = v.min(0), v.max(0)
        v = v - np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]], np.float32)
        parts = (self._faces, self._uv, self._colour, self._texture)
        faces, uv, colour, texture = (np.concatenate(part) for part in parts)
        return Mesh(v, faces, uv, colour, texture, tuple(self.images))


def _paint(rng: np.random.Generator) -> np.ndarray:
    """White, steel, black, wood or any colour."""
    kind = rng.integers(5)
    base = [(0.9, 0.9, 0.88), (0.62, 0.63, 0.65), (0.13, 0.13, 0.14), (0.55, 0.38, 0.22)]
    if kind == 4:
        return rng.uniform(0.1, 0.9, 3)
    return np.clip(np.array(base[kind]) * rng.uniform(0.8, 1.1) + rng.normal(0, 0.02, 3), 0, 1)


def _refrigerator(p: Piece) -> None:
    u = p.rng.uniform
    w, d, h = u(0.5, 0.95), u(0.5, 0.7), u(0.85, 2.0)
    body = _paint(p.rng)
    p.box((0, 0.05, 0), (w, d, h), body * 0.95)
    cut = u(0.3, 0.75) * h if p.rng.random() < 0.7 else h
    columns = [(0, w)] if w < 0.75 or p.rng.random() < 0.4 else [(0, w / 2), (w / 2, w)]
    for x0, x1 in columns:
        for z0, z1 in ((0.06, cut), (cut, h)):
            if z1 - z0 < 0.1:
                continue
            p.box((x0 + 0.005, 0, z0 + 0.006), (x1 - 0.005, 0.045, z1 - 0.006), body)
            left = x0 == 0 and len(columns) == 2
            x = x1 - 0.07 if left else x0 + 0.05
            reach = min(0.5, (z1 - z0) * 0.6)
            start = z0 + (z1 - z0 - reach) / 2
            p.box((x, -0.045, start), (x + 0.02, 0, start + reach), _paint(p.rng))
    p.top = h


def _oven_stove(p: Piece) -> None:
    u = p.rng.uniform
    w, d, h = u(0.45, 0.9), u(0.5, 0.65), u(0.82, 0.95)
    body, dark = _paint(p.rng), np.full(3, u(0.03, 0.15))
    p.box((0, 0.03, 0), (w, d, h), body)
    p.box((0, 0, h), (w, d, h + 0.015), dark if p.rng.random() < 0.6 else body)
    for x in (0.27, 0.73):
        for y in (0.28, 0.72):
            p.tube(
                (x * w, y * d, h + 0.015), u(0.06, 0.1), u(0.004, 0.025), np.full(3, u(0.05, 0.4))
            )
    p.box((0.03, 0, 0.15), (w - 0.03, 0.03, h * 0.72), body * 0.9)
    p.box((0.09, -0.008, 0.24), (w - 0.09, 0.0, h * 0.62), dark)
    p.box((0.06, -0.05, h * 0.72 - 0.03), (w - 0.06, -0.025, h * 0.72), np.full(3, u(0.3, 0.8)))
    for x in np.linspace(0.12, 0.88, p.rng.integers(4, 7)):
        p.box((x * w - 0.02, -0.03, h - 0.12), (x * w + 0.02, 0.03, h - 0.08), dark)
    if p.rng.random() < 0.35:
        p.box((0, d - 0.03, h), (w, d, h + u(0.1, 0.25)), body)


def _tv_monitor(p: Piece) -> None:
    u = p.rng.uniform
    w = u(0.42, 1.4)
    h, d = w * u(0.54, 0.68), u(0.025, 0.09)
    case, screen = np.full(3, u(0.03, 0.35)), np.full(3, u(0.01, 0.12))
    lift = 0.0
    if p.rng.random() < 0.65:
        lift = u(0.04, 0.16)
        p.box((w * 0.3, -0.1, 0), (w * 0.7, 0.12, 0.015), case)
        p.box((w * 0.46, 0.0, 0.015), (w * 0.54, d * 0.6, lift + 0.05), case)
    else:
        p.base = u(0.7, 1.3)
    p.box((0, 0, lift), (w, d, lift + h), case)
    edge = u(0.01, 0.035)
    image = -1
    if p.rng.random() < 0.3:  # switched on
        coarse = p.rng.uniform(0, 1, (6, 8, 3))
        p.images.append(np.kron(coarse, np.ones((8, 8, 1))).astype(np.float32))
        image = len(p.images) - 1
    p.box((edge, -0.004, lift + edge), (w - edge, 0, lift + h - edge), screen, image)
    if p.rng.random() < 0.4:
        p.box((w * 0.2, d, lift + h * 0.2), (w * 0.8, d + u(0.02, 0.1), lift + h * 0.75), case)


def _basin(p: Piece, x0: float, x1: float, y0: float, y1: float, z: float, deep: float,
           colour: np.ndarray) -> None:  # fmt: skip
    """A trough with a rim at height z and a tap behind it."""
    t = 0.035
    for a, b in (((x0, y0), (x1, y0 + t)), ((x0, y1 - 2 * t), (x1, y1)), ((x0, y0), (x0 + t, y1)),
                 ((x1 - t, y0), (x1, y1))):  # fmt: skip
        p.box((*a, z - deep), (*b, z), colour)
    p.box((x0, y0, z - deep - 0.02), (x1, y1, z - deep), colour * 0.97)
    metal, x = np.full(3, p.rng.uniform(0.5, 0.8)), (x0 + x1) / 2
    rise = p.rng.uniform(0.1, 0.3)
    p.tube((x, y1 - t, z), 0.015, rise, metal)
    p.box(
        (x - 0.012, y1 - t - p.rng.uniform(0.1, 0.2), z + rise - 0.03),
        (x + 0.012, y1 - t, z + rise),
        metal,
    )


def _sink(p: Piece) -> None:
    u = p.rng.uniform
    white = np.full(3, u(0.8, 0.95))
    kind = p.rng.integers(3)
    if kind == 0:  # on a pedestal
        w, d, h = u(0.42, 0.7), u(0.38, 0.52), u(0.78, 0.9)
        _basin(p, 0, w, 0, d, h, u(0.1, 0.16), white)
        p.lump((w / 2, d * 0.52, h - 0.17), (w * 0.42, d * 0.42, 0.12), white)
        p.tube((w / 2, d * 0.6, 0), u(0.07, 0.11), h - 0.16, white, u(0.06, 0.1))
    elif kind == 1:  # hung on the wall
        w, d = u(0.4, 1.0), u(0.35, 0.5)
        _basin(p, 0, w, 0, d, 0.18, u(0.09, 0.14), white)
        p.lump((w / 2, d * 0.55, 0.07), (w * 0.38, d * 0.4, 0.09), white)
        p.base = u(0.62, 0.75)
    else:  # in a unit
        w, d, h = u(0.5, 1.2), u(0.45, 0.62), u(0.8, 0.92)
        body = _paint(p.rng)
        steel = np.full(3, u(0.55, 0.75)) if p.rng.random() < 0.6 else white
        inner = min(w * 0.42, 0.3)
        middle = w / 2 if w < 0.8 else u(inner, w - inner)
        for x0, x1 in ((0, middle - inner), (middle + inner, w)):
            if x1 - x0 > 0.01:
                p.box((x0, 0, h - 0.03), (x1, d, h), steel)
        _basin(p, middle - inner, middle + inner, 0.0, d, h, u(0.12, 0.2), steel)
        p.box((0.01, 0.02, 0), (w - 0.01, d, h - 0.23), body)
        p.box((0.01, 0.02, h - 0.23), (w - 0.01, 0.04, h - 0.03), body)
        p.box((w / 2 - 0.003, 0.012, 0.08), (w / 2 + 0.003, 0.02, h - 0.06), body * 0.5)


def _toilet(p: Piece) -> None:
    u = p.rng.uniform
    white = np.array([0.93, 0.93, 0.92]) * u(0.85, 1.03)
    w, d, h = u(0.34, 0.42), u(0.58, 0.74), u(0.38, 0.45)
    tank = u(0.15, 0.22)
    reach = (d - tank) / 2
    hung = p.rng.random() < 0.25
    p.lump((w / 2, reach, h * 0.68), (w / 2, reach, h * 0.34), white, u(0.7, 1.0))
    if not hung:
        p.tube((w / 2, reach * 1.15, 0), w * u(0.28, 0.4), h * 0.6, white, w * 0.38)
        p.box((w * 0.28, reach, 0), (w * 0.72, d - 0.05, h * 0.7), white)
    seat = white if p.rng.random() < 0.7 else _paint(p.rng)
    p.lump((w / 2, reach, h), (w * 0.51, reach * 1.02, 0.022), seat, 0.8)
    if p.rng.random() < 0.35:  # lid up
        p.lump(
            (w / 2, 2 * reach - 0.03, h + reach * 0.85), (w * 0.48, 0.02, reach * 0.85), seat, 0.8
        )
        p.lump((w / 2, reach * 0.95, h + 0.02), (w * 0.3, reach * 0.65, 0.006), white * 0.55)
    if hung or p.rng.random() < 0.15:
        p.box((w * 0.1, d - tank, 0), (w * 0.9, d, h + u(0.5, 0.7)), white)
    else:
        p.box((w * 0.02, d - tank, h * 0.9), (w * 0.98, d, h + u(0.28, 0.42)), white)


def _radiator(p: Piece) -> None:
    u = p.rng.uniform
    w, d, h = u(0.4, 1.7), u(0.05, 0.15), u(0.35, 0.95)
    paint = np.full(3, u(0.75, 0.95)) if p.rng.random() < 0.75 else _paint(p.rng)
    kind = p.rng.integers(3)
    p.base = u(0.06, 0.2)
    if kind == 0:  # columns
        step = u(0.045, 0.075)
        for x in np.arange(step / 2, w, step):
            p.box((x - step * 0.33, 0, 0), (x + step * 0.33, d, h), paint)
        for z in (0.05, h - 0.09):
            p.box((0, d * 0.3, z), (w, d * 0.7, z + 0.04), paint)
    elif kind == 1:  # a ribbed panel
        p.box((0, 0.012, 0), (w, d, h), paint)
        for x in np.arange(0.03, w - 0.03, u(0.035, 0.06)):
            p.box((x, 0, 0.03), (x + 0.018, 0.012, h - 0.03), paint)
    else:  # a towel rail
        w, h = u(0.4, 0.65), u(0.8, 1.7)
        for x in (0.0, w - 0.035):
            p.box((x, 0, 0), (x + 0.035, 0.035, h), paint)
        for z in np.arange(0.06, h - 0.03, u(0.06, 0.11)):
            if p.rng.random() < 0.88:
                p.box((0, 0.005, z), (w, 0.028, z + 0.024), paint)
        p.base = u(0.15, 0.6)


def _bed(p: Piece) -> None:
    u = p.rng.uniform
    w, length, h = u(0.85, 1.9), u(1.9, 2.15), u(0.22, 0.42)
    frame = _paint(p.rng)
    wood = p.wood(frame) if p.rng.random() < 0.5 else -1
    thick = u(0.12, 0.26)
    sheet, cover = _cloth(p), _cloth(p)
    low = u(0.0, h - 0.12)
    p.box((0, 0, low), (w, length, h), frame, wood)
    if low > 0.03:
        for x in (0.0, w - 0.06):
            for y in (0.0, length - 0.06):
                p.box((x, y, 0), (x + 0.06, y + 0.06, low), frame, wood)
    p.lump(
        (w / 2, length / 2, h + thick / 2), (w * 0.485, length * 0.49, thick * 0.55), sheet, 0.35
    )
    if p.rng.random() < 0.75:
        far = u(0.5, 0.8) * length
        p.lump(
            (w / 2, far / 2, h + thick / 2 + 0.02), (w * 0.51, far / 2, thick * 0.6), cover, 0.35
        )
    for x in [0.5] if w < 1.2 else [0.27, 0.73]:
        if p.rng.random() < 0.85:
            p.lump(
                (x * w, length - u(0.22, 0.32), h + thick + 0.04),
                (u(0.22, 0.34), u(0.14, 0.2), u(0.05, 0.09)),
                _cloth(p),
                0.6,
            )
    if p.rng.random() < 0.8:
        p.box((0, length, 0), (w, length + u(0.03, 0.1), h + u(0.3, 0.8)), frame, wood)
    if p.rng.random() < 0.3:
        p.box((0, -0.05, 0), (w, 0, h + u(0.1, 0.4)), frame, wood)


def _cloth(p: Piece) -> np.ndarray:
    """A colour of cloth: often pale."""
    rgb = p.rng.uniform(0.1, 0.95, 3)
    pale = p.rng.random()
    return np.asarray(rgb * (1 - pale) + pale * p.rng.uniform(0.5, 0.95))


def _sofa(p: Piece) -> None:
    u = p.rng.uniform
    seats = int(p.rng.integers(2, 4)) if p.rng.random() < 0.75 else 1
    arm = u(0.08, 0.26)
    each, d = u(0.55, 0.75), u(0.78, 1.0)
    w, seat, back = seats * each + 2 * arm, u(0.36, 0.48), u(0.7, 0.98)
    cloth, second = _cloth(p), _cloth(p)
    feet = u(0.0, 0.14)
    round_ = u(0.2, 0.5)
    p.box((0.02, 0.02, feet), (w - 0.02, d, seat * 0.62), cloth)
    if feet > 0.03:
        for x in (0.03, w - 0.08):
            for y in (0.04, d - 0.09):
                p.box((x, y, 0), (x + 0.05, y + 0.05, feet), _paint(p.rng))
    deep = u(0.16, 0.28)
    p.lump(
        (w / 2, d - deep / 2, (feet + back) / 2),
        (w / 2, deep / 2, (back - feet) / 2),
        cloth,
        round_,
    )
    high = u(seat + 0.06, back - 0.05)
    for x in (arm / 2, w - arm / 2):
        p.lump((x, d / 2, (feet + high) / 2), (arm / 2, d / 2, (high - feet) / 2), cloth, round_)
    thick = u(0.1, 0.18)
    for i in range(seats):
        x = arm + (i + 0.5) * each
        p.lump(
            (x, (d - deep) / 2, seat - thick / 2),
            (each * 0.495, (d - deep) / 2, thick * 0.62),
            cloth,
            0.4,
        )
        p.lump(
            (x, d - deep - 0.06, (seat + back) / 2),
            (each * 0.48, 0.1, (back - seat) * 0.52),
            cloth,
            0.45,
        )
        if p.rng.random() < 0.25:
            p.lump((x, d - deep - 0.18, seat + 0.18), (0.2, 0.07, 0.18), second, 0.55)


def _desk(p: Piece) -> None:
    u = p.rng.uniform
    w, d, h = u(0.9, 1.8), u(0.5, 0.85), u(0.68, 0.8)
    paint = _paint(p.rng)
    wood = p.wood(paint) if p.rng.random() < 0.6 else -1
    thick = u(0.02, 0.05)
    p.box((0, 0, h - thick), (w, d, h), paint, wood)
    drawers = [p.rng.random() < 0.75, p.rng.random() < 0.3]
    leg = _paint(p.rng) if p.rng.random() < 0.4 else paint
    for side, block in enumerate(drawers):
        wide = u(0.3, 0.45)
        x0 = 0.0 if side else w - wide
        if block:
            p.box((x0, 0.03, u(0.0, 0.12)), (x0 + wide, d - 0.02, h - thick), paint * 0.97, wood)
            for z in np.linspace(0.15, h - 0.2, p.rng.integers(2, 4)):
                p.box((x0 + 0.01, 0.02, z), (x0 + wide - 0.01, 0.03, z + 0.14), paint * 0.92, wood)
                p.box(
                    (x0 + wide * 0.4, 0.0, z + 0.06),
                    (x0 + wide * 0.6, 0.02, z + 0.075),
                    np.full(3, 0.4),
                )
        elif p.rng.random() < 0.5:
            x = 0.0 if side else w - 0.03
            p.box((x, 0.01, 0), (x + 0.03, d - 0.01, h - thick), leg)
        else:
            x = 0.03 if side else w - 0.08
            for y in (0.03, d - 0.08):
                p.box((x, y, 0), (x + 0.05, y + 0.05, h - thick), leg)
    if p.rng.random() < 0.6:
        p.box((0.02, d - 0.04, u(0.2, 0.45)), (w - 0.02, d - 0.02, h - thick), paint, wood)
    p.top = h


def _bookshelf(p: Piece) -> None:
    u = p.rng.uniform
    w, d, h = u(0.4, 1.4), u(0.24, 0.4), u(0.8, 2.2)
    paint = _paint(p.rng)
    wood = p.wood(paint) if p.rng.random() < 0.6 else -1
    t = u(0.015, 0.035)
    closed = p.rng.random() < 0.75
    if closed:
        p.box((0, d - 0.01, 0), (w, d, h), paint * 0.9, wood)
    for x in np.linspace(0, w - t, 2 if w < 0.9 else p.rng.integers(2, 4)):
        p.box((x, 0, 0), (x + t, d, h), paint, wood)
    levels = np.linspace(u(0.02, 0.1), h - t, max(3, round(h / u(0.28, 0.42))))
    full = u(0.2, 0.95)
    for z, above in zip(levels, [*levels[1:], levels[-1]], strict=True):
        p.box((0, 0, z), (w, d, z + t), paint, wood)
        room, x = above - z - t, t + 0.01
        while x < w - t - 0.06 and room > 0.12:
            thick = u(0.015, 0.06)
            if p.rng.random() < full:
                tall = min(room - 0.02, u(0.15, 0.32))
                p.box(
                    (x, u(0.02, 0.08), z + t), (x + thick, d - 0.02, z + t + tall), u(0.05, 0.95, 3)
                )
            else:
                thick *= 3
            x += thick + 0.002
    p.top = h


def _cabinet(p: Piece) -> None:
    u = p.rng.uniform
    tall = p.rng.random() < 0.45
    w, d, h = u(0.4, 2.0), u(0.35, 0.62), u(1.5, 2.3) if tall else u(0.45, 1.2)
    paint = _paint(p.rng)
    wood = p.wood(paint) if p.rng.random() < 0.6 else -1
    feet = u(0.0, 0.12)
    p.box((0, 0.02, feet), (w, d, h), paint * 0.95, wood)
    if feet > 0.03:
        for x in (0.02, w - 0.07):
            for y in (0.04, d - 0.08):
                p.box((x, y, 0), (x + 0.05, y + 0.05, feet), paint, wood)
    columns = max(1, round(w / u(0.35, 0.6)))
    rows = 1 if p.rng.random() < 0.5 else int(p.rng.integers(2, 5))
    front = paint if p.rng.random() < 0.7 else _paint(p.rng)
    for c in range(columns):
        for r in range(rows):
            x0, x1 = w * c / columns + 0.006, w * (c + 1) / columns - 0.006
            z0, z1 = (
                feet + (h - feet) * r / rows + 0.006,
                feet + (h - feet) * (r + 1) / rows - 0.006,
            )
            p.box((x0, 0, z0), (x1, 0.02, z1), front, wood if front is paint else -1)
            x, z = (x1 - 0.06, (z0 + z1) / 2) if rows == 1 else ((x0 + x1) / 2, (z0 + z1) / 2)
            p.box((x - 0.012, -0.025, z - 0.03), (x + 0.012, 0, z + 0.03), np.full(3, u(0.1, 0.8)))
    if not tall:
        p.top = h


def _door(p: Piece) -> None:
    u = p.rng.uniform
    w, h, d = u(0.72, 1.05), u(1.95, 2.15), u(0.08, 0.14)
    paint = _paint(p.rng)
    wood = p.wood(paint) if p.rng.random() < 0.5 else -1
    edge, trim = u(0.04, 0.1), paint if p.rng.random() < 0.6 else np.full(3, u(0.6, 0.95))
    for x in (0.0, w - edge):
        p.box((x, 0, 0), (x + edge, d, h), trim)
    p.box((0, 0, h - edge), (w, d, h), trim)
    p.box((edge, d * 0.3, 0), (w - edge, d * 0.8, h - edge), paint, wood)
    for _ in range(1):
        rows, columns = int(p.rng.integers(0, 4)), int(p.rng.integers(1, 3))
        glass = p.rng.random() < 0.2
        for r in range(rows):
            for c in range(columns):
                x0 = edge + 0.08 + (w - 2 * edge - 0.08) * c / columns
                x1 = edge + (w - 2 * edge - 0.08) * (c + 1) / columns
                z0, z1 = 0.12 + (h - 0.3) * r / rows, 0.04 + (h - 0.3) * (r + 1) / rows
                shade = np.array([0.75, 0.85, 0.9]) if glass else paint * u(0.8, 0.95)
                p.box((x0, d * 0.25, z0), (x1, d * 0.3, z1), shade)
    x = edge + 0.05 if p.rng.random() < 0.5 else w - edge - 0.16
    p.box((x, d * 0.3 - 0.06, 0.98), (x + 0.11, d * 0.3, 1.01), np.full(3, u(0.2, 0.8)))


def _window(p: Piece) -> None:
    u = p.rng.uniform
    w, h, d = u(0.5, 2.2), u(0.7, 1.6), u(0.06, 0.14)
    frame = np.full(3, u(0.7, 0.95)) if p.rng.random() < 0.6 else _paint(p.rng)
    edge = u(0.03, 0.08)
    pane = np.clip(np.array([0.72, 0.82, 0.92]) * u(0.5, 1.15), 0, 1)
    p.box((edge, d * 0.5, edge), (w - edge, d * 0.6, h - edge), pane)
    for x in np.linspace(0, w - edge, p.rng.integers(2, 5)):
        p.box((x, 0, 0), (x + edge, d, h), frame)
    for z in [0.0, h - edge] + ([h * u(0.4, 0.75)] if p.rng.random() < 0.5 else []):
        p.box((0, 0, z), (w, d, z + edge), frame)
    if p.rng.random() < 0.4:  # sill
        p.box((-0.04, -u(0.04, 0.12), -0.03), (w + 0.04, d, 0.0), frame)
    p.base = u(0.6, 1.05)


def _lamp(p: Piece) -> None:
    u = p.rng.uniform
    shade = (
        np.clip(np.array([0.95, 0.9, 0.8]) * u(0.6, 1.05), 0, 1)
        if p.rng.random() < 0.6
        else _cloth(p)
    )
    metal = _paint(p.rng)
    kind = p.rng.integers(3)
    radius, tall = u(0.12, 0.28), u(0.15, 0.35)
    narrow = radius * u(0.4, 1.0)
    if kind == 2:  # hanging
        cord = u(0.2, 0.7)
        if p.rng.random() < 0.4:
            p.lump((0, 0, radius), (radius, radius, radius * u(0.6, 1.0)), shade)
        else:
            p.tube((0, 0, 0), radius, tall, shade, narrow)
        p.tube((0, 0, tall), 0.012, cord, metal)
        p.tube((0, 0, tall + cord - 0.03), 0.05, 0.03, metal)
        p.base = 1.6
        return
    pole = u(1.0, 1.5) if kind == 0 else u(0.15, 0.4)
    wide = u(0.12, 0.18) if kind == 0 else u(0.06, 0.12)
    p.tube((0, 0, 0), wide, 0.025, metal)
    if kind == 1 and p.rng.random() < 0.5:
        p.lump((0, 0, pole / 2), (wide * 0.9, wide * 0.9, pole / 2), _cloth(p))
    else:
        p.tube((0, 0, 0.025), 0.015, pole, metal)
    p.tube((0, 0, pole), radius, tall, shade, narrow)


MAKERS: dict[str, Callable[[Piece], None]] = {
    "refrigerator": _refrigerator, "oven_stove": _oven_stove, "tv_monitor": _tv_monitor,
    "sink": _sink, "toilet": _toilet, "radiator": _radiator, "bed": _bed, "sofa": _sofa,
    "desk": _desk, "bookshelf": _bookshelf, "cabinet": _cabinet, "door": _door,
    "window": _window, "lamp": _lamp,
}  # fmt: skip


def _build(category: str, seed: int) -> tuple[Piece, Mesh]:
    piece = Piece(np.random.default_rng([seed, list(MAKERS).index(category)]))
    MAKERS[category](piece)
    return piece, piece.mesh()


def built_item(category: str, seed: int) -> Furniture:
    """The facts of a built piece; its mesh is :func:`built_mesh`."""
    piece, mesh = _build(category, seed)
    width, depth, height = (float(v) for v in np.ptp(mesh.vertices, axis=0))
    return Furniture(
        category, "train", LIBRARY, f"{LIBRARY}/{category}/{seed}", category, "crossfuse",
        "Apache-2.0", (width, depth, height), piece.base, piece.top, None,
    )  # fmt: skip


def built_mesh(item: Furniture) -> Mesh:
    """Triangles of a piece made by :func:`built_item`."""
    return _build(item.category, int(item.path.rsplit("/", 1)[1]))[1]
