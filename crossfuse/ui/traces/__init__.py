"""Raw traces with a scrubber: an envelope of the whole recording, samples of the part on screen.

The browser gets a min/max envelope once (at most ``BINS`` bins a channel) and the samples of about
a minute round the part that is shown. Dragging the scrubber draws from what is there in the same
frame; when it rests, the browser asks for the samples of the new place.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import streamlit as st

from crossfuse.ui.text import current_language, page_texts

HERE = Path(__file__).parent
BINS = 4096
DETAIL = 60.0  # seconds of samples sent at a time
LINE, LEAST, MOST = 14, 420, 900  # CSS pixels of a channel; least and most of all together
WHOLE = 1_200_000  # samples; a recording with no more is sent as it is


def envelope(signal: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(channels, samples) -> (channels, bins or fewer, 2): lowest and highest value of each bin."""
    channels, samples = signal.shape
    width = max(1, -(-samples // bins))
    count = -(-samples // width)
    padded = np.empty((channels, count * width), signal.dtype)
    padded[:, :samples] = signal
    padded[:, samples:] = signal[:, -1:]
    blocks = padded.reshape(channels, count, width)
    return np.stack([blocks.min(axis=2), blocks.max(axis=2)], axis=2)


def traces(
    key: str,
    signal: np.ndarray,
    factors: np.ndarray,
    rate: float,
    names: tuple[str, ...],
    *,
    overview: np.ndarray,
    digest: str,
    line: np.ndarray | None = None,
    times: np.ndarray | None = None,
    window: int = 0,
    follows: tuple[str, str] = ("", ""),
    annotations: tuple[tuple[float, float, str], ...] = (),
    states: Mapping[str, str] | None = None,
    apart: frozenset[str] = frozenset(),
) -> str | None:
    """Show ``signal`` (channels, samples) int16, ``factors`` µV a unit; ``overview`` from
    :func:`envelope`. ``line``: 0..1 over the whole recording, drawn on the scrubber. ``digest``
    names the recording: a new one starts at its beginning.

    ``times`` (windows, 2) seconds and ``window``: the one outlined at first. ``follows``: key and
    geometry of a linked view on the same page whose pins choose the window from then on, in the
    browser. ``states``: "marked", "bad" or "proposed" for channels that are not as the others;
    those in ``apart`` are drawn by a scale of their own (ECG among EEG).
    Returns the name of a channel in the run that a click on it has caused.
    """
    samples = signal.shape[1]
    seconds = samples / rate
    if signal.size <= WHOLE:
        first, last = 0, samples
    else:
        state = st.session_state.get(key)
        centre = float((state.get("place") if state else None) or 0.0)
        # Steps of half a piece, so that small moves ask for nothing new.
        begin = max(0.0, (np.floor(centre / (DETAIL / 2)) - 0.5) * DETAIL / 2)
        first = int(begin * rate)
        last = min(samples, first + int(1.5 * DETAIL * rate))
    texts = page_texts("eeg", current_language())
    mount = st.components.v2.component(
        "crossfuse_traces",
        js=(HERE / "traces.js").read_text(encoding="utf-8"),
        css=(HERE / "traces.css").read_text(encoding="utf-8"),
    )
    result = mount(
        key=key,
        data={
            "meta": {
                "digest": digest,
                "names": list(names),
                "rate": rate,
                "seconds": seconds,
                "first": first,
                "last": last,
                "bins": overview.shape[1],
                "window": window,
                "follows": list(follows),
                "annotations": [[float(a), float(b), text] for a, b, text in annotations[:2000]],
                "height": max(LEAST, min(MOST, LINE * len(names))),
                "apart": [name in apart for name in names],
                "states": [(states or {}).get(name, "") for name in names],
                "texts": {
                    name.removeprefix("traces_"): text
                    for name, text in texts.items()
                    if name.startswith("traces_")
                },
            },
            "factors": np.ascontiguousarray(factors, dtype=np.float32),
            "overview": np.ascontiguousarray(overview).ravel(),
            "detail": np.ascontiguousarray(signal[:, first:last]).ravel(),
            "line": np.ascontiguousarray(np.zeros(0) if line is None else line, dtype=np.float32),
            "times": np.ascontiguousarray(
                np.zeros(0) if times is None else np.ravel(times), dtype=np.float32
            ),
        },
        default={"place": None},
        on_place_change=lambda: None,
        on_toggle_change=lambda: None,
    )
    toggled: str | None = result.toggle
    return toggled
