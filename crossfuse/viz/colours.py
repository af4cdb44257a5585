"""The colour maps of crossfuse, computed in OKLCH so that equal steps look equal.

Lightness runs linearly along each map, hue turns steadily and chroma is held inside the sRGB
gamut. ``light`` starts near a white page and darkens; ``dark`` starts near a dark page and
brightens: in both, more attention is further from the page. The diverging pair is for signed
relevance only. Source of the colour space: B. Ottosson, "A perceptual color space for image
processing" (2020).
"""

from __future__ import annotations

from functools import cache

import numpy as np

STEPS = 256

# Of each map: lightness, chroma and hue (degrees) at its stops, evenly spaced.
_SEQUENTIAL = {
    "light": ((0.975, 0.012, 95), (0.86, 0.105, 75), (0.70, 0.165, 45), (0.54, 0.19, 10),
              (0.40, 0.165, -25), (0.27, 0.115, -60)),
    "dark": ((0.21, 0.045, -75), (0.345, 0.135, -55), (0.48, 0.18, -20), (0.63, 0.185, 20),
             (0.79, 0.15, 60), (0.955, 0.075, 100)),
}  # fmt: skip
_DIVERGING = {
    "light": ((0.40, 0.13, 255), (0.68, 0.11, 245), (0.972, 0.004, 250), (0.68, 0.13, 40),
              (0.42, 0.15, 25)),
    "dark": ((0.84, 0.10, 235), (0.55, 0.12, 250), (0.24, 0.006, 260), (0.56, 0.14, 30),
             (0.83, 0.11, 55)),
}  # fmt: skip


def _oklab_to_linear(lab: np.ndarray) -> np.ndarray:
    """OKLab (..., 3) -> linear sRGB (..., 3), possibly out of gamut."""
    lightness, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )


def _srgb(lightness: np.ndarray, chroma: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """OKLCH (hue in radians) -> sRGB uint8 (N, 3); chroma gives way where out of gamut."""
    linear = np.zeros((len(lightness), 3))
    left = np.ones(len(lightness), dtype=bool)
    for factor in np.linspace(1.0, 0.0, 101):
        lab = np.stack(
            [lightness, factor * chroma * np.cos(angle), factor * chroma * np.sin(angle)], axis=-1
        )
        candidate = _oklab_to_linear(lab)
        inside = left & ((candidate >= -1e-6) & (candidate <= 1 + 1e-6)).all(axis=-1)
        linear[inside] = candidate[inside]
        left &= ~inside
    linear = np.clip(linear, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


@cache
def palette(name: str = "sequential", theme: str = "light") -> np.ndarray:
    """A colour map as (256, 3) uint8 sRGB, read-only.

    ``name`` is ``"sequential"`` (weights) or ``"diverging"`` (signed relevance); ``theme`` is
    ``"light"`` or ``"dark"``, the page that the map will lie on.
    """
    stops = np.array((_SEQUENTIAL if name == "sequential" else _DIVERGING)[theme])
    position = np.linspace(0, len(stops) - 1, STEPS)
    at = np.arange(len(stops))
    lightness, chroma = np.interp(position, at, stops[:, 0]), np.interp(position, at, stops[:, 1])
    angle = np.deg2rad(stops[:, 2])
    if name == "sequential":
        lightness = np.linspace(stops[0, 0], stops[-1, 0], STEPS)
        hue = np.interp(position, at, np.unwrap(angle))
    else:  # through a neutral middle, where hue means nothing: straight lines in the a, b plane
        a = np.interp(position, at, stops[:, 1] * np.cos(angle))
        b = np.interp(position, at, stops[:, 1] * np.sin(angle))
        chroma, hue = np.hypot(a, b), np.arctan2(b, a)
    colours = _srgb(lightness, chroma, hue)
    colours.setflags(write=False)
    return colours


def plotly_scale(name: str = "sequential", theme: str = "light") -> list[tuple[float, str]]:
    """The colour map as a Plotly ``colorscale`` of 17 stops."""
    colours = palette(name, theme)
    at = np.linspace(0, STEPS - 1, 17).round().astype(int)
    return [(i / (STEPS - 1), "rgb({},{},{})".format(*colours[i])) for i in at.tolist()]
