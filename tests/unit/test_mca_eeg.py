"""The fusion's identities and the network's sizes."""

from __future__ import annotations

import math

import pytest
import torch

from crossfuse.attention import Want
from crossfuse.models.mca_eeg import (
    MCAEEG,
    MCAEEGConfig,
    mutual_cross_attention,
    scale_columns,
)

ALL = Want.everything()


def pair(channels: int = 14, bands: int = 5, columns: int = 60, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, channels, bands, columns)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))


def test_parameters_are_those_of_the_checkpoint() -> None:
    model = MCAEEG(MCAEEGConfig.paper())
    assert sum(p.numel() for p in model.parameters()) == 195_618
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in model.features]
    assert [s for s in sizes if s] == [896, 27_680, 55_360, 110_656]


@pytest.mark.parametrize(("channels", "width"), [(32, 512), (14, 192), (19, 256)])
def test_flattened_width_follows_the_montage(channels: int, width: int) -> None:
    assert MCAEEG(MCAEEGConfig(channels=channels)).classifier.in_features == width


def test_the_formula() -> None:
    """S = X1 X2' / sqrt(T) with T the columns (not the channels), written out."""
    de, psd = pair()
    fused = mutual_cross_attention(de, psd, want=ALL)
    for b in range(5):
        x1, x2 = de[0, :, b], psd[0, :, b]
        s = x1 @ x2.T / math.sqrt(60)
        a1, a2 = s.softmax(-1), s.T.softmax(-1)
        torch.testing.assert_close(fused.output[0, :, b], a1 @ x2 + a2 @ x1)
        torch.testing.assert_close(fused.maps[0].weights[0, b].double(), a1, atol=1e-6, rtol=0)
        # Both directions come from one score matrix.
        torch.testing.assert_close(
            fused.maps[1].weights[0, b].double(), s.softmax(0).T, atol=1e-6, rtol=0
        )


def test_the_tiny_case() -> None:
    x = torch.tensor([[1.0], [0.0]])[None, :, None]  # (1, C=2, F=1, T=1)
    fused = mutual_cross_attention(x, x, want=ALL)
    e = math.e
    first = e / (1 + e)
    expected = torch.tensor([[first, 1 - first], [0.5, 0.5]])
    torch.testing.assert_close(fused.maps[0].weights[0, 0], expected)
    torch.testing.assert_close(fused.output.flatten(), torch.tensor([2 * first, 1.0]))


def test_symmetric_in_its_inputs() -> None:
    de, psd = pair()
    one = mutual_cross_attention(de, psd).output
    torch.testing.assert_close(one, mutual_cross_attention(psd, de).output)


def test_channel_order_carries_over_and_time_order_is_invisible() -> None:
    de, psd = pair()
    fused = mutual_cross_attention(de, psd, want=ALL)
    order = torch.randperm(14)
    moved = mutual_cross_attention(de[:, order], psd[:, order], want=ALL)
    torch.testing.assert_close(moved.output, fused.output[:, order])
    time = torch.randperm(60)
    shuffled = mutual_cross_attention(de[..., time], psd[..., time], want=ALL)
    torch.testing.assert_close(shuffled.output, fused.output[..., time])
    torch.testing.assert_close(shuffled.maps[0].weights, fused.maps[0].weights)


def test_a_common_course_added_to_the_keys_changes_nothing() -> None:
    de, psd = pair()
    common = torch.randn(2, 1, 5, 60, dtype=torch.float64)
    one = mutual_cross_attention(de, psd, want=ALL).maps[0].weights
    two = mutual_cross_attention(de, psd + common, want=ALL).maps[0].weights
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


def test_rows_are_convex_weights() -> None:
    de, psd = pair()
    fused = mutual_cross_attention(de, psd, want=ALL)
    for record in fused.maps:
        torch.testing.assert_close(record.weights.float().sum(-1), torch.ones(2, 5, 14))
    assert (fused.de_psd <= psd.amax(1, keepdim=True) + 1e-9).all()
    assert (fused.de_psd >= psd.amin(1, keepdim=True) - 1e-9).all()


def test_equal_channels_give_even_weights() -> None:
    de, psd = pair()
    psd = psd[:, :1].expand(-1, 14, -1, -1)
    fused = mutual_cross_attention(de, psd, want=ALL)
    torch.testing.assert_close(fused.de_psd, psd.contiguous())
    torch.testing.assert_close(fused.maps[0].weights.float(), torch.full((2, 5, 14, 14), 1 / 14))


def test_larger_units_sharpen() -> None:
    """The reason to normalise: decibels saturate the softmax."""
    de, psd = pair()
    soft, hard = (
        mutual_cross_attention(s * de, s * psd, want=ALL).maps[0].weights.amax(-1).mean()
        for s in (0.3, 30)
    )
    assert soft < 0.15
    assert hard > 0.95


def test_attention_over_time_is_the_extension() -> None:
    de, psd = pair(columns=6)
    fused = mutual_cross_attention(de, psd, over="time", want=ALL)
    assert fused.maps[0].weights.shape == (2, 5, 6, 6)
    x1, x2 = de[0, :, 2].T, psd[0, :, 2].T
    a = (x1 @ x2.T / math.sqrt(14)).softmax(-1)
    torch.testing.assert_close(fused.de_psd[0, :, 2], (a @ x2).T)


def test_scaled_columns_lie_between_0_and_1() -> None:
    z = scale_columns(pair()[0])
    assert z.amin(dim=(1, 2)).eq(0).all()
    assert z.amax(dim=(1, 2)).eq(1).all()
    assert scale_columns(torch.ones(1, 2, 2, 3)).eq(0).all()


def test_scopes() -> None:
    """Windows of one trial: with T = W each has its own map, with T = 60 they share one."""
    torch.manual_seed(0)
    model = MCAEEG(MCAEEGConfig(channels=14)).double().eval()
    de, psd = pair()
    trial = model(de, psd, want=ALL)
    assert trial.logits.shape == (2, 20, 2)
    assert trial.maps[0].weights.shape == (2, 5, 14, 14)
    window = model(de[..., :3], psd[..., :3])
    assert window.logits.shape == (2, 1, 2)
    assert not torch.allclose(window.logits[:, 0], trial.logits[:, 0])
    with pytest.raises(ValueError, match="multiple of 3"):
        model(de[..., :4], psd[..., :4])


def test_default_mode_has_no_randomness() -> None:
    model = MCAEEG(MCAEEGConfig(channels=14, dropout=0.5)).double().eval()
    de, psd = pair()
    assert torch.equal(model(de, psd).logits, model(de, psd).logits)
    assert torch.equal(model(de, psd).fused, model(de, psd).fused)


def test_without_attention() -> None:
    model = MCAEEG(MCAEEGConfig(channels=14, fusion="concatenate")).double().eval()
    output = model(*pair(columns=3), want=ALL)
    assert output.fused is None
    assert output.maps == ()
    assert model.features[0].in_channels == 2
