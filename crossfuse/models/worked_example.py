r"""Cross-attention small enough to follow by hand: a few words ask a few image cells.

Every intermediate array is kept, in float64 NumPy, so that the primer can print it. The steps are
those of Vaswani et al. 2017 (arXiv 1706.03762), section 3.2, with queries from one sequence and
keys and values from the other:

    Q = X W_Q,  K = Y W_K,  V = Y W_V                      (N_q, d), (N_k, d), (N_k, d)
    S_h = Q_h K_hᵀ / (τ √d_h)                              (H, N_q, N_k)
    A_h = softmax over keys of S_h, hidden keys at -inf    (H, N_q, N_k)
    O = concat_h A_h V_h                                   (N_q, d)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from crossfuse.errors import CrossfuseError

FEATURES = ("red", "green", "blue", "round")
WORDS = ("a", "red", "ball", "grass")
CELLS = ("sky", "cloud", "sun", "tree", "ball", "grass")
GRID = (2, 3)  # rows and columns of the picture
LIMIT = 9.0  # largest magnitude a reader may type


def _words() -> np.ndarray:
    return np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0.2, 0, 0, 1], [0, 1, 0, 0]], dtype=float)


def _cells() -> np.ndarray:
    return np.array(
        [
            [0.2, 0.5, 1.0, 0.0],
            [0.7, 0.8, 1.0, 0.3],
            [1.0, 0.8, 0.1, 1.0],
            [0.1, 0.5, 0.2, 0.2],
            [1.0, 0.1, 0.1, 1.0],
            [0.3, 0.9, 0.2, 0.0],
        ]
    )


def _projection(strength: float) -> np.ndarray:
    return strength * np.eye(len(FEATURES))


@dataclass(frozen=True, eq=False)
class WorkedExample:
    """The numbers a reader may change.

    ``words`` (N_q, 4) and ``cells`` (N_k, 4) hold one row of features an item; the projections are
    (4, 4). ``heads`` divides 4. ``hidden`` lists masked cells. ``scaled`` divides by √d_h.
    """

    words: np.ndarray = field(default_factory=_words)
    cells: np.ndarray = field(default_factory=_cells)
    to_query: np.ndarray = field(default_factory=lambda: _projection(2.5))
    to_key: np.ndarray = field(default_factory=lambda: _projection(2.5))
    to_value: np.ndarray = field(default_factory=lambda: _projection(1.0))
    heads: int = 1
    temperature: float = 1.0
    scaled: bool = True
    hidden: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        width = len(FEATURES)
        if self.heads < 1 or width % self.heads:
            raise CrossfuseError(
                "{width} features cannot be shared among {heads} heads.",
                width=width,
                heads=self.heads,
            )
        if not self.temperature > 0:
            raise CrossfuseError("The temperature must be above 0.")
        for name in ("words", "cells", "to_query", "to_key", "to_value"):
            array = np.asarray(getattr(self, name), dtype=float)
            if array.ndim != 2 or array.shape[1] != width:
                raise CrossfuseError(
                    "The table '{name}' must have {width} columns; it is {shape}.",
                    name=name,
                    width=width,
                    shape=array.shape,
                )
            if not np.isfinite(array).all():
                raise CrossfuseError(
                    "The table '{name}' holds a value that is not a number.", name=name
                )
            object.__setattr__(self, name, array)
        if set(self.hidden) >= set(range(len(self.cells))):
            raise CrossfuseError("All cells are hidden; leave at least one to look at.")


@dataclass(frozen=True, eq=False)
class Steps:
    """Every intermediate array of one worked example.

    query, key, value: (H, N, d_h); scores: Q Kᵀ; logits: divided by τ√d_h, hidden cells -inf;
    exponentials: exp(logits - row maximum); weights: (H, N_q, N_k), rows sum to 1;
    head_outputs (H, N_q, d_h); output (N_q, d).
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    scores: np.ndarray
    divisor: float
    logits: np.ndarray
    exponentials: np.ndarray
    weights: np.ndarray
    head_outputs: np.ndarray
    output: np.ndarray


