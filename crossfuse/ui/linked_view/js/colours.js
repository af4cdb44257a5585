// Colour: the palettes that crossfuse.viz.colours computed, and the page's theme.

import { PALETTES } from "./palettes.js";

const tables = new Map();

function table(name) {
  if (!tables.has(name)) {
    const hex = PALETTES[name];
    const bytes = new Uint8Array(hex.length / 2);
    for (let i = 0; i < bytes.length; i++) bytes[i] = parseInt(hex.slice(2 * i, 2 * i + 2), 16);
    tables.set(name, bytes);
  }
  return tables.get(name);
}

/** A colour scale: weights between lo and hi on one of our palettes. */
export class Scale {
  constructor({ lo = 0, hi = 1, signed = false, dark = false } = {}) {
    this.lo = lo;
    this.hi = hi > lo ? hi : lo + 1e-12;
    this.signed = signed;
    this.dark = dark;
    this.bytes = table(`${signed ? "diverging" : "sequential"}-${dark ? "dark" : "light"}`);
  }

  /** 0..1 along the palette; NaN stays NaN. */
  position(weight) {
    const t = (weight - this.lo) / (this.hi - this.lo);
    return t < 0 ? 0 : t > 1 ? 1 : t;
  }

  /** 0..1: how far from "nothing"; for a signed scale both ends are far. */
  strength(weight) {
    const t = this.position(weight);
    return this.signed ? Math.abs(2 * t - 1) : t;
  }

  rgb(weight) {
    const i = 3 * Math.round(255 * (this.position(weight) || 0));
    return [this.bytes[i], this.bytes[i + 1], this.bytes[i + 2]];
  }

  css(weight, alpha = 1) {
    const [r, g, b] = this.rgb(weight);
    return alpha === 1 ? `rgb(${r},${g},${b})` : `rgba(${r},${g},${b},${alpha})`;
  }

  /** Black or white, whichever reads better on the colour of this weight. */
  ink(weight) {
    const [r, g, b] = this.rgb(weight);
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#14141c" : "#ffffff";
  }

  /** Weights -> RGBA pixels. `alpha(strength)` gives the opacity, 0..1; NaN is clear. */
  pixels(weights, alpha = () => 1, out = new Uint8ClampedArray(4 * weights.length)) {
    for (let i = 0; i < weights.length; i++) {
      const w = weights[i];
      if (w !== w) { out[4 * i + 3] = 0; continue; }
      const t = this.position(w);
      const at = 3 * Math.round(255 * t);
      out[4 * i] = this.bytes[at];
      out[4 * i + 1] = this.bytes[at + 1];
      out[4 * i + 2] = this.bytes[at + 2];
      out[4 * i + 3] = 255 * alpha(this.signed ? Math.abs(2 * t - 1) : t);
    }
    return out;
  }

  /** CSS gradient of the whole scale, left to right. */
  gradient() {
    const stops = [];
    for (let i = 0; i <= 16; i++) {
      stops.push(this.css(this.lo + ((this.hi - this.lo) * i) / 16));
    }
    return stops;
  }
}

const probe = typeof document === "undefined" ? null : document.createElement("canvas");

/** Any CSS colour -> [r, g, b]. */
export function parseColour(css) {
  probe.width = probe.height = 1;
  const pen = probe.getContext("2d", { willReadFrequently: true });
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = css;
  pen.fillRect(0, 0, 1, 1);
  return [...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

/** What a canvas needs of the page's theme, read from Streamlit's CSS variables. */
export function readTheme(element) {
  const style = getComputedStyle(element);
  const read = (name, fallback) => style.getPropertyValue(`--st-${name}`).trim() || fallback;
  const background = read("background-color", "#ffffff");
  const [r, g, b] = parseColour(background);
  return {
    background,
    dark: 0.299 * r + 0.587 * g + 0.114 * b < 128,
    secondary: read("secondary-background-color", "#f0f2f6"),
    text: read("text-color", "#262730"),
    border: read("border-color", "rgba(128,128,128,.3)"),
    primary: read("primary-color", "#5b4bd6"),
    font: read("font", "system-ui, sans-serif"),
  };
}
