"""DE and PSD against closed forms, SciPy and MNE."""

from __future__ import annotations

import math

import mne
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossfuse.encoders import eeg_features as ef
from crossfuse.encoders.eeg_normalise import (
    Normalisation,
    Statistics,
    normalise,
    saturation,
    smooth,
)
from crossfuse.errors import CrossfuseError

RATE = 128.0
PAPER = ef.FeatureRecipe.paper()


def noise(channels: int, seconds: float, rate: float = RATE, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(10 * random.normal(size=(channels, int(seconds * rate))))


@pytest.mark.parametrize(("sigma", "value"), [(1.0, 0.61624), (10.0, 1.61624)])
def test_entropy_of_gaussian_noise(sigma: float, value: float) -> None:
    """Base 10: sigma = 1 gives 0.616 (natural logarithm would give 1.419)."""
    found = ef.entropy_of_variance(torch.tensor([sigma**2]))
    assert found.item() == pytest.approx(value, abs=1e-4)


def test_entropy_of_band_passed_white_noise() -> None:
    """The variance in a band is that of the noise times the energy of the filter."""
    x = noise(4, 300)
    taps = ef.band_pass(12, 30, RATE)
    expected = 0.5 * math.log10(2 * math.pi * math.e * 100 * float((taps**2).sum()))
    found = ef.differential_entropy(x, RATE, PAPER)[:, 3]
    assert found.mean().item() == pytest.approx(expected, abs=0.01)


def test_variance_is_the_population_one() -> None:
    x = noise(2, 10)
    starts = torch.tensor([0, 100, 300])
    found = ef.window_variance(x, starts, 256)
    true = np.stack([x[:, s : s + 256].numpy().var(axis=1) for s in starts], 1)
    np.testing.assert_allclose(found.numpy(), true, rtol=1e-10)


@pytest.mark.parametrize("rate", [128.0, 200.0, 250.5])
@pytest.mark.parametrize("band", [(4, 8), (8, 10), (12, 30), (30, 45)])
def test_band_pass_is_that_of_mne(band: tuple[int, int], rate: float) -> None:
    x = noise(2, 20, rate)
    found = ef.filter_blocks(x, [ef.band_pass(*band, rate)])[:, 0].numpy()
    true = mne.filter.filter_data(x.numpy(), rate, *band, verbose="error")
    np.testing.assert_allclose(found, true, atol=2e-3 * true.std())


def test_blocks_leave_no_seam() -> None:
    """Overlap-save over many blocks equals one long convolution."""
    x = noise(1, 200)
    taps = ef.band_pass(8, 12, RATE)
    whole = np.convolve(x[0].numpy(), taps, mode="same")
    found = ef.filter_blocks(x, [taps])[0, 0].numpy()
    inside = slice(len(taps), -len(taps))
    np.testing.assert_allclose(found[inside], whole[inside], atol=1e-9)


def test_power_is_welchs() -> None:
    x = noise(3, 30)
    found = ef.power_spectral_density(x, RATE, PAPER)
    for step in (0, 7, found.shape[-1] - 1):
        start = step * 32
        part = x[:, start : start + 256].numpy()
        frequency, power = scipy.signal.welch(part, RATE, nperseg=128)
        for b, band in enumerate(PAPER.psd_bands):
            inside = (frequency >= band.low) & (frequency <= band.high)
            true = 10 * np.log10(power[:, inside]).mean(1)
            np.testing.assert_allclose(found[:, b, step], true, atol=1e-4)


def test_power_is_that_of_mne() -> None:
    x = noise(2, 2)
    power, frequency = mne.time_frequency.psd_array_welch(
        x.numpy(), RATE, n_fft=128, n_overlap=64, window="hann", verbose="error"
    )
    inside = (frequency >= 14) & (frequency <= 29)
    found = ef.power_spectral_density(x, RATE, PAPER)[:, 3, 0]
    np.testing.assert_allclose(found, 10 * np.log10(power[:, inside]).mean(1), atol=1e-4)


def test_a_sine_lies_in_its_bands() -> None:
    """10 µV at 10 Hz: 50 µV² of power, in both alphas and nowhere else."""
    seconds = torch.arange(int(20 * RATE), dtype=torch.float64) / RATE
    x = 10 * torch.sin(2 * math.pi * 10 * seconds)[None] + 0.01 * noise(1, 20)
    features = ef.extract(x, RATE)
    middle = features.psd[0, :, 5:15].mean(-1)
    assert middle[[1, 2]].min() - middle[[0, 3, 4]].max() > 10
    de = features.de[0, :, 5:15].mean(-1)
    assert de[2].item() == pytest.approx(0.5 * math.log10(2 * math.pi * math.e * 50), abs=0.02)
    assert de[1] > de[0] + 1
    assert de[1] > de[3] + 0.5  # the transition of beta reaches down to 9 Hz


def test_columns_of_the_paper() -> None:
    """60 s: 232 steps, 58 full columns, the last two repeat the one before."""
    x = noise(2, 60)
    assert ef.differential_entropy(x, RATE, PAPER).shape == (2, 5, 232)
    features = ef.extract(x, RATE)
    assert features.de.shape == features.psd.shape == (2, 5, 60)
    assert torch.equal(features.de[..., 58], features.de[..., 57])
    assert torch.equal(features.de[..., 59], features.de[..., 57])
    assert features.times[-1].tolist() == [59.0, 60.0]


@settings(max_examples=25, deadline=None)
@given(st.floats(2.0, 9.0), st.sampled_from([100.0, 128.0, 160.0, 250.0]), st.integers(1, 3))
def test_any_length_gives_finite_columns(seconds: float, rate: float, channels: int) -> None:
    samples = int(np.ceil(seconds * rate))
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(channels, samples)))
    features = ef.extract(x, rate)
    assert features.de.shape == (channels, 5, int(samples / rate + 1e-9))
    assert torch.isfinite(features.de).all()
    assert torch.isfinite(features.psd).all()


