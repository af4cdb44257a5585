"""Train the 2-D block to find corresponding cells, and measure it.

Self-supervised: two crops of one photograph (:mod:`crossfuse.training.photo_pairs`) go through
the frozen encoder; for every cell of A whose place is also in B, the head mean of the map should
point at the true cell, and the values fetched through the map should restore A's own features:

    L = -log mean_h A_h[q, true] + λ |Conv(O)_q - LN(x_q)|² / C
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse import registry
from crossfuse.attention import map_rows, merge_heads, split_heads
from crossfuse.encoders.image import ImageEncoder, load_image_encoder
from crossfuse.geometry import ImageGrid
from crossfuse.models.feature_map import FeatureMapAttention, FeatureMapConfig, frozen_heads
from crossfuse.training.feature_map_uses import uses_scores
from crossfuse.training.photo_pairs import (
    SIDE,
    cells_at,
    matching_cells,
    random_crop,
    read_photos,
    stereo_pair,
)
from crossfuse.weights import save_weights

STRIDES = (8, 16, 32)
HEAD_WIDTH = {8: 64, 16: 128, 32: 96}
NAMES = {16: "feature_map", 32: "feature_map_32", 8: "feature_map_8"}


@dataclass(frozen=True)
class Pairs:
    """Features of N pairs at one stride and the true cells.

    ``a``, ``b``: (N, C, H, W) float16; ``match``: (N, H * W), cell of b for each cell of a, or -1.
    """

    a: Tensor
    b: Tensor
    match: Tensor
    grid: ImageGrid


def make_pairs(
    photos: list[np.ndarray], per_photo: int, seed: int, encoder: ImageEncoder, label: str = ""
) -> dict[int, Pairs]:
    """Crops, features and true cells for every stride."""
    generator = np.random.default_rng(seed)
    parts: dict[int, list[tuple[Tensor, Tensor, np.ndarray]]] = {stride: [] for stride in STRIDES}
    grids: dict[int, ImageGrid] = {}
    work = [photo for photo in photos for _ in range(per_photo)]
    for start in range(0, len(work), 8):
        crops = [random_crop(p, generator) for p in work[start : start + 8] for _ in range(2)]
        features = encoder.encode([crop.pixels for crop in crops], STRIDES, SIDE)
        for i in range(0, len(crops), 2):
            for stride in STRIDES:
                one, two = features[i][stride], features[i + 1][stride]
                match = matching_cells(one.grid, two.grid, crops[i], crops[i + 1])
                parts[stride].append((one.values.half(), two.values.half(), match))
                grids[stride] = one.grid
        if label and start % 160 == 0:
            print(f"{label}: {start} of {len(work)} pairs", flush=True)
    return {
        stride: Pairs(
            torch.stack([a for a, _, _ in found]),
            torch.stack([b for _, b, _ in found]),
            torch.from_numpy(np.stack([m for _, _, m in found])),
            grids[stride],
        )
        for stride, found in parts.items()
    }


def new_block(pairs: Pairs, heads: int = 2, head_width: int = 128) -> FeatureMapAttention:
    """A block that starts as cosines of standardised features: training can only add to these.

    Every head starts as an orthogonal projection of (LN(x) - mean) / spread, the same for query
    and key, with a temperature of 0.1; mean and spread of each channel are those of ``pairs``.
    """
    channels = pairs.a.shape[1]
    config = FeatureMapConfig(
        channels, channels, heads * head_width, heads, positions=False, norm=True
    )
    block = FeatureMapAttention(config)
    normed = F.layer_norm(pairs.a[:200].float().movedim(1, -1), (channels,)).flatten(0, 2)
    mean, spread = normed.mean(0), normed.std(0).clamp(min=1e-3)
    gain = (10 * head_width**0.5 / min(channels, head_width)) ** 0.5
    with torch.no_grad():
        for head in range(heads):
            part = slice(head * head_width, (head + 1) * head_width)
            weight = nn.init.orthogonal_(torch.empty(head_width, channels), gain) / spread
            for layer in (block.to_query, block.to_key):
                assert layer.bias is not None
                layer.weight[part] = weight[..., None, None]
                layer.bias[part] = -weight @ mean
    return block


def correspondence_loss(
    block: FeatureMapAttention, a: Tensor, b: Tensor, rows: Tensor, match: Tensor, restore: float
) -> Tensor:
    """L of the module's head; ``rows`` (B, R) query cells, ``match`` (B, R) their true keys."""
    x, y = block.norm_x(a), block.norm_y(b)
    query, key = block.project_query(x), block.project_key(y)
    weights = map_rows(query, key, rows)
    true = match[:, None, :, None].expand(-1, weights.shape[1], -1, 1)
    pointing = -weights.gather(3, true).squeeze(3).mean(1).clamp(min=1e-8).log().mean()
    value = split_heads(
        block.to_value(y).flatten(2).transpose(1, 2).contiguous(), block.config.heads
    )
    fetched = merge_heads(weights @ value).transpose(1, 2)[..., None]
    added = (block.gamma * block.to_output(fetched)).squeeze(3)
    own = F.layer_norm(a.movedim(1, -1), (a.shape[1],)).flatten(1, 2).transpose(1, 2)
    wanted = own.gather(2, rows[:, None].expand(-1, own.shape[1], -1))
    return pointing + restore * F.mse_loss(added, wanted)


