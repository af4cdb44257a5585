"""The text encoder: golden values, word pieces and spans, odd input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossfuse.encoders.text import MAX_PIECES, MiniLM, load_text_encoder, pad_states
from crossfuse.errors import CrossfuseError


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    return MiniLM()


def test_golden_similarities(encoder: MiniLM) -> None:
    sentences = encoder.encode(["cat", "kitten", "car"])
    cat, kitten, car = (
        torch.nn.functional.normalize(s.states[:, 384:].mean(0), dim=0) for s in sentences
    )
    assert (cat @ kitten).item() == pytest.approx(0.788, abs=0.01)
    assert (cat @ car).item() == pytest.approx(0.463, abs=0.01)


def test_pieces_merge_to_words_with_spans(encoder: MiniLM) -> None:
    text = "A man in t-shirts plays skateboarding."
    sentence = encoder.encode([text])[0]
    words, spans = sentence.words.words, sentence.words.spans
    assert words[0] == "[CLS]"
    assert words[-1] == "[SEP]"
    assert "skateboarding" in words
    assert spans is not None
    assert [text[a:b] for a, b in spans[1:-1]] == list(words[1:-1])
    assert len(sentence.states) == len(sentence.word_of) > len(words)
    assert np.array_equal(sentence.merge.sum(0), np.ones(len(sentence.states)))


def test_a_sentence_is_the_same_alone_and_beside_a_longer_one(encoder: MiniLM) -> None:
    alone = encoder.encode(["two dogs"])[0].states
    beside = encoder.encode(["two dogs", "a very long sentence about something else"])[0].states
    assert torch.allclose(alone, beside, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("一只狗在跑", "English"),
        ("كلب يجري", "English"),
        ("a 🐶 runs", "vocabulary"),
        ("<script>alert('x')</script> a dog", None),
        ("word " * 500, "were read"),
    ],
)
def test_odd_sentences_work_and_say_what_they_lose(
    encoder: MiniLM, text: str, note: str | None
) -> None:
    sentence = encoder.encode([text])[0]
    assert torch.isfinite(sentence.states).all()
    assert len(sentence.states) <= MAX_PIECES
    assert (note is None) == (sentence.notes == ())
    if note:
        assert any(note in told for told in sentence.notes)


@pytest.mark.parametrize("text", ["", "  \n", "x" * 30_000, "\u200b"])
def test_nothing_to_encode_is_refused(encoder: MiniLM, text: str) -> None:
    with pytest.raises(CrossfuseError):
        encoder.encode([text])


def test_padding(encoder: MiniLM) -> None:
    states, mask = pad_states(encoder.encode(["a dog", "a dog runs on the beach"]))
    assert states.shape[:2] == mask.shape
    assert mask.sum(1).tolist() == [4, 8]


def test_unknown_encoders_say_what_is_needed() -> None:
    with pytest.raises(CrossfuseError, match=r"transformers|hub"):
        load_text_encoder("no-such/bert")
