"""What a composed room is made of: audited furniture meshes and surface treatments.

The meshes are those of the Debian package ``sweethome3d-furniture`` (five ``.sh3f`` archives,
which are zip files). Only facts about them live here (class, split, size, licence, author); the
meshes are read from the installed package or from a folder the caller names.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from crossfuse.errors import CrossfuseError

CLASSES = (
    "wall",
    "floor",
    "ceiling",
    "door",
    "window",
    "chair",
    "table",
    "desk",
    "sofa",
    "bed",
    "cabinet",
    "bookshelf",
    "lamp",
    "plant",
    "tv_monitor",
    "sink",
    "toilet",
    "refrigerator",
    "oven_stove",
    "radiator",
)
"""The twenty classes of CrossFuse Rooms; a label is an index into this list."""
IGNORE = 255
"""Label of clutter that belongs to no class; left out of every score."""

_HERE = Path(__file__).parent
PACKAGE = "sweethome3d-furniture"
_INSTALLED = Path("/usr/share/sweethome3d/furniture")


@dataclass(frozen=True)
class Furniture:
    """One audited mesh. ``size``: width, depth, height in metres; ``rotation``: of the file."""

    category: str
    split: str
    library: str
    path: str
    name: str
    creator: str
    licence: str
    size: tuple[float, float, float]
    base: float
    top: float | None
    rotation: np.ndarray | None

    @property
    def label(self) -> int:
        return CLASSES.index(self.category) if self.category in CLASSES else IGNORE

    def credit(self) -> str:
        """One line of attribution, as CC BY asks for."""
        return (
            f"{self.name} ({self.library}, {self.path}) by {self.creator}, {self.licence}, "
            "via Sweet Home 3D; scaled, lit and sampled"
        )


@dataclass(frozen=True)
class Treatment:
    """A procedural wall, floor or ceiling covering that repeats every ``tile`` metres."""

    surface: str
    split: str
    name: str
    pattern: str
    rgb: tuple[float, float, float]
    rgb2: tuple[float, float, float]
    tile: float
    seed: int


@dataclass(frozen=True)
class Mesh:
    """Triangles in metres, z up, x and y centred, lowest z = 0, back towards +y.

    vertices (V, 3), faces (F, 3), uv (F, 3, 2), colour (F, 3) in 0..1, texture (F,) index into
    ``images`` or -1 for a flat colour.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    images: tuple[np.ndarray, ...]


def _table(name: str) -> list[dict[str, str]]:
    lines = [
        line
        for line in (_HERE / name).read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    head = lines[0].split("\t")
    return [dict(zip(head, line.split("\t"), strict=True)) for line in lines[1:]]


@lru_cache(maxsize=1)
def furniture() -> tuple[Furniture, ...]:
    """All audited meshes."""
    return tuple(
        Furniture(
            category=row["class"],
            split=row["split"],
            library=row["library"],
            path=row["path"],
            name=row["name"],
            creator=row["creator"],
            licence=row["licence"],
            size=tuple(float(v) / 100 for v in row["size"].split("x")),  # type: ignore[arg-type]
            base=float(row["base"]) / 100,
            top=None if row["top"] == "-" else float(row["top"]) / 100,
            rotation=None
            if row["rotation"] == "-"
            else np.array([float(v) for v in row["rotation"].split(",")]).reshape(3, 3),
        )
        for row in _table("catalogue.tsv")
    )


@lru_cache(maxsize=1)
def treatments() -> tuple[Treatment, ...]:
    """All surface treatments."""

    def rgb(text: str) -> tuple[float, float, float]:
        return tuple(float(v) for v in text.split(","))  # type: ignore[return-value]

    return tuple(
        Treatment(
            surface=row["surface"],
            split=row["split"],
            name=row["name"],
            pattern=row["pattern"],
            rgb=rgb(row["rgb"]),
            rgb2=rgb(row["rgb2"]),
            tile=float(row["tile_m"]),
            seed=int(row["seed"]),
        )
        for row in _table("treatments.tsv")
    )


def find_package(folder: str | Path | None = None) -> Path:
    """The folder that holds the ``.sh3f`` archives.

    Looks in ``folder`` (any depth) if given, else where Debian installs the package.

    Raises:
        CrossfuseError: nothing found there.
    """
    root = Path(folder) if folder is not None else _INSTALLED
    found = sorted(root.rglob("Scopia.sh3f")) if root.is_dir() else []
    if not found:
        raise CrossfuseError(
            "The furniture archives (*.sh3f) were not found under {root}. Install the "
            "Debian package sweethome3d-furniture, or unpack it (apt-get download, dpkg "
            "-x) and name the folder with --furniture.",
            root=root,
        )
    return found[0].parent


def fetch_package(folder: Path) -> Path:
    """The folder with the archives: where they are installed, else fetched into ``folder``.

    Fetching takes Debian's own tools (``apt-get download``, ``dpkg-deb``) and no rights.

    Raises:
        CrossfuseError: neither installed nor to be had.
    """
    if any(_INSTALLED.glob("*.sh3f")):
        return find_package()
    if not any(folder.rglob("*.sh3f")) and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=False)
        for archive in folder.glob(f"{PACKAGE}_*.deb"):
            subprocess.run(["dpkg-deb", "-x", archive.name, "."], cwd=folder, check=False)
            archive.unlink()
    return find_package(folder)


