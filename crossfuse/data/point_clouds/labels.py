"""What the numbers of labelled points mean, as classes of CrossFuse Rooms.

The data sets named here come with terms of use and are not part of this project; only the order
of their classes is known. A class without a counterpart becomes -1, "none".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from crossfuse.data.point_clouds.cloud import PointCloud
from crossfuse.data.rooms.catalogue import CLASSES
from crossfuse.errors import CrossfuseError

# NYU40 ids (ScanNet's *.labels.ply) that its benchmark keeps, and those that have a class here.
NYU40 = {
    1: "wall", 2: "floor", 3: "cabinet", 4: "bed", 5: "chair", 6: "sofa", 7: "table", 8: "door",
    9: "window", 10: "bookshelf", 14: "desk", 22: "ceiling", 24: "refrigerator", 25: "tv_monitor",
    33: "toilet", 34: "sink", 35: "lamp",
}  # fmt: skip
# The 20 classes of ScanNet's benchmark, counted from 0 as training code does.
SCANNET20 = {
    0: "wall", 1: "floor", 2: "cabinet", 3: "bed", 4: "chair", 5: "sofa", 6: "table", 7: "door",
    8: "window", 9: "bookshelf", 12: "desk", 14: "refrigerator", 16: "toilet", 17: "sink",
}  # fmt: skip
S3DIS_NAMES = (
    "ceiling", "floor", "wall", "beam", "column", "window", "door", "table", "chair", "sofa",
    "bookcase", "board", "clutter",
)  # fmt: skip
OTHER_WORDS = {
    "bookcase": "bookshelf", "couch": "sofa", "television": "tv_monitor", "tv": "tv_monitor",
    "monitor": "tv_monitor", "fridge": "refrigerator", "oven": "oven_stove", "stove": "oven_stove",
    "shelf": "bookshelf", "bookshelves": "bookshelf", "closet": "cabinet", "wardrobe": "cabinet",
}  # fmt: skip


def class_of_name(name: str) -> int:
    """The class that is called so, or -1."""
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    plain = OTHER_WORDS.get(plain, plain)
    return CLASSES.index(plain) if plain in CLASSES else -1


def _by_name(names: dict[int, str]) -> dict[int, int]:
    return {number: class_of_name(name) for number, name in names.items()}


MEANINGS: dict[str, dict[int, int]] = {
    "crossfuse": {i: i for i in range(len(CLASSES))},
    "nyu40": _by_name(NYU40),
    "scannet20": _by_name(SCANNET20),
    "s3dis": _by_name(dict(enumerate(S3DIS_NAMES))),
}


def with_meaning(cloud: PointCloud, meaning: str = "auto") -> PointCloud:
    """The cloud with labels that are classes of CrossFuse Rooms, or as it is if they mean nothing.

    Args:
        meaning: "auto" (names that the file gives, if any) or a key of ``MEANINGS``.

    Raises:
        CrossfuseError: an unknown meaning.
    """
    if meaning != "auto" and meaning not in MEANINGS:
        raise CrossfuseError(
            "The labels cannot mean {meaning!r}; choose one of auto, {meanings}.",
            meaning=meaning,
            meanings=", ".join(MEANINGS),
        )
    if cloud.labels is None or tuple(cloud.label_names) == tuple(CLASSES):
        return cloud
    if meaning == "auto":
        table = _by_name(dict(enumerate(cloud.label_names)))
        if not any(number >= 0 for number in table.values()):
            return cloud
    else:
        table = MEANINGS[meaning]
    return replace(cloud, labels=mapped(cloud.labels, table), label_names=tuple(CLASSES))


def mapped(labels: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Labels (N,) int64 through ``table``; what it does not hold becomes -1."""
    values, place = np.unique(labels, return_inverse=True)
    return np.array([table.get(int(value), -1) for value in values], np.int64)[place]


def names_in(comments: Sequence[str]) -> tuple[str, ...]:
    """Class names of a header comment ``classes: 0 wall, 1 floor, ...``; none if there is none."""
    for comment in comments:
        key, _, rest = comment.partition(":")
        pairs = [item.split(maxsplit=1) for item in rest.split(",")]
        numbered = all(len(pair) == 2 and pair[0].isdigit() for pair in pairs)
        if key.strip().lower() == "classes" and numbered and len(pairs) <= 1000:
            found = {int(number): name for number, name in pairs if len(number) < 5}
            return tuple(found.get(i, "") for i in range(max(found) + 1)) if found else ()
    return ()
