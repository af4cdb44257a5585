r"""Six ways in which 2-D cross-attention is written wrongly, beside the right one.

Each function takes projected maps q (B, C, H_q, W_q), k (B, C, H_k, W_k), v (B, C_v, H_k, W_k) and
returns ``(weights, output)``. All but the first hold one mistake seen in published code; each runs
without an error on two photographs of one size, which is why the mistakes live on. The checks
below tell them apart; ``correct`` passes all.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossfuse.models.feature_map import frozen_heads

Attention = Callable[..., tuple[Tensor, Tensor]]


def correct(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    b, c, h, w = q.shape

    def tokens(x):  # type: ignore[no-untyped-def]
        return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)

    scores = tokens(q) @ tokens(k).transpose(2, 3)
    weights = (scores / (c // heads) ** 0.5).softmax(dim=-1)
    out = weights @ tokens(v)
    return weights, out.transpose(2, 3).reshape(b, -1, h, w)


def channel(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    scores = q @ k.transpose(-2, -1)
    weights = (scores / q.shape[1] ** 0.5).softmax(dim=-1)
    return weights, weights @ v


def scale(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    b, c, h, w = q.shape

    def tokens(x):  # type: ignore[no-untyped-def]
        return x.flatten(2).unflatten(1, (heads, -1)).transpose(2, 3)

    scores = tokens(q) @ tokens(k).transpose(2, 3)
    weights = (scores / c**0.5).softmax(dim=-1)
    out = weights @ tokens(v)
    return weights, out.transpose(2, 3).reshape(b, -1, h, w)


def axis(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    b, c, h, w = q.shape
    q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
    scores = q.transpose(1, 2) @ k
    weights = (scores / c**0.5).softmax(dim=1)
    out = weights @ v.transpose(1, 2)
    return weights, out.transpose(1, 2).reshape(b, -1, h, w)


def grid(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    b, c, h, w = k.shape
    q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
    scores = q.transpose(1, 2) @ k
    weights = (scores / c**0.5).softmax(dim=-1)
    out = weights @ v.transpose(1, 2)
    return weights, out.transpose(1, 2).reshape(b, -1, h, w)


def view(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    b, c, h, w = q.shape
    q = q.reshape(b, -1, c)
    k = k.reshape(b, -1, c)
    v = v.reshape(b, -1, v.shape[1])
    weights = (q @ k.transpose(1, 2) / c**0.5).softmax(dim=-1)
    out = weights @ v
    return weights, out.reshape(b, -1, h, w)


def swap(q, k, v, heads=1):  # type: ignore[no-untyped-def]
    b, c, h, w = q.shape
    q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
    scores = k.transpose(1, 2) @ q
    weights = (scores / c**0.5).softmax(dim=-1)
    out = weights @ v.transpose(1, 2)
    return weights, out.transpose(1, 2).reshape(b, -1, h, w)


# ---------------------------------------------------------------- the checks


def _maps(seed: int, channels: int, *grids: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, channels, *grid, generator=generator) for grid in grids]


def rows_sum_to_one(attention: Attention) -> bool:
    """Each asker has one unit of weight to give, over all it can look at."""
    q, k = _maps(0, 8, (3, 4), (3, 4))
    sums = attention(q, k, k)[0].sum(-1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-5)


def one_row_an_asker(attention: Attention) -> bool:
    """The map is askers x asked, also when the two grids differ."""
    q, k = _maps(1, 8, (3, 4), (2, 3))
    return attention(q, k, k)[0].shape[-2:] == (12, 6)


def answer_on_the_askers_grid(attention: Attention) -> bool:
    """With 8 x 2 askers and 4 x 4 asked, a mark that belongs to asker (6, 1) stays there."""
    q, k = torch.zeros(1, 4, 8, 2), torch.zeros(1, 4, 4, 4)
    q[0, 0, 6, 1] = k[0, 0, 0, 0] = 20.0
    v = torch.zeros(1, 4, 4, 4)
    v[0, 0, 0, 0] = 1.0
    out = attention(q, k, v)[1]
    return out.shape[-2:] == (8, 2) and int(out[0, 0].argmax()) == 6 * 2 + 1


def follows_a_moved_cell(attention: Attention) -> bool:
    """Move the asked cell that fits best to another row and column: the weight goes with it."""
    q, k = torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4)
    q[0, 2, 1, 1] = 20.0
    near, far = k.clone(), k.clone()
    near[0, 2, 1, 1] = far[0, 2, 3, 2] = 20.0
    first, second = (attention(q, moved, moved)[0][..., 5, :].flatten() for moved in (near, far))
    return int(first.argmax()) == 5 and int(second.argmax()) == 3 * 4 + 2


def agrees_with_pytorch(attention: Attention) -> bool:
    """Four heads: the same output as PyTorch's own scaled dot-product attention."""
    q, k, v = _maps(2, 16, (3, 4), (3, 4), (3, 4))
    q4, k4, v4 = (x.reshape(1, 4, 4, 12).transpose(2, 3) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(q4, k4, v4).transpose(2, 3).reshape(1, 16, 3, 4)
    return torch.allclose(attention(q, k, v, heads=4)[1], expected, atol=1e-5)


CHECKS: dict[str, Callable[[Attention], bool]] = {
    "sums": rows_sum_to_one,
    "shape": one_row_an_asker,
    "grid": answer_on_the_askers_grid,
    "moves": follows_a_moved_cell,
    "pytorch": agrees_with_pytorch,
}


@dataclass(frozen=True)
class Verdict:
    """Outcome of one check: passed, failed, or stopped with PyTorch's ``complaint``."""

    check: str
    passed: bool
    complaint: str = ""


def verdicts(attention: Attention) -> tuple[Verdict, ...]:
    """Run every check on a function."""
    found = []
    for name, check in CHECKS.items():
        try:
            found.append(Verdict(name, check(attention)))
        except (RuntimeError, IndexError) as error:  # shapes that do not fit are the finding
            found.append(Verdict(name, False, str(error).splitlines()[0]))
    return tuple(found)


# ---------------------------------------------------------------- on photographs


@dataclass(frozen=True)
class Snippet:
    """One wrong function. ``heads``: how many it takes to see what is wrong; ``portrait``: it is
    seen only where the asked photograph has another shape."""

    name: str
    function: Attention
    heads: int = 1
    portrait: bool = False


SNIPPETS = (
    Snippet("channel", channel),
    Snippet("scale", scale, heads=8),
    Snippet("axis", axis),
    Snippet("grid", grid, portrait=True),
    Snippet("view", view),
    Snippet("swap", swap),
)


def prepared(
    x: Tensor, y: Tensor, heads: int = 1, temperature: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Frozen features as query and key such that the right scores are cosines over τ.

    Args:
        x, y: (C, H_q, W_q) and (C, H_k, W_k) of one encoder.

    Returns:
        Maps of the same grids; channels beyond a multiple of ``heads`` are dropped.
    """
    query, key = frozen_heads(x[None], y[None], heads)
    gain = (query.shape[-1] ** 0.5 / temperature) ** 0.5
    return (
        (gain * query[0]).transpose(1, 2).flatten(0, 1).unflatten(1, x.shape[1:]),
        (gain * key[0]).transpose(1, 2).flatten(0, 1).unflatten(1, y.shape[1:]),
    )


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one function makes of two photographs.

    ``painted``: (rows, columns, 3) the colours of the asked photograph, brought to the asker by the
    weights. ``look``: (H_k, W_k) the row of the map that belongs to the chosen asker, as its author
    would draw it. ``row_sum``: what that row adds up to. ``reach``: how many cells it spreads over
    (exponential of the entropy).
    """

    painted: Tensor
    look: Tensor
    row_sum: float
    reach: float


def evidence(
    attention: Attention, query: Tensor, key: Tensor, colours: Tensor, cell: int, heads: int = 1
) -> Evidence:
    """Apply a function to features of two photographs.

    Args:
        query: (C, H_q, W_q) of the asker; key: (C, H_k, W_k) of the asked.
        colours: (3, H_k, W_k) mean colour of each asked cell.
        cell: the asker to follow, 0 .. H_q * W_q - 1.
        heads: divides C.
    """
    height, width = key.shape[-2:]
    value = colours[None].repeat(1, heads, 1, 1)
    if attention is channel:  # its map has a head for each channel and mixes within columns only
        weights = attention(query[None], key[None], key[None])[0].mean(dim=1)
        row, column = divmod(cell, query.shape[-1])
        painted = weights @ colours  # (3, H_q, W)
        look = torch.zeros(height, width)
        look[:, column] = weights[0, row]
    else:
        weights, out = attention(query[None], key[None], value, heads=heads)
        painted = out[0].unflatten(0, (heads, 3)).mean(dim=0)
        mean = weights if weights.ndim == 3 else weights.mean(dim=1)
        look = mean[0, cell].reshape(height, width)
    total = float(look.sum())
    share = (look / total).clamp_min(1e-12)
    reach = float(torch.exp(-(share * share.log()).sum()))
    return Evidence(painted.permute(1, 2, 0), look, total, reach)


def four_by_three(pixels: np.ndarray, portrait: bool = False) -> np.ndarray:
    """The middle of a photograph (H, W, 3) cut to 4:3, or to 3:4."""
    height, width = pixels.shape[:2]
    ratio = 3 / 4 if portrait else 4 / 3
    if width > ratio * height:
        kept = max(1, int(height * ratio))
        left = (width - kept) // 2
        return pixels[:, left : left + kept]
    kept = max(1, int(width / ratio))
    top = (height - kept) // 4  # a little above the middle, where faces are
    return pixels[top : top + kept]


def cell_colours(pixels: np.ndarray, rows: int, columns: int) -> Tensor:
    """Mean colour of each cell: (H, W, 3) uint8 to (3, rows, columns) in 0..1."""
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, (rows, columns), mode="area")[0]


def source(function: Attention) -> str:
    """The code of a snippet as its author would write it, under a name that says nothing."""
    code = re.sub(r"  # type: ignore.*", "", inspect.getsource(function)).strip()
    return code.replace(f"def {function.__name__}(", "def attention(", 1)