def fit(block: FeatureMapAttention, pairs: Pairs, steps: int, seed: int, label: str = "") -> None:
    """AdamW with a one-cycle rate; both directions of every pair."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(block.parameters(), 1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps)
    usable = torch.nonzero((pairs.match >= 0).sum(1) >= 8).squeeze(1)
    batch, queries = 16, min(64, pairs.match.shape[1])
    mean = 0.0
    for step in range(steps):
        chosen = usable[torch.randint(len(usable), (batch,), generator=generator)]
        match = pairs.match[chosen]
        known = (match >= 0).float()
        rows = torch.multinomial(known, queries, replacement=True, generator=generator)
        true = match.gather(1, rows)
        a, b = pairs.a[chosen].float(), pairs.b[chosen].float()
        if step % 2:  # the other way round: the pairs drawn are as good backwards
            a, b, rows, true = b, a, true, rows
        loss = correspondence_loss(block, a, b, rows, true, restore=0.3)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(block.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if label and step % 100 == 99:
            print(f"{label}, step {step + 1} of {steps}: loss {mean:.3f}", flush=True)


@torch.inference_mode()
def score(pointer: Callable[[Tensor, Tensor], Tensor], pairs: Pairs) -> dict[str, float]:
    """How well a map finds true cells.

    ``pointer`` (1, C, H, W) x 2 -> (N_q, N_k).  ``hit``: the strongest key is the true cell;
    ``hit_1``: at most one cell off both ways; ``mass_1``: weight within one cell of it.
    """
    columns = pairs.grid.columns
    place = torch.arange(len(pairs.grid))
    row, column = place // columns, place % columns
    found = []
    for a, b, match in zip(pairs.a, pairs.b, pairs.match, strict=True):
        query = torch.nonzero(match >= 0).squeeze(1)
        if not len(query):
            continue
        weights, true = pointer(a[None].float(), b[None].float())[query], match[query]
        near = ((row - row[true][:, None]).abs() <= 1) & (
            (column - column[true][:, None]).abs() <= 1
        )
        best = weights.argmax(1)
        hit_1 = near.gather(1, best[:, None]).squeeze(1)
        found.append(
            torch.stack([(best == true).float(), hit_1.float(), (weights * near).sum(1)], 1)
        )
    mean = torch.cat(found).mean(0)
    return dict(zip(("hit", "hit_1", "mass_1"), mean.tolist(), strict=True))


def trained_pointer(block: FeatureMapAttention) -> Callable[[Tensor, Tensor], Tensor]:
    """The head mean of a block's map."""

    def point(a: Tensor, b: Tensor) -> Tensor:
        query = block.project_query(block.norm_x(a))
        return map_rows(query, block.project_key(block.norm_y(b)))[0].mean(0)

    return point


def frozen_pointer(a: Tensor, b: Tensor) -> Tensor:
    """No projections: cosines of the standardised features, temperature 0.1."""
    query, key = frozen_heads(a, b, 1)
    return map_rows(query, key, scale=10.0)[0, 0]


def chance(pairs: Pairs) -> dict[str, float]:
    """What pointing at a cell drawn at random scores."""
    uniform = torch.full((len(pairs.grid), len(pairs.grid)), 1 / len(pairs.grid))
    near = score(lambda a, b: uniform, pairs)["mass_1"]
    return {"hit": 1 / len(pairs.grid), "hit_1": near, "mass_1": near}


