"""DE and PSD of a long recording against mne-features and TorchEEG, in one run.

    crossfuse bench eeg_features --json

Peers are optional (``pip install mne-features``; ``pip install --no-deps torcheeg``) and are asked
for the same features: DE by TorchEEG's ``BandDifferentialEntropy`` (mne-features has none), PSD by
the faster of TorchEEG and mne-features. They work window by window, so they are timed on a part of
the windows and scaled up; ours is timed on all. ``speedup`` = peer / ours, ``max_error`` largest
difference of values (DE in bits, PSD in dB).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from crossfuse.encoders import eeg_features as ef

RATE = 128.0
LENGTH, STEP = 256, 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--share", type=float, default=0.02, help="of the windows given to peers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows {feature, peer, ours_s, peer_s, speedup, max_error}."""
    torch.set_num_threads(arguments.threads)
    random = np.random.default_rng(0)
    samples = int(arguments.minutes * 60 * RATE)
    signal = (10 * random.normal(size=(arguments.channels, samples))).astype(np.float32)
    x = torch.from_numpy(signal)
    paper = ef.FeatureRecipe.paper()
    starts = ef.window_starts(samples, RATE, paper)
    chosen = starts[:: max(1, round(1 / arguments.share))].tolist()
    index = {int(s): i for i, s in enumerate(starts)}
    scale = len(starts) / len(chosen)
    places = [index[s] for s in chosen]
    rows: list[dict[str, Any]] = []
    same = ef.FeatureRecipe(taper="hamming", filtering="window")
    peers = {"DE": _torcheeg_de(), "PSD": _mne_psd(paper)}
    ours: dict[str, Callable[[], torch.Tensor]] = {
        "DE": lambda: ef.differential_entropy(x, RATE, same) / np.log10(2),
        "PSD": lambda: ef.power_spectral_density(x, RATE, same),
    }
    total = {"ours": 0.0, "peer": 0.0}
    for feature in ("DE", "PSD"):
        name, run = peers[feature]
        mine, theirs, pairs = [], [], []
        for _ in range(arguments.runs):
            began = time.perf_counter()
            found = ours[feature]()
            middle = time.perf_counter()
            if run is not None:
                values = [run(signal[:, s : s + LENGTH].astype(np.float64)) for s in chosen]
                theirs.append((time.perf_counter() - middle) * scale)
                pairs = values
            mine.append(middle - began)
        row: dict[str, Any] = {
            "feature": feature,
            "peer": name,
            "ours_s": statistics.median(mine),
            "peer_s": float("nan"),
            "speedup": float("nan"),
            "max_error": float("nan"),
        }
        if run is not None:
            row["peer_s"] = statistics.median(theirs)
            row["speedup"] = row["peer_s"] / row["ours_s"]
            difference = found[:, :, places].permute(2, 0, 1).numpy() - np.stack(pairs)
            row["max_error"] = float(np.abs(difference).max())
            total["ours"] += row["ours_s"]
            total["peer"] += row["peer_s"]
        rows.append(row)
    began = time.perf_counter()
    ef.extract(x, RATE, paper)
    rows.append(
        {
            "feature": "DE + PSD",
            "peer": "both of the above",
            "ours_s": total["ours"],
            "peer_s": total["peer"],
            "speedup": total["peer"] / total["ours"] if total["ours"] else float("nan"),
            "max_error": max(row["max_error"] for row in rows),
        }
    )
    rows.append(
        {
            "feature": "DE + PSD, recipe paper",
            "peer": "-",
            "ours_s": time.perf_counter() - began,
            "peer_s": float("nan"),
            "speedup": float("nan"),
            "max_error": float("nan"),
        }
    )
    return rows


Peer = tuple[str, Callable[[np.ndarray], np.ndarray] | None]


def _torcheeg_de() -> Peer:
    try:
        from torcheeg.transforms import BandDifferentialEntropy
    except ImportError as error:
        return f"TorchEEG (not installed: {error.name})", None
    bands = {band.name: [band.low, band.high] for band in ef.FeatureRecipe.paper().de_bands}
    transform = BandDifferentialEntropy(sampling_rate=int(RATE), order=5, band_dict=bands)
    return "TorchEEG", lambda window: transform(eeg=window)["eeg"]


def _mne_psd(recipe: ef.FeatureRecipe) -> Peer:
    try:
        from mne_features.utils import power_spectrum
    except ImportError as error:
        return f"mne-features (not installed: {error.name})", None

    def run(window: np.ndarray) -> np.ndarray:
        power, frequency = power_spectrum(
            RATE,
            window,
            fmin=0.0,
            fmax=RATE / 2,
            psd_method="welch",
            welch_n_fft=128,
            welch_n_per_seg=128,
            welch_n_overlap=64,
        )
        decibel = 10 * np.log10(power)
        return np.stack(
            [
                decibel[:, (frequency >= b.low) & (frequency <= b.high)].mean(1)
                for b in recipe.psd_bands
            ],
            axis=1,
        )

    return "mne-features", run
