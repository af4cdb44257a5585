// Photographs in lines; the bar under each is the weight of the photograph as a whole, the wash
// over it are the weights of its cells.

import { canvasPanel } from "../js/canvas_panel.js";
import { el, fitCanvas } from "../js/dom.js";
import { formatWeight } from "../js/labels.js";
import { Photo, outline, overlayAlpha, rankBadge } from "../js/photo.js";

const GAP = 10;
const BAR = 22;

export function create(root, ctx) {
  const cells = document.createElement("canvas");
  const scroll = el("div", "photo-strip");
  root.append(scroll);
  let photos = [];
  let stack = null; // the part with one item a photograph
  let grids = []; // the parts with one item a cell
  let boxes = [];

  function columns() {
    const wanted = ctx.width() < 420 ? 100 : 128;
    return Math.max(2, Math.min(photos.length, Math.floor((ctx.width() + GAP) / (wanted + GAP))));
  }

  /** Where each photograph lies. */
  function arrange(sizes) {
    const across = columns();
    const width = (ctx.width() - GAP * (across - 1) - 12) / across;
    boxes = [];
    let y = 2;
    for (let start = 0; start < sizes.length; start += across) {
      const line = sizes.slice(start, start + across);
      const height = Math.max(...line.map(([w, h]) => Math.min(width * 1.2, (width * h) / w)));
      line.forEach(([w, h], i) => {
        const zoom = Math.min(width / w, height / h);
        boxes.push({ x: 2 + i * (width + GAP), y, w: w * zoom, h: h * zoom, line: height });
      });
      y += height + BAR + GAP;
    }
    return { width: ctx.width() - 4, height: y };
  }

  function itemAt(x, y) {
    for (let i = 0; i < boxes.length; i++) {
      const b = boxes[i];
      if (x < b.x || x > b.x + b.w || y < b.y || y > b.y + b.h + BAR - 4) continue;
      const grid = grids[i];
      if (!grid || y > b.y + b.h) return stack.offset + i;
      const column = Math.min(grid.columns - 1, Math.floor(((x - b.x) / b.w) * grid.columns));
      const row = Math.min(grid.rows - 1, Math.floor(((y - b.y) / b.h) * grid.rows));
      return grid.offset + row * grid.columns + column;
    }
    return null;
  }

  /** [x, y, w, h] of any item: a photograph with its bar, or one cell. */
  function boxOf(item) {
    const at = item - stack.offset;
    if (at >= 0 && at < photos.length) {
      const b = boxes[at];
      return [b.x, b.y, b.w, b.h + BAR - 6];
    }
    const i = grids.findIndex((g) => item >= g.offset && item < g.offset + g.count);
    if (i < 0) return null;
    const [b, g] = [boxes[i], grids[i]];
    const cell = item - g.offset;
    const [w, h] = [b.w / g.columns, b.h / g.rows];
    return [b.x + (cell % g.columns) * w, b.y + Math.floor(cell / g.columns) * h, w, h];
  }

  function wash(pen, picture, i) {
    const grid = grids[i];
    const b = boxes[i];
    if (!grid) return;
    cells.width = grid.columns;
    cells.height = grid.rows;
    const own = picture.weights.subarray(grid.offset, grid.offset + grid.count);
    const pixels = picture.scale.pixels(own, overlayAlpha(picture.settings.opacity));
    cells.getContext("2d").putImageData(new ImageData(pixels, grid.columns, grid.rows), 0, 0);
    pen.imageSmoothingEnabled = picture.settings.smooth;
    pen.drawImage(cells, b.x, b.y, b.w, b.h);
  }

  /** The weight of the photograph as a whole, and that of everything in it. */
  function bar(pen, picture, i) {
    const b = boxes[i];
    const { theme } = ctx;
    const top = b.y + b.h + 4;
    pen.fillStyle = theme.border;
    pen.fillRect(b.x, top, b.w, 4);
    let words = ctx.label(stack.offset + i);
    if (picture.weights) {
      const own = picture.weights[stack.offset + i];
      const grid = grids[i];
      let sum = own;
      if (grid) for (let k = 0; k < grid.count; k++) sum += picture.weights[grid.offset + k];
      pen.fillStyle = picture.scale.css(own);
      pen.fillRect(b.x, top, b.w * picture.scale.strength(own), 4);
      words = `${formatWeight(sum)}  ${words}`;
    }
    pen.fillStyle = theme.text;
    pen.font = `11px ${theme.font}`;
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.save();
    pen.beginPath();
    pen.rect(b.x, top, b.w, BAR);
    pen.clip();
    pen.fillText(words, b.x, top + 6);
    pen.restore();
  }

  function draw(picture, canvas) {
    if (!stack) return;
    const size = arrange(photos.map((p) => p.size));
    const pen = fitCanvas(canvas, size.width, size.height);
    pen.clearRect(0, 0, size.width, size.height);
    boxes.forEach((b, i) => {
      const { photo } = photos[i];
      pen.save();
      pen.globalAlpha = picture.weights ? 0.62 : 1;
      if (photo.bitmap) {
        if (picture.weights) pen.filter = "grayscale(0.7)";
        pen.drawImage(photo.bitmap, b.x, b.y, b.w, b.h);
      } else {
        pen.fillStyle = ctx.theme.secondary;
        pen.fillRect(b.x, b.y, b.w, b.h);
      }
      pen.restore();
      if (picture.weights) wash(pen, picture, i);
      bar(pen, picture, i);
    });
    picture.top.forEach((item, rank) => {
      const box = boxOf(item);
      if (!box) return;
      outline(pen, ...box, { line: rank === 0 ? 1.6 : 1, colour: "rgba(255,255,255,.92)" });
      if (picture.top.length > 1) rankBadge(pen, box[0] + box[2] - 7, box[1] + 8, rank + 1, ctx.theme.font);
    });
    for (const [item, look] of [
      [picture.marked, { dash: [3, 2] }],
      [picture.source, { line: 2.5, colour: ctx.theme.primary }],
    ]) {
      const box = item === null ? null : boxOf(item);
      if (box) outline(pen, ...box, look);
    }
  }

  const panel = canvasPanel(root, ctx, {
    kind: "photos",
    take(data) {
      const parts = data.geometry.parts.map((part) => part);
      stack = parts.find((p) => p.kind === "view_stack");
      grids = parts.filter((p) => p.kind === "image_grid");
      const { files, ends } = data.arrays;
      const { sizes } = data.options;
      if (photos.length !== sizes.length) {
        photos = sizes.map(() => ({ photo: new Photo(() => ctx.repaint()) }));
      }
      photos.forEach((entry, i) => {
        entry.size = sizes[i];
        entry.photo.load(files.slice(ends[i], ends[i + 1]));
      });
      scroll.style.maxHeight = `${ctx.height() + 40}px`;
    },
    layout: () => ({ count: photos.length, columns: columns() }),
    into: scroll,
    itemAt,
    draw,
  });

  return {
    ...panel,
    /** The part of the strip that is in sight: a nested drawing clips. */
    svg() {
      const { body } = panel.svg();
      const { clientWidth: w, clientHeight: h, scrollTop } = scroll;
      return {
        body: `<svg width="${w}" height="${h}"><g transform="translate(4 ${4 - scrollTop})">${body}</g></svg>`,
        element: scroll,
      };
    },
  };
}
