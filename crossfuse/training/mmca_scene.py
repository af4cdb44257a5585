"""The second pair of embeddings of MMCA, learnt beside a model that is there already.

A vision transformer that learnt from pictures alone sees other things in a photograph than
EfficientNet, which learnt a thousand names. Its patch tokens, pooled over regions, feed embeddings
i0', c0' of their own (:class:`crossfuse.models.mmca.Separable`), trained over features cached once,
with InfoNCE alone; the model itself does not change. Photographs held out of both trainings choose
how much the pair counts (``scene_share``), and alpha anew.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from crossfuse.data.captions import CaptionedPhoto, pack_images, read_pack
from crossfuse.encoders.regions import (
    SCENE_FEATURES,
    grid_boxes,
    multiscale_boxes,
    pool_patches,
    scene_tokens,
)
from crossfuse.encoders.text import MiniLM
from crossfuse.encoders.tuned import load_words
from crossfuse.encoders.vision_transformer import VisionTransformer, load_vision_transformer
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCA, MMCAConfig
from crossfuse.training.mmca_cache import FeatureCache, cache_text, new_array
from crossfuse.training.mmca_evaluation import Encoded, choose_alpha, encode_split
from crossfuse.training.mmca_live import encode_photos
from crossfuse.training.mmca_sources import CachedSource, RegionMix
from crossfuse.training.mmca_trainer import Recipe, Trainer
from crossfuse.training.mmca_variants import ALPHAS, split_rows
from crossfuse.training.retrieval import recalls

KINDS = {"multiscale": multiscale_boxes, "cells": grid_boxes}
SHARES = tuple(step / 20 for step in range(15))
SHORTLIST = (20, 10)
Say = Callable[[str], None]


def scene_recipe(seed: int) -> Recipe:
    """The run of the shipped weights."""
    return Recipe(
        epochs=10, regions=20, captions=3, weight_decay=0.3, decay_from=0.3, alignment=0.0,
        joint=0.0, seed=seed,
    )  # fmt: skip


def cache_scene(
    data: Path,
    photos: Sequence[CaptionedPhoto],
    root: Path,
    network: VisionTransformer,
    say: Say,
    flip: bool = False,
    batch: int = 16,
) -> None:
    """Features over fixed boxes of all photographs (83 KB each a kind); nothing if there."""
    tag = "flip" if flip else "plain"
    names = {kind: root / f"{tag}_{kind}.npy" for kind in KINDS}
    if all(name.exists() for name in names.values()):
        return
    shape = (len(photos), 36, SCENE_FEATURES)
    boxes = {kind: fixed() for kind, fixed in KINDS.items()}
    parts = {kind: root / f"{tag}_{kind}.part" for kind in KINDS}
    arrays = {kind: new_array(part, shape) for kind, part in parts.items()}
    raw = dict(pack_images(data, photos))
    for start in range(0, len(photos), batch):
        rows = range(start, min(start + batch, len(photos)))
        pictures = [np.asarray(Image.open(io.BytesIO(raw[row])).convert("RGB")) for row in rows]
        with torch.autocast(network.class_token.device.type, torch.bfloat16):
            tokens = scene_tokens(network, pictures, mirrored=flip)
        for kind, own in boxes.items():
            pooled = pool_patches(tokens, own.expand(len(rows), -1, -1))
            arrays[kind][start : start + len(rows)] = pooled.half().numpy()
        if start % (50 * batch) == 0:
            say(f"patch tokens of photographs: {start} of {len(photos)}")
    for kind, own in boxes.items():
        arrays[kind].flush()
        np.save(root / f"{tag}_{kind}_boxes.npy", own.expand(len(photos), -1, -1).numpy())
        parts[kind].replace(names[kind])


def train_scene(
    root: Path,
    learnt: np.ndarray,
    recipe: Recipe,
    config: MMCAConfig,
    say: Say,
    checkpoint: Path | None = None,
) -> MMCA:
    """An MMCA over the cached features, without a use for its cross unit."""
    own = replace(
        config,
        region_size=SCENE_FEATURES,
        scene_size=0,
        scene_share=0.0,
        feature_dropout=0.4,
        dropout=0.2,
        alpha=0.0,
        tuned="",
        bank=(0, 0),
    )
    source = CachedSource(
        FeatureCache(root), RegionMix(recipe.regions, tuple(KINDS), (0.5, 0.5)), recipe.longest
    )
    trainer = Trainer(source, learnt, own, recipe)
    trainer.run(say, checkpoint)
    return trainer.average


def with_scene(model: MMCA, scene: MMCA) -> MMCA:
    """``model`` with the embeddings of ``scene`` beside its own, at a share of one half."""
    size = scene.config.region_size
    config = replace(
        model.config,
        region_size=model.config.region_size - model.config.scene_size + size,
        scene_size=size,
        scene_share=0.5,
        bank=(0, 0),
    )
    both = MMCA(config)
    kept = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(("scene.", "bank_"))
    }
    added = {f"scene.{name}": value for name, value in scene.separable.state_dict().items()}
    missing, unexpected = both.load_state_dict(kept | added, strict=False)
    assert not unexpected
    assert set(missing) == {"bank_images", "bank_sentences"}
    return both.eval()


def choose_share(encoded: Encoded, width: int) -> float:
    """The share with the best mean recall of a split that was encoded with a share of one half."""
    images, sentences = encoded.images.embedding, encoded.sentences.embedding
    own = 2 * (images[:, :width] @ sentences[:, :width].T).numpy()
    scene = 2 * (images[:, width:] @ sentences[:, width:].T).numpy()
    return max(SHARES, key=lambda share: recalls((1 - share) * own + share * scene)["mean_recall"])


def set_share(model: MMCA, encoded: Encoded, share: float) -> Encoded:
    """Let the second pair count for ``share``, in ``model`` and in what it encoded at one half."""
    model.config = replace(model.config, scene_share=share)
    width = model.config.width
    scale = torch.cat(
        [torch.full((width,), (2 - 2 * share) ** 0.5), torch.full((width,), (2 * share) ** 0.5)]
    )
    return replace(
        encoded,
        images=replace(encoded.images, embedding=encoded.images.embedding * scale),
        sentences=replace(encoded.sentences, embedding=encoded.sentences.embedding * scale),
    )


def settle(model: MMCA, data: Path, held_out: Sequence[CaptionedPhoto], say: Say) -> None:
    """Choose the share of the second pair, then alpha, and keep the bank, on held-out photos."""
    features = encode_photos(data, held_out, "proposals", model.config, say=say)
    encoded = encode_split(model, features, np.arange(len(held_out)), "proposals")
    share = choose_share(encoded, model.config.width)
    encoded = set_share(model, encoded, share)
    alpha = choose_alpha(model, encoded, SHORTLIST, ALPHAS)
    say(f"share {share} and alpha {alpha} are best on {len(held_out)} photographs held out")
    model.config = replace(model.config, alpha=alpha)
    model.keep_bank(encoded.images.embedding, encoded.sentences.embedding)


def add_scene(
    model: MMCA, data: Path, work: Path, name: str, recipe: Recipe, mirror: bool, say: Say
) -> MMCA:
    """``model`` with a second pair of embeddings; caches and a checkpoint are kept in ``work``.

    Raises:
        CrossfuseError: the words of ``model`` are not MiniLM's.
    """
    photos, root, config = read_pack(data), work / "scene", model.config
    text = load_words(config.words, config.tuned)
    if not isinstance(text, MiniLM):
        raise CrossfuseError("A second pair of embeddings needs a model whose words are MiniLM's.")
    cache_text(photos, root, text, say)
    network = load_vision_transformer()
    for flip in (False, True)[: 1 + mirror]:
        cache_scene(data, photos, root, network, say, flip)
    train = np.array([row for row, photo in enumerate(photos) if photo.split == "train"])
    learnt, held_out = split_rows(train, recipe.held_out)
    checkpoint = work / f"{name}_scene.pt"
    both = with_scene(model, train_scene(root, learnt, recipe, config, say, checkpoint))
    settle(both, data, [photos[row] for row in held_out], say)
    return both
