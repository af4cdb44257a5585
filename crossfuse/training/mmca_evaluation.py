"""Evaluation of MMCA on a captioned data set: retrieval, grounding, proposals."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from crossfuse.attention import Want
from crossfuse.data.captions import PER_IMAGE, CaptionedPhoto, phrase_pieces
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCA, ImageStates, SentenceStates
from crossfuse.training.grounding import Phrase, baselines, ground, iou
from crossfuse.training.retrieval import recalls, rerank, two_way_recalls


class Features(Protocol):
    """Where the frozen encoders' output comes from: a cache on disk, or made on the spot."""

    @property
    def offset(self) -> np.ndarray: ...

    def regions(self, rows: np.ndarray, kind: str) -> tuple[Tensor, Tensor]: ...

    def words(self, captions: np.ndarray) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Encoded:
    """A split through both separable branches. Caption c belongs to image c // 5."""

    images: ImageStates
    sentences: SentenceStates
    boxes: Tensor
    rows: np.ndarray

    @property
    def separable(self) -> np.ndarray:
        """(N, 5 N) i0 . c0."""
        product = self.images.embedding @ self.sentences.embedding.T
        return product.cpu().numpy()


def captions_of(rows: np.ndarray) -> np.ndarray:
    """Caption numbers of photographs, side by side."""
    return (rows[:, None] * PER_IMAGE + np.arange(PER_IMAGE)).ravel()


@torch.inference_mode()
def encode_split(
    model: MMCA, cache: Features, rows: np.ndarray, kind: str, chunk: int = 100
) -> Encoded:
    """Both branches over a split; regions of ``kind``."""
    images, boxes, sentences = [], [], []
    device = model.word_norm.weight.device
    for start in range(0, len(rows), chunk):
        features, own = cache.regions(rows[start : start + chunk], kind)
        images.append(model.encode_images(features.to(device), own.to(device)))
        boxes.append(own.to(device))
    captions = captions_of(rows)
    longest = int((cache.offset[captions + 1] - cache.offset[captions]).max())
    for start in range(0, len(captions), 5 * chunk):
        words, mask = cache.words(captions[start : start + 5 * chunk])
        states = model.encode_sentences(words.to(device), mask.to(device))
        short = longest - mask.shape[1]
        sentences.append(
            SentenceStates(
                torch.nn.functional.pad(states.tokens, (0, 0, 0, short)),
                torch.nn.functional.pad(states.mask, (0, short)),
                states.embedding,
            )
        )
    return Encoded(
        ImageStates(
            torch.cat([s.tokens for s in images]),
            torch.cat([s.mask for s in images]),
            torch.cat([s.embedding for s in images]),
        ),
        SentenceStates(
            torch.cat([s.tokens for s in sentences]),
            torch.cat([s.mask for s in sentences]),
            torch.cat([s.embedding for s in sentences]),
        ),
        torch.cat(boxes),
        rows,
    )


