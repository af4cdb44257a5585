// Pieces of SVG for the export.

import { xml } from "./dom.js";

/** A canvas as an SVG body at its size on screen; `redraw` draws it once more, in print quality. */
export function canvasImage(canvas, redraw) {
  canvas.ratio = 3;
  redraw();
  const body = `<image width="${canvas.clientWidth}" height="${canvas.clientHeight}" href="${canvas.toDataURL("image/png")}"/>`;
  canvas.ratio = undefined;
  redraw();
  return { body, element: canvas };
}

export function text(x, y, content, { size = 12, weight = 400, anchor = "start", fill = "#000", rotate = 0 } = {}) {
  const turn = rotate ? ` transform="rotate(${rotate} ${x} ${y})"` : "";
  return `<text x="${x}" y="${y}" font-size="${size}" font-weight="${weight}" text-anchor="${anchor}" fill="${xml(fill)}"${turn}>${xml(content)}</text>`;
}

export function rect(x, y, width, height, { fill = "none", stroke = "none", line = 1, radius = 0, dash = "" } = {}) {
  const dashes = dash ? ` stroke-dasharray="${dash}"` : "";
  return `<rect x="${x}" y="${y}" width="${width}" height="${height}" rx="${radius}" fill="${xml(fill)}" stroke="${xml(stroke)}" stroke-width="${line}"${dashes}/>`;
}