def split_heads(tokens: np.ndarray, heads: int) -> np.ndarray:
    """(N, d) to (H, N, d / H): head h takes the h-th block of features."""
    return tokens.reshape(len(tokens), heads, -1).transpose(1, 0, 2)


def run(example: WorkedExample) -> Steps:
    """Compute all steps of an example."""
    query = split_heads(example.words @ example.to_query, example.heads)
    key = split_heads(example.cells @ example.to_key, example.heads)
    value = split_heads(example.cells @ example.to_value, example.heads)
    scores = query @ key.transpose(0, 2, 1)
    divisor = example.temperature * (np.sqrt(query.shape[-1]) if example.scaled else 1.0)
    logits = scores / divisor
    logits[:, :, list(example.hidden)] = -np.inf
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights = exponentials / exponentials.sum(axis=-1, keepdims=True)
    head_outputs = weights @ value
    output = head_outputs.transpose(1, 0, 2).reshape(len(example.words), -1)
    return Steps(
        query, key, value, scores, float(divisor), logits, exponentials, weights, head_outputs,
        output,
    )  # fmt: skip


def swatch(features: np.ndarray, size: int = 120) -> np.ndarray:
    """Draw one row of features as a picture, (size, size, 3) uint8.

    Red, green and blue are the colour; "round" fades the corners away, leaving a disc.
    """
    amounts = np.clip(np.nan_to_num(np.asarray(features, dtype=float)), 0.0, 1.0)
    paper = np.array([238.0, 235.0, 226.0])
    colour = 40.0 + 205.0 * amounts[:3]
    grid = (np.arange(size) + 0.5) / size - 0.5
    distance = np.hypot(grid[:, None], grid[None, :])
    inside = np.clip((0.38 - distance) * size / 2 + 0.5, 0.0, 1.0)
    opacity = inside + (1.0 - inside) * (1.0 - amounts[3])
    picture = paper + (colour - paper) * opacity[..., None]
    return np.round(picture).astype(np.uint8)


def picture(cells: np.ndarray, size: int = 120) -> np.ndarray:
    """The image whose cells have these features, (rows * size, columns * size, 3) uint8."""
    rows, columns = GRID
    tiles = [swatch(cell, size) for cell in cells]
    return np.concatenate(
        [np.concatenate(tiles[r * columns : (r + 1) * columns], axis=1) for r in range(rows)]
    )


def boxes(size: int = 120) -> np.ndarray:
    """Where the cells lie on :func:`picture`: (cells, 4) as x0, y0, x1, y1 in pixels."""
    y, x = np.divmod(np.arange(len(CELLS)), GRID[1])
    return size * np.stack([x, y, x + 1, y + 1], axis=1).astype(np.float32)


def strip(cells: np.ndarray, weights: np.ndarray, output: np.ndarray, size: int = 96) -> np.ndarray:
    """The cells side by side, each as opaque as its weight, then what they add up to.

    Args:
        cells: (N_k, 4) features. weights: (N_k,). output: (4,) features of the result.

    Returns:
        (size + bar, width, 4) uint8 with an alpha channel, so that it sits on any paper.
    """
    tiles = []
    for cell, weight in zip(cells, weights, strict=True):
        tile = np.full((size, size + 8, 4), 0, dtype=np.uint8)
        tile[:, :size, :3] = swatch(cell, size)
        tile[:, :size, 3] = round(255 * (0.06 + 0.94 * float(np.clip(weight, 0, 1)) ** 0.7))
        tiles.append(tile)
    gap = np.zeros((size, size // 2, 4), dtype=np.uint8)
    middle, reach = size // 2, size // 8
    for x in range(reach * 2):  # an arrow head
        half = reach - x // 2
        gap[middle - half : middle + half, size // 8 + x] = (127, 127, 127, 255)
    result = np.full((size, size, 4), 255, dtype=np.uint8)
    result[..., :3] = swatch(output, size)
    return np.concatenate([*tiles, gap, result], axis=1)