def test_flat_channels_stay_finite() -> None:
    features = ef.extract(torch.zeros(1, 512), RATE)
    assert torch.isfinite(features.de).all()
    assert torch.isfinite(features.psd).all()


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(CrossfuseError, match=r"lasts 1\.00 s"):
        ef.extract(noise(1, 1), RATE)
    with pytest.raises(CrossfuseError, match="gamma"):
        ef.extract(noise(1, 10, 80), 80.0)
    fewer, lost = PAPER.available(80.0)
    assert lost == ("gamma",)
    assert ef.extract(noise(1, 10, 80), 80.0, fewer).de.shape == (1, 4, 10)
    with pytest.raises(CrossfuseError, match="none of the bands"):
        PAPER.available(8.0)
    with pytest.raises(CrossfuseError, match="1 s or longer"):
        ef.FeatureRecipe(window=0.5)
    with pytest.raises(CrossfuseError, match="as many"):
        ef.FeatureRecipe(de_bands=())


def test_baseline_normalisation() -> None:
    columns = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0)) * 3 + 7
    statistics = Statistics.of(columns[..., :20])
    z = normalise(columns, statistics, Normalisation(smoothing=1, limit=100))
    torch.testing.assert_close(z[..., :20].mean(-1), torch.zeros(3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        z[..., :20].std(-1, unbiased=False), torch.ones(3, 5), atol=1e-5, rtol=0
    )
    paper = normalise(columns, statistics, Normalisation.paper())
    torch.testing.assert_close(paper, columns - statistics.mean)
    with pytest.raises(CrossfuseError, match="6 s or longer"):
        Statistics.of(columns[..., :2])


def test_smoothing_is_a_centred_mean() -> None:
    x = torch.arange(10.0)[None]
    assert smooth(x, 3)[0].tolist() == [0.5, 1, 2, 3, 4, 5, 6, 7, 8, 8.5]
    assert smooth(x, 1) is x


def test_saturation_of_known_maps() -> None:
    assert saturation(torch.eye(4)) == (1.0, pytest.approx(0, abs=1e-6))
    top, entropy = saturation(torch.full((2, 4, 4), 0.25))
    assert (top, entropy) == (0.25, pytest.approx(1.0))


def test_windows_filtered_on_their_own() -> None:
    """The quadratic form equals filtering each window from rest (what TorchEEG's transforms do)."""
    x = noise(2, 6)
    recipe = ef.FeatureRecipe(filtering="window")
    found = ef.differential_entropy(x, RATE, recipe)
    for step in (0, 9):
        window = x[:, 32 * step : 32 * step + 256].numpy()
        for b, band in enumerate(recipe.de_bands):
            taps = scipy.signal.butter(5, (band.low, band.high), "bandpass", fs=RATE)
            true = 0.5 * np.log10(
                2 * np.pi * np.e * scipy.signal.lfilter(*taps, window, axis=1).var(axis=1)
            )
            np.testing.assert_allclose(found[:, b, step], true, atol=1e-4)
