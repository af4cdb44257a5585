"""``crossfuse train mmca``, ``crossfuse evaluate mmca``: from a data folder to weights and figures.

On a GPU (``--device cuda``) training starts from pixels and goes on into the encoders
(:mod:`crossfuse.training.mmca_pixels`). On a CPU it runs over features of the published encoders in
five steps, each kept in the work folder and taken up where it stopped: feature maps of all
photographs, token states of all sentences, the region proposer, region features, and the matching
model itself. Both share :mod:`crossfuse.training.mmca_trainer`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from crossfuse import registry, weights
from crossfuse.data.captions import CaptionedPhoto, read_pack
from crossfuse.encoders.image import load_image_encoder
from crossfuse.encoders.proposer import ProposerConfig, RegionProposer
from crossfuse.encoders.regions import KINDS, RegionEncoder, load_region_encoder
from crossfuse.encoders.text import MiniLM
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCA, MMCAConfig
from crossfuse.training.mmca_cache import FeatureCache, cache_maps, cache_regions, cache_text
from crossfuse.training.mmca_evaluation import (
    choose_alpha,
    encode_split,
    full_figures,
    grounding_figures,
    human_correlation,
    phrases_of,
    proposal_recall,
    retrieval_figures,
)
from crossfuse.training.mmca_live import encode_photos
from crossfuse.training.mmca_regions import trained_proposer
from crossfuse.training.mmca_scene import add_scene, scene_recipe
from crossfuse.training.mmca_sources import CachedSource, RegionMix
from crossfuse.training.mmca_trainer import Recipe, Trainer
from crossfuse.training.mmca_variants import (
    ALPHAS,
    VARIANTS,
    Stock,
    run,
    split_rows,
)

COMMAND = "crossfuse train mmca --data DIR --work DIR --device cuda"
SCENE_COMMAND = "crossfuse train mmca --data DIR --work DIR --scene"
MARGIN = 0.03
LICENCE = (
    "Learnt from Flickr8k photographs and Flickr30K Entities annotations: for non-commercial "
    "research and teaching."
)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="captions.jsonl.gz, images.tar.gz")
    parser.add_argument("--work", type=Path, required=True, help="caches and checkpoints (4 GB)")
    parser.add_argument("--weights", type=Path, default=None, help="where to write the weights")
    parser.add_argument("--name", default="mmca", help="name of the checkpoint and of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device", default="cpu",
        help="cuda trains from pixels, encoders included; cpu trains over features cached once",
    )  # fmt: skip
    parser.add_argument("--mirror", action="store_true", help="cpu: mirrored photographs too")
    parser.add_argument(
        "--scene",
        action="store_true",
        help="give the weights --name a second pair of embeddings, learnt on a CPU",
    )
    parser.add_argument(
        "--proposer-epochs",
        type=int,
        default=0,
        help="train the region proposer too; 0: as shipped",
    )
    parser.add_argument("--variant", choices=tuple(VARIANTS), default="whole", help="from pixels")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=JSON", help="a field of the recipe"
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="FIELD=JSON", help="a field of the config"
    )


def train(arguments: argparse.Namespace) -> None:
    """Run or take up a training, then write the weights with their card."""
    device = torch.device(arguments.device)
    if arguments.scene:
        _train_scene(arguments)
    elif device.type != "cpu":
        _train_from_pixels(arguments, device)
    else:
        _train_from_cache(arguments)
    folder = arguments.weights or weights.WEIGHTS
    _say(f"weights written to {folder}; measure them with: crossfuse evaluate mmca")


def _train_from_pixels(arguments: argparse.Namespace, device: torch.device) -> None:
    photos = read_pack(arguments.data)
    rows = _rows(photos, "train")
    proposer = _proposer(arguments, photos, rows, device)
    stock = Stock.read(arguments.data, photos, proposer, device, _say)
    recipe = replace(Recipe.on_gpu(), seed=arguments.seed)
    recipe = replace(recipe, **_assignments(arguments.set, Recipe))
    config = replace(MMCAConfig.small(), **_assignments(arguments.model, MMCAConfig))
    arguments.work.mkdir(parents=True, exist_ok=True)
    trainer = run(
        stock, rows, recipe, config, VARIANTS[arguments.variant], _say,
        arguments.work / f"{arguments.name}.pt",
    )  # fmt: skip
    save_tuned(trainer, arguments.name, arguments.weights or weights.WEIGHTS)


def save_tuned(trainer: Trainer, name: str, folder: Path) -> None:
    """Write the averaged model and encoders as ``name`` and ``name``_encoders."""
    assert trainer.average_encoders is not None
    model, tuned = trainer.average, f"{name}_encoders"
    model.config = replace(model.config, tuned=tuned)
    card = {"licence": LICENCE, "command": COMMAND}
    about = {"model": "mmca", "config": model.config.to_dict()}
    weights.save_weights(name, model, card | about, folder=folder, half=True)
    changed = trainer.average_encoders.changed()
    weights.save_weights(tuned, changed, card | {"model": tuned}, folder=folder, half=True)


def _train_from_cache(arguments: argparse.Namespace) -> None:
    photos = read_pack(arguments.data)
    work, root = arguments.work, arguments.work / "cache"
    rows = _rows(photos, "train")
    text = MiniLM()
    cache_text(photos, root, text, _say)
    plain = RegionEncoder(load_image_encoder("lite2").network, RegionProposer())
    for flip in (False, True)[: 1 + arguments.mirror]:
        cache_maps(arguments.data, photos, root, plain, _say, flip)
    proposer = _proposer(arguments, photos, rows, torch.device("cpu"))
    encoder = RegionEncoder(plain.network, proposer)
    for kind in KINDS:
        for flip in (False, True)[: 1 + arguments.mirror]:
            cache_regions(root, kind, encoder, flip)
    recipe = replace(Recipe(seed=arguments.seed), **_assignments(arguments.set, Recipe))
    config = replace(MMCAConfig.small(), **_assignments(arguments.model, MMCAConfig))
    cache = FeatureCache(root)
    learnt, held_out = split_rows(rows, recipe.held_out)
    source = CachedSource(cache, RegionMix(recipe.regions), recipe.longest)
    trainer = Trainer(source, learnt, config, recipe)
    checkpoint = work / f"{arguments.name}.pt"
    trainer.run(_say, checkpoint)
    encoded = encode_split(trainer.average, cache, held_out, KINDS[0])
    model = trainer.average
    alpha = choose_alpha(model, encoded, (20, 10), ALPHAS)
    model.config = replace(model.config, alpha=alpha)
    model.keep_bank(encoded.images.embedding, encoded.sentences.embedding)
    folder = arguments.weights or weights.WEIGHTS
    about = {"model": "mmca", "config": model.config.to_dict()}
    card = {**about, "licence": LICENCE, "command": COMMAND}
    weights.save_weights(arguments.name, model, card, folder=folder, half=True)


def _train_scene(arguments: argparse.Namespace) -> None:
    model = cast(MMCA, registry.load("mmca", arguments.name))
    recipe = replace(scene_recipe(arguments.seed), **_assignments(arguments.set, Recipe))
    arguments.work.mkdir(parents=True, exist_ok=True)
    both = add_scene(
        model, arguments.data, arguments.work, arguments.name, recipe, arguments.mirror, _say
    )
    card = {"licence": LICENCE, "command": f"{COMMAND} && {SCENE_COMMAND}"}
    about = {"model": "mmca", "config": both.config.to_dict()}
    folder = arguments.weights or weights.WEIGHTS
    weights.save_weights(arguments.name, both, card | about, folder=folder, half=True)


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="captions.jsonl.gz, images.tar.gz")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--weights", default=None, help="name under assets/weights")
    parser.add_argument("--regions", choices=KINDS, default=KINDS[0])
    parser.add_argument("--limit", type=int, default=0, help="only the first N photographs")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--shortlist", type=int, nargs=2, default=(50, 50), metavar=("CAPTIONS", "IMAGES"),
        help="most candidates re-scored for each photograph and for each sentence",
    )  # fmt: skip
    parser.add_argument(
        "--margin", type=float, default=MARGIN,
        help="candidates further below the tenth best are not re-scored",
    )  # fmt: skip
    parser.add_argument("--full", action="store_true", help="score every pair (hours on a CPU)")
    parser.add_argument("--alphas", type=float, nargs="*", default=(), help="sweep over alpha")
    parser.add_argument(
        "--human", type=Path, help="CSV of file,sentence,score with human match scores"
    )


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one split; nothing but the data folder and the weights is read."""
    photos = [p for p in read_pack(arguments.data) if p.split == arguments.split]
    photos = photos[: arguments.limit or None]
    if not photos:
        raise CrossfuseError(f"The data folder has no photograph of the split {arguments.split!r}.")
    device = torch.device(arguments.device)
    model = cast(MMCA, registry.load("mmca", arguments.weights)).to(device)
    features = encode_photos(arguments.data, photos, arguments.regions, model.config, device, _say)
    rows = np.arange(len(photos))
    encoded = encode_split(model, features, rows, arguments.regions)
    phrases = phrases_of(photos, rows, features.ranges)
    figures: dict[str, Any] = {
        "split": arguments.split,
        "photographs": len(photos),
        "regions": arguments.regions,
        "retrieval": retrieval_figures(
            model,
            encoded,
            tuple(arguments.shortlist),
            tuple(arguments.alphas),
            arguments.margin,
        ),
        "proposal_recall_36": {
            kind: proposal_recall([p.all_boxes for p in photos], features.boxes(kind))
            for kind in KINDS
        },
    }
    if phrases:
        torch.manual_seed(0)
        untrained = MMCA(model.config).to(device).eval()
        figures["grounding"] = grounding_figures(model, encoded, phrases)
        plain = encode_split(untrained, features, rows, arguments.regions)
        figures["grounding"]["untrained"] = grounding_figures(untrained, plain, phrases)["map"]
    if arguments.full:
        figures["retrieval"]["full"] = full_figures(model, encoded)
    if arguments.human is not None:
        figures["human"] = human_correlation(model, encoded, photos, arguments.human)
    return figures


