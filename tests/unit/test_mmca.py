"""MMCA: masks, blocks, permutation, the separable limit, hand arithmetic, training pieces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crossfuse.attention import Want
from crossfuse.errors import CrossfuseError
from crossfuse.models.mmca import MMCA, MMCAConfig, SentenceStates
from crossfuse.training.mmca_losses import (
    contrast,
    hard_negatives,
    inner_words,
    joint_loss,
    word_region_score,
)
from crossfuse.training.mmca_trainer import Recipe


def network(**changes: object) -> MMCA:
    torch.manual_seed(0)
    return MMCA(replace(MMCAConfig.tiny(), **changes)).eval()


@pytest.fixture
def model() -> MMCA:
    return network()


def forward(model: MMCA, inputs: dict[str, torch.Tensor]) -> object:
    with torch.no_grad():
        return model(**inputs, want=Want.everything())


def test_rows_sum_to_one_over_regions_and_words(model: MMCA) -> None:
    inputs = model.example_inputs(model.config, 3)
    out = forward(model, inputs)
    real = torch.cat([inputs["region_mask"], inputs["word_mask"]], 1)
    cross = next(m for m in out.maps if m.stage == "cross").weights
    assert torch.allclose(cross.sum(-1), torch.ones(()), atol=1e-5)
    assert cross.transpose(1, 3)[~real].abs().max() == 0
    k = inputs["regions"].shape[1]
    across = cross[:, :, k:, :k].sum(-1)
    assert (across > 0).all()
    assert (across < 1).all()


def test_padding_changes_nothing(model: MMCA) -> None:
    inputs = model.example_inputs(model.config, 2)
    inputs["region_mask"][:] = True
    inputs["word_mask"][:] = True
    padded = {
        "regions": torch.nn.functional.pad(inputs["regions"], (0, 0, 0, 3), value=9.0),
        "boxes": torch.nn.functional.pad(inputs["boxes"], (0, 0, 0, 3), value=0.5),
        "words": torch.nn.functional.pad(inputs["words"], (0, 0, 0, 4), value=-7.0),
        "region_mask": torch.nn.functional.pad(inputs["region_mask"], (0, 3)),
        "word_mask": torch.nn.functional.pad(inputs["word_mask"], (0, 4)),
    }
    with torch.no_grad():
        one, two = model(**inputs), model(**padded)
    assert torch.allclose(one.similarity, two.similarity, atol=1e-5)
    assert torch.allclose(one.crossed, two.crossed, atol=1e-5)


def test_region_order_does_not_matter_and_word_order_does(model: MMCA) -> None:
    inputs = model.example_inputs(model.config, 2)
    inputs["region_mask"][:] = True
    order = torch.randperm(inputs["regions"].shape[1])
    turned = inputs | {"regions": inputs["regions"][:, order], "boxes": inputs["boxes"][:, order]}
    swapped = inputs | {"words": inputs["words"].flip(1), "word_mask": inputs["word_mask"].flip(1)}
    one, two, three = (forward(model, i) for i in (inputs, turned, swapped))
    assert torch.allclose(one.similarity, two.similarity, atol=1e-5)
    assert torch.allclose(
        one.maps[0].weights[:, :, order][..., order], two.maps[0].weights, atol=1e-5
    )
    assert not torch.allclose(one.similarity, three.similarity, atol=1e-4)


def test_alpha_zero_is_the_separable_score() -> None:
    model = network(alpha=0.0)
    out = forward(model, model.example_inputs(model.config, 3))
    assert torch.equal(out.similarity, out.separable)


def test_pair_score_is_the_same_alone_and_in_a_batch(model: MMCA) -> None:
    inputs = model.example_inputs(model.config, 4)
    together = forward(model, inputs).similarity
    alone = forward(model, {k: v[2:3] for k, v in inputs.items()}).similarity
    assert torch.allclose(together[2], alone[0], atol=1e-5)


def test_region_shares_add_up(model: MMCA) -> None:
    inputs = model.example_inputs(model.config, 3)
    out = forward(model, inputs)
    assert torch.allclose(out.region_shares.sum(1), out.crossed, atol=1e-5)
    assert out.region_shares[0, ~inputs["region_mask"][0]].abs().sum() == 0


def test_one_region_and_one_word_by_hand() -> None:
    model = network(cosine_scores=False)
    inputs = {
        "regions": torch.randn(1, 1, 12),
        "words": torch.randn(1, 1, 10),
        "boxes": torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]),
    }
    out = forward(model, inputs)
    unit = model.cross_units[0]
    with torch.no_grad():
        images = model.encode_images(inputs["regions"], inputs["boxes"])
        tokens = torch.cat([images.tokens, model.encode_sentences(inputs["words"]).tokens], 1)[0]
        q, k = (layer(tokens).view(2, 2, 8) for layer in (unit.query, unit.key))
        expected = torch.stack([(q[:, h] @ k[:, h].T / 8**0.5).softmax(-1) for h in (0, 1)])
    assert torch.allclose(out.maps[1].weights[0], expected, atol=1e-5)


@pytest.mark.parametrize("cosine", [True, False])
def test_alignment_is_the_attention_score_of_words_to_regions(cosine: bool) -> None:
    model = network(cosine_scores=cosine)
    inputs = model.example_inputs(model.config, 2)
    with torch.no_grad():
        images = model.encode_images(inputs["regions"], inputs["boxes"], inputs["region_mask"])
        sentences = model.encode_sentences(inputs["words"], inputs["word_mask"])
        score = model.alignment(images, sentences)
        unit = model.cross_units[0]
        query, key = unit.queries(sentences.tokens), unit.keys(images.tokens)
        expected = torch.einsum("bhnd,bhkd->bnk", query, key) / unit.heads
        if not cosine:
            expected = expected / (16 / unit.heads) ** 0.5
    own = score[torch.arange(2), :, torch.arange(2)]
    real = inputs["region_mask"][:, None].expand_as(own)
    assert torch.allclose(own[real], expected[real], atol=1e-5)
    assert torch.isneginf(own[~real]).all()


def test_paper_size_builds() -> None:
    model = MMCA(MMCAConfig.paper())
    unit = sum(p.numel() for p in model.cross_units.parameters())
    assert unit == 1_315_072  # one BERT layer of width 256, 16 heads, feed-forward 2048
    assert MMCAConfig.from_dict(model.config.to_dict()) == model.config


def test_bad_configurations_say_what_is_wrong(model: MMCA) -> None:
    with pytest.raises(CrossfuseError, match="heads"):
        replace(MMCAConfig.tiny(), heads=3)
    with pytest.raises(CrossfuseError, match="boxes"):
        model.encode_images(torch.randn(1, 2, 12))


# ---------------------------------------------------------------- training pieces


def test_contrast_prefers_the_true_pairs() -> None:
    right = torch.kron(torch.eye(4), torch.ones(1, 2)) * 20
    assert contrast(right, 2) < 1e-3
    assert contrast(right.flip(0), 2) > 10


def test_word_region_score_takes_the_best_region_of_real_words() -> None:
    scores = torch.tensor([[[[0.1, 0.9]], [[0.4, 0.2]], [[5.0, 5.0]]]])  # (1, 3, 1, 2)
    mask = torch.tensor([[True, True, False]])
    assert word_region_score(scores, mask).item() == pytest.approx((0.9 + 0.4) / 2)


def test_hard_negatives_are_hard_and_never_own() -> None:
    similarity = torch.arange(36.0).view(6, 6)
    own = torch.eye(6, dtype=torch.bool)
    found = hard_negatives(similarity, 2, own)
    assert not own.gather(1, found).any()
    assert (found >= 1).all()


def test_inner_words_leave_out_the_ends() -> None:
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    states = SentenceStates(torch.zeros(2, 4, 1), mask, torch.zeros(2, 1))
    assert inner_words(states).tolist() == [[False, True, False, False], [False, True, True, False]]


def test_joint_loss_has_a_gradient_everywhere_in_the_cross_unit(model: MMCA) -> None:
    inputs = model.example_inputs(model.config, 6)
    images = model.encode_images(inputs["regions"], inputs["boxes"], inputs["region_mask"])
    sentences = model.encode_sentences(inputs["words"], inputs["word_mask"])
    loss, wins = joint_loss(model, images, sentences, torch.tensor(10.0), 2, 0.2)
    loss.backward()
    assert 0 <= wins <= 1
    assert all(p.grad is not None for p in model.cross_units.parameters())


def test_rates_warm_up_and_end_at_zero_and_encoders_join_later() -> None:
    recipe = Recipe(decay_from=0.5, tune_from=0.2, warmup=10)
    rates = [recipe.factor(step / 80, step) for step in range(81)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[80] == 0.0
    assert np.all(np.diff(rates[41:]) < 0)
    assert recipe.tuning(0.2) == 0.0
    assert recipe.tuning(0.225) == pytest.approx(0.5)
    assert recipe.tuning(0.3) == 1.0


def test_hubness_is_what_an_embedding_has_in_common_with_a_bank() -> None:
    model = network()
    unit = torch.eye(4, model.config.width)
    assert torch.equal(model.hubness(unit, model.bank_images), torch.zeros(4))
    model.keep_bank(unit[:2], unit[:3])
    assert model.config.bank == (2, 3)
    b = 20.0
    near = np.log((np.exp(b) + 1) / 2) / b  # the first vector: one of two in the bank
    found = model.hubness(unit, model.bank_images)
    assert found.tolist() == pytest.approx([near, near, 0.0, 0.0], abs=1e-6)
    copy = MMCA(model.config)
    copy.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(copy.bank_sentences, unit[:3])