class Warehouse:
    """Loads meshes from the archives; each mesh is parsed once and kept."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = find_package(folder)
        self._meshes: dict[str, Mesh] = {}

    def mesh(self, item: Furniture) -> Mesh:
        """The item's mesh at its catalogue size."""
        if item.path not in self._meshes:
            self._meshes[item.path] = self._load(item)
        return self._meshes[item.path]

    def _load(self, item: Furniture) -> Mesh:
        import trimesh

        archive = self.folder / f"{item.library}.sh3f"
        prefix = item.path.rsplit("/", 1)[0] + "/"
        with zipfile.ZipFile(archive) as box, tempfile.TemporaryDirectory() as scratch:
            names = [n for n in box.namelist() if n.startswith(prefix) and not n.endswith("/")]
            if item.path not in names:
                raise CrossfuseError(
                    "{archive} holds no {path}; another package version?",
                    archive=archive,
                    path=item.path,
                )
            for name in names:
                (Path(scratch) / Path(name).name).write_bytes(box.read(name))
            scene: Any = trimesh.load(Path(scratch) / Path(item.path).name, process=False)
        parts = list(scene.geometry.values()) if hasattr(scene, "geometry") else [scene]
        return _normalised([p for p in parts if len(p.faces)], item)


def _normalised(parts: list, item: Furniture) -> Mesh:
    vertices, faces, uvs, colours, textures = [], [], [], [], []
    images: list[np.ndarray] = []
    offset = 0
    for part in parts:
        count = len(part.faces)
        image, flat = _material(part)
        uv = getattr(part.visual, "uv", None)
        if image is not None and uv is not None:
            images.append(image)
            textures.append(np.full(count, len(images) - 1, np.int32))
            uvs.append(np.asarray(uv, np.float32)[part.faces])
        else:
            textures.append(np.full(count, -1, np.int32))
            uvs.append(np.zeros((count, 3, 2), np.float32))
        colours.append(np.tile(np.asarray(flat, np.float32), (count, 1)))
        vertices.append(np.asarray(part.vertices, np.float64))
        faces.append(np.asarray(part.faces, np.int64) + offset)
        offset += len(part.vertices)
    v = np.concatenate(vertices)
    if item.rotation is not None:
        v = v @ item.rotation.T
    used = v[np.unique(np.concatenate(faces))]
    low, extent = used.min(0), np.maximum(np.ptp(used, axis=0), 1e-9)
    width, depth, height = item.size
    v = (v - low) / extent * np.array([width, height, depth])
    v -= np.array([width / 2, 0.0, depth / 2])
    v = np.stack([v[:, 0], -v[:, 2], v[:, 1]], 1)  # y up -> z up; backs now face +y
    return Mesh(
        v.astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate(uvs),
        np.concatenate(colours),
        np.concatenate(textures),
        tuple(images),
    )


