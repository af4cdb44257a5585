"""A simulated recording of known content: dipoles in a sphere, seen by nineteen electrodes.

120 s at 128 Hz. The first minute is rest: pink activity all over the cortex and a 10 Hz rhythm of
two occipital dipoles. From ``PLANT`` on, for twelve seconds, the occipital rhythm weakens and a
6 Hz rhythm of a frontal midline dipole grows. Nothing else changes. It is nobody's brain.

The gains (µV at each electrode for 1 nAm) come from MNE's three-shell sphere and are kept in
``assets/samples/eeg_sphere.npz``; ``python -m crossfuse.data.eeg.simulated`` makes them again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossfuse.data.eeg import montage
from crossfuse.data.eeg.recording import Annotation, Recording
from crossfuse.notices import Notice
from crossfuse.weights import ASSETS

RATE = 128.0
SECONDS = 120
GAINS = ASSETS / "samples" / "eeg_sphere.npz"
SCATTER = 60  # dipoles of the background
CENTRE = (0.0, -0.018, 0.012)  # of the sphere that fits the electrodes, metres
RADIUS = 0.097


@dataclass(frozen=True)
class Plant:
    """What was planted: seconds, band, and the electrodes above it."""

    start: float
    stop: float
    bands: tuple[str, ...]
    channels: tuple[str, ...]


PLANT = Plant(84.0, 96.0, ("theta", "slow alpha", "alpha"), ("Fz", "F3", "F4", "Fp1", "Fp2"))
NAMED = {  # direction from the centre, and depth as a share of the head's radius
    "frontal midline": ((0.0, 0.70, 0.71), 0.55),
    "left occipital": ((-0.35, -0.93, 0.10), 0.62),
    "right occipital": ((0.35, -0.93, 0.10), 0.62),
}


def simulate(seed: int = 4) -> Recording:
    """The recording, the same for the same seed. The planted time is an annotation."""
    with np.load(GAINS) as archive:
        gains, names = archive["gains"], tuple(str(name) for name in archive["names"])
    random = np.random.default_rng(seed)
    samples = int(SECONDS * RATE)
    seconds = np.arange(samples) / RATE
    named = len(NAMED)
    moments = np.empty((gains.shape[1], samples))
    moments[named:] = 9.0 * pink(random, gains.shape[1] - named, samples)
    on = plant_envelope(seconds)
    moments[0] = (4 + 34 * on) * rhythm(random, 6.0, seconds)
    moments[1] = 26 * (1 - 0.75 * on) * rhythm(random, 10.0, seconds)
    moments[2] = 26 * (1 - 0.75 * on) * rhythm(random, 10.0, seconds)
    signal = gains @ moments + 0.8 * random.normal(size=(len(names), samples))
    marks = (
        Annotation(0.0, 60.0, "baseline"),
        Annotation(PLANT.start, PLANT.stop - PLANT.start, "planted: theta up, alpha down"),
    )
    note = Notice("Simulated with dipoles in a sphere model; not a person's recording.")
    return Recording(
        signal.astype(np.float32),
        RATE,
        names,
        ("eeg",) * len(names),
        marks,
        positions=montage.positions(names),
        format="simulated",
        notes=(note,),
    )


def plant_envelope(seconds: np.ndarray) -> np.ndarray:
    """0 outside the planted time, 1 inside, with ramps of a second."""
    rise = np.clip(seconds - PLANT.start, 0, 1)
    fall = np.clip(PLANT.stop - seconds, 0, 1)
    return np.minimum(rise, fall)


def pink(random: np.random.Generator, rows: int, samples: int) -> np.ndarray:
    """Noise with power 1/f from 1 to 45 Hz and unit variance."""
    frequencies = np.fft.rfftfreq(samples, 1 / RATE)
    inside = (frequencies >= 1) & (frequencies <= 45)
    shape = np.where(inside, 1 / np.sqrt(np.maximum(frequencies, 1)), 0)
    noise = np.fft.irfft(np.fft.rfft(random.normal(size=(rows, samples))) * shape, n=samples)
    scaled: np.ndarray = noise / noise.std(axis=1, keepdims=True)
    return scaled


def rhythm(random: np.random.Generator, frequency: float, seconds: np.ndarray) -> np.ndarray:
    """A sine whose size wanders slowly around 1 and whose phase drifts."""
    knots = np.arange(0, seconds[-1] + 4, 2.0)
    size = np.interp(seconds, knots, 1 + 0.25 * random.normal(size=len(knots)))
    drift = np.interp(seconds, knots, np.cumsum(random.normal(size=len(knots))) * 0.5)
    wave: np.ndarray = size * np.sin(2 * np.pi * frequency * seconds + drift)
    return wave


def make_gains(seed: int = 1) -> np.ndarray:
    """(electrodes, dipoles) µV for 1 nAm, by MNE's forward model in a sphere of 9 cm."""
    import mne

    names = montage.TEN_TWENTY
    info = mne.create_info(list(names), RATE, "eeg")
    places = dict(zip(names, montage.positions(names).astype(float), strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    info = mne.io.RawArray(np.zeros((len(names), 2)), info, verbose="error")
    info = info.set_eeg_reference(projection=True, verbose="error").info
    sphere = mne.make_sphere_model(r0=CENTRE, head_radius=RADIUS, info=None, verbose="error")
    random = np.random.default_rng(seed)
    axis = [np.array(direction) for direction, _ in NAMED.values()]
    depth = [share for _, share in NAMED.values()]
    while len(axis) < len(NAMED) + SCATTER:
        direction = random.normal(size=3)
        if direction[2] > -0.2 * np.linalg.norm(direction):
            axis.append(direction)
            depth.append(0.65)
    orientation = np.array([direction / np.linalg.norm(direction) for direction in axis])
    position = np.array(CENTRE) + RADIUS * np.array(depth)[:, None] * orientation
    count = len(position)
    dipoles = mne.Dipole(np.arange(count), position, np.ones(count), orientation, np.ones(count))
    forward, _ = mne.make_forward_dipole(dipoles, sphere, info, verbose="error")
    forward = mne.convert_forward_solution(forward, force_fixed=True, verbose="error")
    gain: np.ndarray = forward["sol"]["data"] * 1e6 * 1e-9
    return (gain - gain.mean(0)).astype(np.float32)


if __name__ == "__main__":
    GAINS.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GAINS, gains=make_gains(), names=np.array(montage.TEN_TWENTY))
    print(f"wrote {GAINS}")
