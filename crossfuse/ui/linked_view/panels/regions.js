// Boxes on a photograph; the smallest box under the pointer is meant.

import { canvasPanel } from "../js/canvas_panel.js";
import { fitCanvas } from "../js/dom.js";
import { Photo, fitPhoto, outline, overlayAlpha, rankBadge } from "../js/photo.js";

export function create(root, ctx) {
  const photo = new Photo(() => ctx.repaint());
  let regions = null;
  let order = []; // large boxes first, so that small ones are painted over them
  let fit = null;

  function box(item) {
    const [x0, y0, x1, y1] = regions.boxes.subarray(4 * item, 4 * item + 4);
    return [x0 * fit.zoom, y0 * fit.zoom, (x1 - x0) * fit.zoom, (y1 - y0) * fit.zoom];
  }

  function area(item) {
    const [x0, y0, x1, y1] = regions.boxes.subarray(4 * item, 4 * item + 4);
    return Math.max(0, x1 - x0) * Math.max(0, y1 - y0);
  }

  function itemAt(x, y) {
    if (!fit) return null;
    for (let i = order.length - 1; i >= 0; i--) {
      const [left, top, width, height] = box(order[i]);
      if (x >= left && y >= top && x <= left + width && y <= top + height) return order[i];
    }
    return null;
  }

  function paintWeights(pen, picture) {
    const { scale, weights } = picture;
    const alpha = overlayAlpha(picture.settings.opacity * 0.9);
    // Where boxes lie over each other the strongest is on top, and replaces what it covers.
    const layer = document.createElement("canvas");
    layer.width = pen.canvas.width;
    layer.height = pen.canvas.height;
    const under = layer.getContext("2d");
    under.setTransform(pen.getTransform());
    const byStrength = [...order].filter((i) => weights[i] === weights[i])
      .sort((a, b) => scale.strength(weights[a]) - scale.strength(weights[b]));
    for (const item of byStrength) {
      const strength = scale.strength(weights[item]);
      const [x, y, w, h] = box(item);
      under.clearRect(x, y, w, h);
      // A wash over nearly the whole photograph would hide the rest: there the border tells.
      const share = area(item) / (regions.image_size[0] * regions.image_size[1]);
      under.fillStyle = scale.css(weights[item], alpha(strength) * (1 - 0.75 * Math.min(share, 1)));
      under.fillRect(x, y, w, h);
      under.strokeStyle = scale.css(weights[item], 0.35 + 0.65 * strength);
      under.lineWidth = 1 + strength;
      under.strokeRect(x, y, w, h);
    }
    pen.drawImage(layer, 0, 0, fit.width, fit.height);
  }

  function draw(picture, canvas) {
    const [imageWidth, imageHeight] = regions.image_size;
    fit = fitPhoto(imageWidth, imageHeight, ctx.width(), ctx.height());
    const pen = fitCanvas(canvas, fit.width, fit.height);
    photo.draw(pen, fit.width, fit.height, picture.weights ? Math.min(1, 0.4 + 0.6 * picture.settings.opacity) : 0, ctx.theme);
    if (picture.weights) paintWeights(pen, picture);
    else {
      pen.strokeStyle = "rgba(255,255,255,.75)";
      pen.lineWidth = 1;
      for (const item of order) pen.strokeRect(...box(item));
    }
    picture.top.forEach((item, rank) => {
      const [x, y, w, h] = box(item);
      outline(pen, x, y, w, h, { line: rank === 0 ? 1.8 : 1.1, colour: "rgba(255,255,255,.95)" });
      rankBadge(pen, Math.min(fit.width - 9, x + w), Math.max(9, y), rank + 1, ctx.theme.font);
    });
    if (picture.marked !== null) outline(pen, ...box(picture.marked), { dash: [4, 3] });
    if (picture.source !== null) {
      outline(pen, ...box(picture.source), { line: 2.5, colour: ctx.theme.primary });
    }
    const named = picture.marked ?? picture.source ?? picture.top[0];
    if (named !== undefined && named !== null) nameTag(pen, named);
  }

  function nameTag(pen, item) {
    const [x, y, , h] = box(item);
    const label = ctx.label(item);
    pen.font = `600 12px ${ctx.theme.font}`;
    const width = Math.min(pen.measureText(label).width + 12, fit.width);
    const left = Math.max(0, Math.min(x, fit.width - width));
    const top = y >= 20 ? y - 19 : Math.min(y + h + 1, fit.height - 19);
    pen.fillStyle = "rgba(10,10,16,.85)";
    pen.fillRect(left, top, width, 18);
    pen.fillStyle = "#fff";
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(label, left + 6, top + 9.5, width - 12);
  }

  return canvasPanel(root, ctx, {
    kind: "regions",
    take(data) {
      regions = data.geometry;
      order = Array.from({ length: data.count }, (_, i) => i).sort((a, b) => area(b) - area(a));
      photo.load(data.arrays.image);
    },
    layout: () => ({ count: regions ? regions.count : 0, columns: 1 }),
    itemAt,
    draw,
  });
}
