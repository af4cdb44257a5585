// Bands (rows, the lowest at the bottom) x time windows (columns), a curve over the windows above.

import { canvasPanel } from "../js/canvas_panel.js";
import { Scale } from "../js/colours.js";
import { fitCanvas } from "../js/dom.js";
import { formatWeight } from "../js/labels.js";

const CURVE = 56; // height of the curve
const MARKS = 16; // between curve and cells, for the names of marked stretches
const ROW = 34; // height of a band
const AXIS = 34; // height of the time axis

export function create(root, ctx) {
  const sheet = document.createElement("canvas");
  let geometry = null;
  let data = null;
  let windows = 0;
  let bands = 0;
  let frame = null;

  function itemAt(x, y) {
    if (!frame) return null;
    const window = Math.floor(((x - frame.x) / frame.width) * windows);
    const row = Math.floor((y - frame.y) / frame.row);
    if (window < 0 || window >= windows || y < frame.y - frame.above || row >= bands) return null;
    return (bands - 1 - Math.max(row, 0)) * windows + window;
  }

  function cell(item) {
    const window = item % windows;
    const row = bands - 1 - Math.floor(item / windows);
    const left = Math.round((window / windows) * frame.width);
    const right = Math.round(((window + 1) / windows) * frame.width);
    return [frame.x + left, frame.y + row * frame.row, Math.max(right - left, 2), frame.row];
  }

  function baseScale(values) {
    let low = 0;
    let high = 0;
    for (const v of values) if (v === v) { low = Math.min(low, v); high = Math.max(high, v); }
    const signed = low < 0;
    const top = Math.max(high, -low);
    return new Scale({ lo: signed ? -top : 0, hi: top, signed, dark: ctx.theme.dark });
  }

  function paintCells(pen, weights, scale) {
    sheet.width = windows;
    sheet.height = bands;
    const pixels = scale.pixels(weights);
    const flipped = new Uint8ClampedArray(pixels.length);
    const line = 4 * windows;
    for (let b = 0; b < bands; b++) {
      flipped.set(pixels.subarray(b * line, (b + 1) * line), (bands - 1 - b) * line);
    }
    sheet.getContext("2d").putImageData(new ImageData(flipped, windows, bands), 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(sheet, frame.x, frame.y, frame.width, frame.row * bands);
  }

  function paintCurve(pen, values) {
    const top = frame.y - frame.above + 18;
    const height = CURVE - 16;
    pen.strokeStyle = ctx.theme.border;
    pen.lineWidth = 1;
    pen.setLineDash([2, 3]);
    pen.beginPath();
    pen.moveTo(frame.x, top + height / 2);
    pen.lineTo(frame.x + frame.width, top + height / 2);
    pen.stroke();
    pen.setLineDash([]);
    pen.strokeStyle = ctx.theme.primary;
    pen.lineWidth = 1.8;
    pen.beginPath();
    for (let i = 0; i < windows; i++) {
      const y = top + height * (1 - values[i]);
      pen.lineTo(frame.x + (i / windows) * frame.width, y);
      pen.lineTo(frame.x + ((i + 1) / windows) * frame.width, y);
    }
    pen.stroke();
    pen.fillStyle = ctx.theme.text;
    pen.globalAlpha = 0.7;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const mark of [0, 1]) pen.fillText(String(mark), frame.x - 6, top + height * (1 - mark));
    pen.globalAlpha = 1;
  }

  function paintAxes(pen) {
    const { theme } = ctx;
    pen.fillStyle = theme.text;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    geometry.bands.forEach((name, b) => {
      pen.fillText(name, frame.x - 6, frame.y + (bands - 0.5 - b) * frame.row);
    });
    const bottom = frame.y + bands * frame.row;
    const begin = geometry.times[0];
    const end = geometry.times[2 * windows - 1];
    const step = niceStep((end - begin) / Math.max(2, frame.width / 70));
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (let s = Math.ceil(begin / step) * step; s <= end; s += step) {
      const x = frame.x + ((s - begin) / (end - begin)) * frame.width;
      pen.fillRect(x, bottom, 1, 4);
      pen.fillText(clock(s, end), x, bottom + 6);
    }
    pen.globalAlpha = 0.7;
    pen.textAlign = "left";
    if (data.options.line_label && data.arrays.line) {
      pen.textBaseline = "bottom";
      pen.fillText(data.options.line_label, frame.x, frame.y - frame.above + 13);
    }
    pen.globalAlpha = 1;
  }

  function paintSpans(pen) {
    const begin = geometry.times[0];
    const end = geometry.times[2 * windows - 1];
    const x = (s) => frame.x + Math.min(1, Math.max(0, (s - begin) / (end - begin))) * frame.width;
    for (const [start, stop, label] of data.options.spans ?? []) {
      const [x0, x1] = [x(start), x(stop)];
      pen.fillStyle = ctx.theme.text;
      pen.globalAlpha = 0.55;
      pen.fillRect(x0, frame.y - 3, x1 - x0, 2);
      pen.globalAlpha = 0.8;
      pen.textBaseline = "bottom";
      const wide = pen.measureText(label).width;
      // Over its stretch where there is room, else ending with it.
      pen.textAlign = "right";
      if (wide < Math.max(x1 - frame.x, 50)) pen.fillText(label, x1, frame.y - 4);
      pen.globalAlpha = 1;
    }
  }

  function draw(picture, canvas) {
    const { theme } = ctx;
    const width = ctx.width();
    const probe = canvas.getContext("2d");
    probe.font = `11px ${theme.font}`;
    const left = 10 + Math.max(...geometry.bands.map((name) => probe.measureText(name).width));
    const marks = data.options.spans?.length ? MARKS : 0;
    const above = data.arrays.line ? CURVE + 14 + marks : 18;
    const row = Math.max(16, Math.min(ROW, (ctx.height() - above - AXIS) / bands));
    frame = { x: left, y: above, width: Math.max(60, width - left - 12), row, above };
    const pen = fitCanvas(canvas, width, above + row * bands + AXIS);
    pen.clearRect(0, 0, width, above + row * bands + AXIS);
    pen.font = `11px ${theme.font}`;
    const base = data.arrays.base;
    if (picture.weights) paintCells(pen, picture.weights, picture.scale);
    else if (base) {
      const scale = baseScale(base);
      paintCells(pen, base, scale);
      if (data.options.base_label) {
        pen.fillStyle = theme.text;
        pen.globalAlpha = 0.7;
        pen.textAlign = "right";
        pen.textBaseline = "bottom";
        const range = `${formatWeight(scale.lo)} … ${formatWeight(scale.hi)}`;
        pen.fillText(`${data.options.base_label}: ${range}`, frame.x + frame.width, above + row * bands + AXIS);
        pen.globalAlpha = 1;
      }
    }
    pen.strokeStyle = theme.border;
    pen.lineWidth = 1;
    pen.strokeRect(frame.x - 0.5, frame.y - 0.5, frame.width + 1, row * bands + 1);
    if (data.arrays.line) paintCurve(pen, data.arrays.line);
    paintAxes(pen);
    paintSpans(pen);
    for (const item of picture.top) box(pen, item, theme.text, 1, []);
    if (picture.marked !== null) box(pen, picture.marked, theme.text, 1.4, [3, 2]);
    if (picture.source !== null) box(pen, picture.source, theme.primary, 2.4, []);
  }

  function box(pen, item, colour, line, dash) {
    const [x, y, w, h] = cell(item);
    pen.setLineDash(dash);
    pen.strokeStyle = ctx.theme.dark ? "rgba(0,0,0,.6)" : "rgba(255,255,255,.85)";
    pen.lineWidth = line + 2;
    pen.strokeRect(x, y, w, h);
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    pen.strokeRect(x, y, w, h);
    pen.setLineDash([]);
  }

  return canvasPanel(root, ctx, {
    kind: "time_frequency",
    take(given) {
      data = given;
      geometry = given.geometry;
      bands = geometry.bands.length;
      windows = geometry.times.length / 2;
    },
    layout: () => ({ count: bands * windows, columns: windows }),
    itemAt,
    draw,
  });
}

/** 1, 2, 5, 10, 15, 30, 60 ... seconds, the smallest not below `least`. */
function niceStep(least) {
  const steps = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  return steps.find((s) => s >= least) ?? 7200;
}

function clock(seconds, end) {
  if (end < 120) return `${Math.round(seconds * 10) / 10} s`;
  const m = Math.floor(seconds / 60);
  return `${m}:${String(Math.round(seconds % 60)).padStart(2, "0")}`;
}
