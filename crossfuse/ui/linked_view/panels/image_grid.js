// A photograph with the cells of a feature map laid over it.

import { canvasPanel } from "../js/canvas_panel.js";
import { fitCanvas } from "../js/dom.js";
import { Photo, fitPhoto, outline, overlayAlpha, rankBadge } from "../js/photo.js";

export function create(root, ctx) {
  const photo = new Photo(() => ctx.repaint());
  const cells = document.createElement("canvas");
  let grid = null;
  let lines = false;
  let fit = null;

  /** Where the grid lies, in pixels of the photo: cells may reach beyond it or leave a margin. */
  function frame() {
    const [w, h] = grid.cell;
    return { x: grid.centres[0] - w / 2, y: grid.centres[1] - h / 2, w, h };
  }

  function itemAt(x, y) {
    if (!fit) return null;
    const f = frame();
    const column = Math.floor((x / fit.zoom - f.x) / f.w);
    const row = Math.floor((y / fit.zoom - f.y) / f.h);
    const inside = column >= 0 && row >= 0 && column < grid.columns && row < grid.rows;
    return inside ? row * grid.columns + column : null;
  }

  function box(item) {
    const f = frame();
    const column = item % grid.columns;
    const row = Math.floor(item / grid.columns);
    return [(f.x + column * f.w) * fit.zoom, (f.y + row * f.h) * fit.zoom, f.w * fit.zoom, f.h * fit.zoom];
  }

  function paintWeights(pen, picture) {
    const { smooth, opacity } = picture.settings;
    cells.width = grid.columns;
    cells.height = grid.rows;
    const alpha = photo.bitmap ? overlayAlpha(opacity) : () => 1;
    const pixels = picture.scale.pixels(picture.weights, alpha);
    cells.getContext("2d").putImageData(new ImageData(pixels, grid.columns, grid.rows), 0, 0);
    const f = frame();
    pen.imageSmoothingEnabled = smooth;
    pen.drawImage(cells, f.x * fit.zoom, f.y * fit.zoom,
      f.w * grid.columns * fit.zoom, f.h * grid.rows * fit.zoom);
  }

  /** The edges of all cells: dark under light, so that they show on any photo. */
  function paintLines(pen) {
    const f = frame();
    const [left, top, width, height] = [f.x, f.y, f.w * grid.columns, f.h * grid.rows].map((v) => v * fit.zoom);
    for (const [colour, wide] of [["rgba(10,10,16,.28)", 2], ["rgba(255,255,255,.55)", 0.75]]) {
      pen.beginPath();
      for (let i = 0; i <= grid.columns; i += 1) {
        pen.moveTo(left + i * f.w * fit.zoom, top);
        pen.lineTo(left + i * f.w * fit.zoom, top + height);
      }
      for (let i = 0; i <= grid.rows; i += 1) {
        pen.moveTo(left, top + i * f.h * fit.zoom);
        pen.lineTo(left + width, top + i * f.h * fit.zoom);
      }
      pen.strokeStyle = colour;
      pen.lineWidth = wide;
      pen.stroke();
    }
  }

  function draw(picture, canvas) {
    const [imageWidth, imageHeight] = grid.image_size;
    fit = fitPhoto(imageWidth, imageHeight, ctx.width(), ctx.height());
    const pen = fitCanvas(canvas, fit.width, fit.height);
    photo.draw(pen, fit.width, fit.height, picture.weights ? Math.min(1, 0.4 + 0.6 * picture.settings.opacity) : 0, ctx.theme);
    if (picture.weights) paintWeights(pen, picture);
    if (lines) paintLines(pen);
    picture.top.forEach((item, rank) => {
      const [x, y, w, h] = box(item);
      outline(pen, x, y, w, h, { line: rank === 0 ? 1.8 : 1, colour: "rgba(255,255,255,.92)" });
      // A badge on a small cell would hide the very colour that it points out.
      if (picture.top.length > 1 && Math.min(w, h) >= 34) {
        rankBadge(pen, x + w, y, rank + 1, ctx.theme.font);
      }
    });
    if (picture.marked !== null) outline(pen, ...box(picture.marked), { dash: [3, 2] });
    if (picture.source !== null) {
      outline(pen, ...box(picture.source), { line: 2.5, colour: ctx.theme.primary });
    }
  }

  return canvasPanel(root, ctx, {
    kind: "image_grid",
    take(data) {
      grid = data.geometry;
      lines = Boolean(data.options.lines);
      photo.load(data.arrays.image);
    },
    layout: () => ({ count: grid ? grid.count : 0, columns: grid ? grid.columns : 1 }),
    itemAt,
    draw,
  });
}