def compare(pairs: Pairs, block: FeatureMapAttention) -> dict[str, dict[str, float]]:
    """The trained block beside what it has to beat."""
    torch.manual_seed(0)
    random = FeatureMapAttention(block.config)
    return {
        "trained": score(trained_pointer(block), pairs),
        "frozen features": score(frozen_pointer, pairs),
        "random projections": score(trained_pointer(random), pairs),
        "chance": chance(pairs),
    }


@torch.inference_mode()
def stereo_scores(blocks: dict[int, FeatureMapAttention], encoder: ImageEncoder) -> dict[str, Any]:
    """The same on two real photographs, from the measured disparities of the left one."""
    left, right, to_right = stereo_pair()
    features = encoder.encode([left, right], tuple(blocks), 448)
    results = {}
    for stride, block in blocks.items():
        one, two = features[0][stride], features[1][stride]
        x, y = one.grid.centres.round().astype(int).T
        inside = to_right[y.clip(0, left.shape[0] - 1), x.clip(0, left.shape[1] - 1)]
        match = torch.from_numpy(cells_at(two.grid, inside))[None]
        pairs = Pairs(one.values[None], two.values[None], match, two.grid)
        results[f"stride {stride}"] = compare(pairs, block)
    return results


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="folder with photographs")
    parser.add_argument("--split", default="train", help="of a folder that has splits")
    parser.add_argument("--photos", type=int, default=1200)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="0 = as the machine has it")
    parser.add_argument("--weights", type=Path, default=None, help="folder to write to")
    parser.add_argument(
        "--data-note", default="", help="name and licence of the data, for the card"
    )


def train(args: argparse.Namespace) -> None:
    """Train one block a stride and write weights and cards."""
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.process_time()
    encoder = load_image_encoder("lite2")
    photos = [pixels for _, pixels in islice(read_photos(args.data, args.split), args.photos)]
    pairs = make_pairs(photos, 1, args.seed, encoder, "features")
    print(f"features: {time.process_time() - started:.0f} s of CPU time", flush=True)
    for stride in NAMES:
        found = pairs[stride]
        block = new_block(found, head_width=HEAD_WIDTH[stride])
        fit(block, found, args.steps, args.seed, f"{stride} px")
        card = {
            "model": "feature_map",
            "config": asdict(block.config),
            "stride": stride,
            "data": args.data_note or args.data.name,
            "photographs": len(photos),
            "seed": args.seed,
            "command": f"crossfuse train feature_map --data DIR --photos {args.photos} "
            f"--steps {args.steps} --seed {args.seed}",
            "task": "corresponding cells in two crops of one photograph (self-supervised)",
            "metrics": {},
        }
        place = {} if args.weights is None else {"folder": args.weights}
        print(save_weights(NAMES[stride], block, card, half=True, **place), flush=True)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder with photographs not trained on")
    parser.add_argument("--split", default="dev", help="of a folder that has splits")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=1, help="pairs a photograph")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=None, help="folder of the weights")


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Correspondence with baselines: on crops of ``--data``, and on the stereo photographs.

    Where ``--data`` lists boxes (photos.jsonl), segmentation, detection and colour transfer too.
    """
    folder = {} if args.weights is None else {"folder": args.weights}
    blocks = {}
    for stride, name in NAMES.items():
        block = registry.load("feature_map", name, **folder)
        assert isinstance(block, FeatureMapAttention)
        blocks[stride] = block
    encoder = load_image_encoder("lite2")
    figures: dict[str, Any] = {"stereo photographs": stereo_scores(blocks, encoder)}
    if args.data is not None:
        photos = [pixels for _, pixels in islice(read_photos(args.data, args.split), args.photos)]
        pairs = make_pairs(photos, args.pairs, args.seed, encoder)
        figures["crops"] = {
            "photographs": len(photos),
            **{f"stride {s}": compare(pairs[s], block) for s, block in blocks.items()},
        }
        if (args.data / "photos.jsonl").exists():
            pointers = {"trained": trained_pointer(blocks[16]), "frozen features": frozen_pointer}
            figures["uses"] = uses_scores(args.data, pointers, encoder, 16, args.seed)
    return figures
