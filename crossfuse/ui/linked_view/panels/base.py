"""What every panel has in common; see README.md beside the view for how to write one."""

from __future__ import annotations

import hashlib
import io
import weakref
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
from PIL import Image

MAX_PHOTO_SIDE = 1280  # pixels sent to the browser; coordinates stay those of the full photo
KEPT_PHOTOS = 64  # encoded photos that are kept, some 100 kB each

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Panel:
    """One drawing of one geometry (or, for a matrix, of the map itself).

    ``geometry``: its name in the trace; of several names the one that the chosen maps use is
    shown (grids of several scales over one photograph). ``part``: the part of a Joined geometry.
    ``role``: ``"query"`` or ``"key"`` where two panels show one geometry of a self-attention map,
    one for each side. ``fixed``: choices of this panel alone, e.g. ``{"direction": "de→psd"}`` or
    ``{"layer": 0, "head": 2}``. ``width``: share of its line, relative to its neighbours.
    """

    kind: ClassVar[str]

    geometry: str | tuple[str, ...] = ()
    _: KW_ONLY
    title: str = ""
    part: str | None = None
    role: Literal["any", "query", "key"] = "any"
    fixed: Mapping[str, str | int] = field(default_factory=dict)
    width: float = 1.0

    @property
    def geometries(self) -> tuple[str, ...]:
        """The names of the geometries that this panel can show."""
        return (self.geometry,) if isinstance(self.geometry, str) else tuple(self.geometry)

    def options(self) -> dict[str, Any]:
        """JSON for the panel's module, as ``data.options``."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """One-dimensional arrays for the panel's module, as ``data.arrays``."""
        return {}


class Kept(Generic[V]):
    """What was made of arrays that nobody writes, kept as long as the arrays live."""

    def __init__(self) -> None:
        self._made: dict[int, V] = {}

    def of(self, array: np.ndarray, make: Callable[[np.ndarray], V]) -> V:
        """``make(array)``, or what an earlier call has made of this very array."""
        if array.flags.writeable:
            return make(array)
        key = id(array)
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = make(array)
            weakref.finalize(array, self._made.pop, key, None).atexit = False
        return made


_jpegs: Kept[np.ndarray] = Kept()
_encoded: dict[str, np.ndarray] = {}  # by digest, for a page that reads its photo anew in each run


def encode_photo(image: np.ndarray | None) -> dict[str, np.ndarray]:
    """A photograph (H, W, 3) uint8 as ``{"image": bytes of a JPEG}``; nothing for None."""
    return {} if image is None else {"image": _jpegs.of(image, _jpeg)}


def _jpeg(image: np.ndarray) -> np.ndarray:
    pixels = np.ascontiguousarray(image, dtype=np.uint8)
    digest = hashlib.sha256(pixels.data).hexdigest() + str(pixels.shape)
    found = _encoded.get(digest)
    if found is None:
        picture = Image.fromarray(pixels).convert("RGB")
        if max(picture.size) > MAX_PHOTO_SIDE:
            picture.thumbnail((MAX_PHOTO_SIDE, MAX_PHOTO_SIDE), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90)
        found = np.frombuffer(buffer.getvalue(), dtype=np.uint8)
        if len(_encoded) >= KEPT_PHOTOS:
            _encoded.pop(next(iter(_encoded)), None)
        _encoded[digest] = found
    return found
