// EEG sensors on a head seen from above (nose up), with an interpolated map and contour lines.

import { canvasPanel } from "../js/canvas_panel.js";
import { Scale } from "../js/colours.js";
import { el, fitCanvas } from "../js/dom.js";

const LINES = 5; // contour lines

export function create(root, ctx) {
  const sheet = document.createElement("canvas");
  const lonely = el("div", "lonely");
  let data = null;
  let count = 0;
  let placed = []; // items with a place, in the order of the matrix
  let frame = null;

  function place(item) {
    const { flat } = data.arrays;
    return flat ? [flat[2 * item], flat[2 * item + 1]] : [NaN, NaN];
  }

  function spot(item) {
    const [x, y] = place(item);
    return [frame.cx + x * frame.r, frame.cy - y * frame.r];
  }

  function itemAt(x, y) {
    if (!frame) return null;
    let best = null;
    let near = Math.max(16, frame.r * 0.16) ** 2;
    for (const item of placed) {
      const [px, py] = spot(item);
      const d = (px - x) ** 2 + (py - y) ** 2;
      if (d < near) { near = d; best = item; }
    }
    return best;
  }

  /** Up and down go to the nearest sensor in that direction. */
  function neighbour(from, sign) {
    const [x0, y0] = place(from);
    let best = from;
    let least = Infinity;
    for (const item of placed) {
      const [x, y] = place(item);
      const along = sign * (y0 - y);
      if (item === from || along < 0.08) continue;
      const cost = along + 2.5 * Math.abs(x - x0);
      if (cost < least) { least = cost; best = item; }
    }
    return best;
  }

  function surface(weights) {
    const { matrix } = data.arrays;
    const n = placed.length;
    const { grid } = data.options;
    if (!matrix || matrix.length !== grid * grid * n) return null;
    const out = new Float32Array(grid * grid);
    for (let p = 0; p < out.length; p++) {
      let sum = 0;
      for (let k = 0; k < n; k++) sum += matrix[p * n + k] * weights[placed[k]];
      out[p] = sum;
    }
    return out;
  }

  function paintMap(pen, weights, scale) {
    const values = surface(weights);
    if (!values) return;
    const { grid, reach } = data.options;
    sheet.width = grid;
    sheet.height = grid;
    sheet.getContext("2d").putImageData(new ImageData(scale.pixels(values), grid, grid), 0, 0);
    const side = 2 * reach * frame.r;
    pen.save();
    pen.beginPath();
    pen.arc(frame.cx, frame.cy, frame.r * 1.06, 0, 2 * Math.PI);
    pen.clip();
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(sheet, frame.cx - side / 2, frame.cy - side / 2, side, side);
    pen.strokeStyle = ctx.theme.text;
    pen.lineWidth = 0.7;
    pen.globalAlpha = 0.4;
    pen.beginPath();
    for (let i = 1; i <= LINES; i++) {
      const level = scale.lo + ((scale.hi - scale.lo) * i) / (LINES + 1);
      contour(pen, values, grid, level, side);
    }
    pen.stroke();
    pen.restore();
  }

  /** One level of a square grid by marching squares, straight pieces between edge crossings. */
  function contour(pen, values, grid, level, side) {
    const at = (i) => ((i + 0.5) / grid) * side;
    const x0 = frame.cx - side / 2;
    const y0 = frame.cy - side / 2;
    for (let r = 0; r + 1 < grid; r++) {
      for (let c = 0; c + 1 < grid; c++) {
        const corners = [values[r * grid + c], values[r * grid + c + 1],
          values[(r + 1) * grid + c + 1], values[(r + 1) * grid + c]];
        const spots = [[c, r], [c + 1, r], [c + 1, r + 1], [c, r + 1]];
        const cut = [];
        for (let e = 0; e < 4; e++) {
          const a = corners[e];
          const b = corners[(e + 1) % 4];
          if ((a < level) === (b < level)) continue;
          const share = (level - a) / (b - a);
          const [ax, ay] = spots[e];
          const [bx, by] = spots[(e + 1) % 4];
          cut.push([x0 + at(ax + share * (bx - ax)), y0 + at(ay + share * (by - ay))]);
        }
        for (let k = 0; k + 1 < cut.length; k += 2) {
          pen.moveTo(...cut[k]);
          pen.lineTo(...cut[k + 1]);
        }
      }
    }
  }

  function paintHead(pen) {
    const { cx, cy, r } = frame;
    pen.strokeStyle = ctx.theme.text;
    pen.globalAlpha = 0.65;
    pen.lineWidth = 1.4;
    pen.beginPath();
    pen.arc(cx, cy, r * 1.06, 0, 2 * Math.PI);
    pen.moveTo(cx - r * 0.13, cy - r * 1.05);
    pen.lineTo(cx, cy - r * 1.2);
    pen.lineTo(cx + r * 0.13, cy - r * 1.05);
    for (const side of [-1, 1]) {
      pen.moveTo(cx + side * r * 1.05, cy - r * 0.17);
      pen.quadraticCurveTo(cx + side * r * 1.17, cy - r * 0.16, cx + side * r * 1.13, cy);
      pen.quadraticCurveTo(cx + side * r * 1.15, cy + r * 0.2, cx + side * r * 1.04, cy + r * 0.17);
    }
    pen.stroke();
    pen.globalAlpha = 1;
  }

  function paintSensors(pen, picture, weights, scale) {
    const { theme } = ctx;
    const names = data.geometry.names;
    const label = placed.length <= 40 && frame.r > 70;
    pen.font = `${frame.r > 110 ? 11 : 10}px ${theme.font}`;
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    for (const item of placed) {
      const [x, y] = spot(item);
      const ink = weights ? scale.ink(weights[item]) : theme.text;
      pen.fillStyle = ink;
      pen.beginPath();
      pen.arc(x, y, label ? 2 : 2.4, 0, 2 * Math.PI);
      pen.fill();
      if (label) pen.fillText(names[item], x, y - 3);
    }
    for (const item of picture.top) ring(pen, item, theme.text, 1, [], 7);
    if (picture.marked !== null) ring(pen, picture.marked, theme.text, 1.4, [3, 2], 8);
    if (picture.source !== null) ring(pen, picture.source, theme.primary, 2.6, [], 8);
  }

  function ring(pen, item, colour, line, dash, radius) {
    const [x, y] = spot(item);
    if (x !== x) return;
    for (const [style, width] of [[ctx.theme.dark ? "rgba(0,0,0,.6)" : "rgba(255,255,255,.9)", line + 2], [colour, line]]) {
      pen.setLineDash(dash);
      pen.strokeStyle = style;
      pen.lineWidth = width;
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  function ownScale(values) {
    let low = 0;
    let high = 0;
    for (const v of values) if (v === v) { low = Math.min(low, v); high = Math.max(high, v); }
    const top = Math.max(high, -low);
    return new Scale({ lo: low < 0 ? -top : 0, hi: top, signed: low < 0, dark: ctx.theme.dark });
  }

  function draw(picture, canvas) {
    const width = ctx.width();
    const height = Math.min(ctx.height(), width * 1.02);
    frame = { cx: width / 2, cy: height / 2 + 6, r: Math.min(width, height) / 2.5 };
    const pen = fitCanvas(canvas, width, height);
    pen.clearRect(0, 0, width, height);
    let { weights, scale } = picture;
    if (!weights && data.arrays.base) {
      weights = data.arrays.base;
      scale = ownScale(weights);
      if (data.options.base_label) {
        pen.font = `11px ${ctx.theme.font}`;
        pen.fillStyle = ctx.theme.text;
        pen.globalAlpha = 0.7;
        pen.textAlign = "center";
        pen.textBaseline = "bottom";
        pen.fillText(data.options.base_label, width / 2, height - 1);
        pen.globalAlpha = 1;
      }
    }
    if (weights && placed.length) paintMap(pen, weights, scale);
    if (placed.length) paintHead(pen);
    paintSensors(pen, picture, weights, scale);
  }

  function listLonely() {
    const without = [];
    for (let item = 0; item < count; item++) if (!placed.includes(item)) without.push(item);
    lonely.replaceChildren();
    lonely.hidden = !without.length;
    if (!without.length) return;
    lonely.append(el("span", "", ctx.t("scalp_without_place")));
    for (const item of without) {
      const chip = el("button", "chip", ctx.label(item));
      chip.onclick = () => ctx.pin(item);
      chip.onpointerenter = () => ctx.hover(item);
      chip.onpointerleave = () => ctx.hover(null);
      lonely.append(chip);
    }
  }

  const panel = canvasPanel(root, ctx, {
    kind: "scalp",
    take(given) {
      data = given;
      count = given.count;
      placed = [];
      for (let item = 0; item < count; item++) if (place(item)[0] === place(item)[0]) placed.push(item);
      listLonely();
    },
    layout: () => ({ count, columns: 1 }),
    next: neighbour,
    itemAt,
    draw,
  });
  root.append(lonely);
  return panel;
}