@torch.inference_mode()
def score_pairs(
    model: MMCA,
    encoded: Encoded,
    images: np.ndarray,
    captions: np.ndarray,
    chunk: int = 0,
    half: bool = True,
) -> np.ndarray:
    """i1 . c1 of given pairs (P,); sentences of like length share a batch (of ``chunk`` pairs).

    ``half``: the unit runs in bfloat16, where the score's error is about 0.002.
    """
    device = encoded.boxes.device
    chunk = chunk or (500 if device.type == "cpu" else 8192)
    lengths = encoded.sentences.mask.sum(1).cpu().numpy()[captions]
    order, crossed = np.argsort(lengths, kind="stable"), np.zeros(len(images), np.float32)
    for start in range(0, len(order), chunk):
        some = order[start : start + chunk]
        longest = int(lengths[some[-1]])
        text = encoded.sentences.take(torch.from_numpy(captions[some]).to(device))
        text = SentenceStates(text.tokens[:, :longest], text.mask[:, :longest], text.embedding)
        picture = encoded.images.take(torch.from_numpy(images[some]).to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            crossed[some] = model.cross(picture, text).crossed.float().cpu().numpy()
    return crossed


def retrieval_figures(
    model: MMCA,
    encoded: Encoded,
    shortlist: tuple[int, int],
    alphas: Sequence[float] = (),
    margin: float = np.inf,
) -> dict[str, dict[str, float]]:
    """Recall of i0 . c0 alone, and of S re-ranked; ``alphas`` adds a sweep over the weight.

    ``bank_...``: both again with hubness taken off, where the model has a bank of queries.
    """
    separable = encoded.separable
    found = {"separable": recalls(separable)}
    kept: dict[str, np.ndarray] = {}

    def score(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
        kept["crossed"] = score_pairs(model, encoded, images, captions)
        return separable[images, captions] + model.config.alpha * kept["crossed"]

    to_text, to_image, figures = rerank(separable, score, shortlist, margin=margin)
    found["reranked"] = two_way_recalls(to_text, to_image) | figures
    for alpha in alphas:

        def again(images: np.ndarray, captions: np.ndarray, alpha: float = alpha) -> np.ndarray:
            return separable[images, captions] + alpha * kept["crossed"]

        both = rerank(separable, again, shortlist, margin=margin)
        found[f"alpha_{alpha}"] = two_way_recalls(both[0], both[1])
    if any(model.config.bank):
        hubs = hubness(model, encoded)
        plain = separable - hubs
        found["bank_separable"] = recalls(plain)

        def less_hubs(images: np.ndarray, captions: np.ndarray) -> np.ndarray:
            return score(images, captions) - hubs[images, captions]

        both = rerank(plain, less_hubs, shortlist, margin=margin)
        found["bank_reranked"] = two_way_recalls(both[0], both[1]) | both[2]
    return found


@torch.inference_mode()
def hubness(model: MMCA, encoded: Encoded) -> np.ndarray:
    """(N, 5 N): what query-bank normalisation takes off each pair; ranks need one of its parts."""
    images = model.hubness(encoded.images.embedding, model.bank_sentences)
    sentences = model.hubness(encoded.sentences.embedding, model.bank_images)
    return (images[:, None] + sentences[None]).cpu().numpy()


def choose_alpha(
    model: MMCA, encoded: Encoded, shortlist: tuple[int, int], alphas: Sequence[float]
) -> float:
    """The weight of i1 . c1 with the best mean recall of a split that is not reported."""
    figures = retrieval_figures(model, encoded, shortlist, alphas)
    return max(alphas, key=lambda alpha: figures[f"alpha_{alpha}"]["mean_recall"])


def phrases_of(
    photos: Sequence[CaptionedPhoto],
    rows: np.ndarray,
    offsets: Callable[[int], list[tuple[int, int]]],
) -> list[Phrase]:
    """The boxed phrases of a split; ``offsets``: caption -> character range of its word pieces.

    Captions are numbered through the whole split (five a photograph).
    """
    phrases = []
    for image, row in enumerate(rows):
        photo = photos[row]
        for number, caption in enumerate(photo.captions):
            place = image * PER_IMAGE + number
            ranges = offsets(place)
            for phrase in caption.phrases:
                if phrase.chain not in photo.boxes:
                    continue
                pieces = phrase_pieces(caption.characters(phrase), ranges)
                if len(pieces):
                    boxes = photo.boxes[phrase.chain]
                    phrases.append(Phrase(image, place, pieces, boxes, phrase.types))
    return phrases


@torch.inference_mode()
def word_region_maps(
    model: MMCA, encoded: Encoded, captions: np.ndarray, chunk: int = 100
) -> dict[int, np.ndarray]:
    """Word -> region block of the first cross map of true pairs: caption -> (heads, n, k)."""
    maps: dict[int, np.ndarray] = {}
    device = encoded.boxes.device
    for start in range(0, len(captions), chunk):
        some = captions[start : start + chunk]
        out = model.cross(
            encoded.images.take(torch.from_numpy(some // PER_IMAGE).to(device)),
            encoded.sentences.take(torch.from_numpy(some).to(device)),
            Want.everything(),
        )
        k = encoded.boxes.shape[1]
        block = next(m for m in out.maps if m.stage == "cross").weights[:, :, k:, :k]
        maps.update(zip(some.tolist(), block.half().cpu().numpy(), strict=True))
    return maps


def phrase_map(block: np.ndarray, pieces: np.ndarray, heads: Sequence[int] | None) -> np.ndarray:
    """(heads, n, k) -> (k,): mean over heads and the phrase's pieces, renormalised over regions."""
    chosen = block if heads is None else block[list(heads)]
    row = chosen[:, pieces].astype(np.float64).mean((0, 1))
    return row / max(row.sum(), 1e-12)


def grounding_figures(
    model: MMCA, encoded: Encoded, phrases: list[Phrase], heads: Sequence[int] | None = None
) -> dict[str, dict[str, float]]:
    """Pointing game and the rest, for the map and for pointing without one."""
    captions = np.unique([phrase.caption for phrase in phrases])
    maps = word_region_maps(model, encoded, captions)
    boxes = encoded.boxes.cpu().numpy()
    regions = [boxes[phrase.image] for phrase in phrases]
    rows = [phrase_map(maps[phrase.caption], phrase.pieces, heads) for phrase in phrases]
    return {
        "map": ground(phrases, rows, regions).figures(),
        "baselines": baselines(phrases, regions),
    }


def proposal_recall(
    truths: Sequence[np.ndarray], proposals: Sequence[np.ndarray], threshold: float = 0.5
) -> float:
    """Percent of true boxes that some proposal of their photograph overlaps with IoU >= .5."""
    found = [
        iou(box, own).max(initial=0.0) >= threshold
        for truth, own in zip(truths, proposals, strict=True)
        for box in truth
    ]
    return 100.0 * float(np.mean(found))


def full_figures(model: MMCA, encoded: Encoded) -> dict[str, float]:
    """Recall with every pair through the cross unit."""
    images, captions = encoded.separable.shape
    rows, columns = np.divmod(np.arange(images * captions), captions)
    crossed = score_pairs(model, encoded, rows, columns).reshape(images, captions)
    return recalls(encoded.separable + model.config.alpha * crossed)


def human_correlation(
    model: MMCA, encoded: Encoded, photos: Sequence[CaptionedPhoto], path: Path
) -> dict[str, float]:
    """Rank correlation (Kendall's tau-b, Spearman's rho) of S with human match scores.

    ``path``: CSV with a header and the columns file, sentence, score; only photographs and
    sentences of the split count.

    Raises:
        CrossfuseError: other columns, or fewer than three rows of the split.
    """
    from scipy.stats import kendalltau, spearmanr

    images = {photo.file: row for row, photo in enumerate(photos)}
    captions = {
        caption.text: row * PER_IMAGE + number
        for row, photo in enumerate(photos)
        for number, caption in enumerate(photo.captions)
    }
    rows, columns, scores = [], [], []
    with path.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            try:
                file, text, score = line["file"], line["sentence"], float(line["score"])
            except (KeyError, TypeError, ValueError) as error:
                raise CrossfuseError(f"{path} needs file, sentence, score: {error!r}.") from error
            if file in images and text in captions:
                rows.append(images[file])
                columns.append(captions[text])
                scores.append(score)
    if len(scores) < 3:
        raise CrossfuseError(f"{path} has {len(scores)} rows of this split; at least 3 are needed.")
    at = np.array(rows), np.array(columns)
    similarity = encoded.separable[at] + model.config.alpha * score_pairs(model, encoded, *at)
    return {
        "pairs": float(len(scores)),
        "kendall_tau": float(kendalltau(similarity, scores).statistic),
        "spearman_rho": float(spearmanr(similarity, scores).statistic),
    }