def _material(part: object) -> tuple[np.ndarray | None, np.ndarray]:
    """(image (h, w, 3) float32 in 0..1 or None, flat colour (3,))."""
    material = getattr(getattr(part, "visual", None), "material", None)
    flat = np.array([0.7, 0.7, 0.7], np.float32)
    diffuse = getattr(material, "diffuse", None)
    if diffuse is not None:
        flat = np.asarray(diffuse, np.float32)[:3] / np.float32(255)
    picture = getattr(material, "image", None)
    if picture is None:
        return None, flat
    picture.thumbnail((384, 384))
    pixels = np.asarray(picture.convert("RGBA"), np.float32) / np.float32(255)
    solid = pixels[..., 3] > 0.5
    if solid.any() and not solid.all():  # cut-outs would be opaque cards: fill with the mean
        pixels[~solid, :3] = pixels[solid, :3].mean(0)
    return np.ascontiguousarray(pixels[..., :3]), flat


def treatment_image(treatment: Treatment, side: int = 256) -> np.ndarray:
    """The repeating image of a treatment, (side, side, 3) float32 in 0..1."""
    rng = np.random.default_rng(treatment.seed)
    first, second = np.array(treatment.rgb), np.array(treatment.rgb2)
    y, x = np.mgrid[0:side, 0:side] / side
    image = np.broadcast_to(first, (side, side, 3)).copy()

    def joints(rows: int, columns: int, width: float, shift: float) -> tuple:
        row = np.floor(y * rows).astype(int)
        along = (x * columns + shift * (row % 2)) % columns
        joint = ((y * rows) % 1 < width * rows) | (along % 1 < width * columns)
        return row, np.floor(along).astype(int), joint

    pattern = treatment.pattern
    if pattern == "planks":
        row, board, joint = joints(6, 2, 0.006, 0.37)
        image = image * (1 + rng.uniform(-0.06, 0.06, (6, 2)))[row, board][..., None]
        grain = np.repeat(rng.normal(0, 0.02, (side, 1)), side, 1)
        image = np.where(joint[..., None], second, image + grain[..., None])
    elif pattern == "bricks":
        row, brick, joint = joints(8, 4, 0.012, 0.5)
        image = image * (1 + rng.uniform(-0.08, 0.08, (8, 4)))[row, brick][..., None]
        image = np.where(joint[..., None], second, image)
    elif pattern in ("tiles", "panels"):
        _, _, joint = joints(*((4, 4) if pattern == "tiles" else (5, 5)), 0.008, 0.0)
        image = np.where(joint[..., None], second, image)
    elif pattern == "checker":
        odd = (np.floor(x * 4) + np.floor(y * 4)) % 2
        image = np.where(odd[..., None] > 0, second, first)
    elif pattern == "stripes":
        image = np.where((np.floor(x * 8) % 2)[..., None] > 0, second, first)
    elif pattern == "speckle":
        image = np.where(rng.random((side, side, 1)) < 0.12, second, first)
    elif pattern == "carpet":
        coarse = np.kron(rng.normal(0, 0.04, (side // 8, side // 8)), np.ones((8, 8)))
        image = image + coarse[..., None] + rng.normal(0, 0.05, (side, side, 1))
    image = image + rng.normal(0, 0.01, (side, side, 1))
    return np.clip(image, 0, 1).astype(np.float32)


def attribution(items: list[Furniture]) -> str:
    """Text of an attribution file: one line a mesh used, sorted, without repeats."""
    lines = sorted({item.credit() for item in items})
    out = io.StringIO()
    out.write("Rooms composed from 3-D models of these authors:\n\n")
    out.writelines(f"- {line}\n" for line in lines)
    return out.getvalue()