def _proposer(
    arguments: argparse.Namespace,
    photos: Sequence[CaptionedPhoto],
    rows: np.ndarray,
    device: torch.device,
) -> RegionProposer:
    """The shipped proposer; with ``--proposer-epochs`` one that is trained now, or was before.

    Its weights are written as ``regions``: the matching model works with those boxes only.
    """
    network, path = load_image_encoder("lite2").network, arguments.work / "proposer.pt"
    if arguments.proposer_epochs == 0:
        return load_region_encoder().proposer
    if not path.exists():
        proposer = trained_proposer(
            arguments.data, photos, rows, network.to(device), arguments.proposer_epochs, _say
        )
        torch.save({"config": proposer.config.to_dict(), "state": proposer.state_dict()}, path)
    saved = torch.load(path, weights_only=True, map_location="cpu")
    proposer = RegionProposer(ProposerConfig.from_dict(saved["config"]))
    proposer.load_state_dict(saved["state"])
    card = {"model": "regions", "config": proposer.config.to_dict(), "licence": LICENCE}
    folder = arguments.weights or weights.WEIGHTS
    weights.save_weights("regions", proposer, card, folder=folder, half=True)
    return proposer.eval()


def _rows(photos: Sequence[CaptionedPhoto], split: str) -> np.ndarray:
    return np.array([row for row, photo in enumerate(photos) if photo.split == split])


def _assignments(texts: Sequence[str], owner: type) -> dict[str, Any]:
    """``FIELD=JSON`` texts -> values of a dataclass's fields (lists become tuples)."""
    known = {field.name for field in fields(owner)}
    values: dict[str, Any] = {}
    for text in texts:
        name, _, raw = text.partition("=")
        if name not in known:
            raise CrossfuseError(f"{owner.__name__} has no field {name!r}: {', '.join(known)}.")
        try:
            value = json.loads(raw)
        except json.JSONDecodeError as error:
            raise CrossfuseError(f"{text!r} is not FIELD=JSON: {error}.") from error
        values[name] = tuple(value) if isinstance(value, list) else value
    return values


def _say(text: str) -> None:
    import sys

    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)
