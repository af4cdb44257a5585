// A panel that is one canvas in a listbox: what photographs, grids, scalps and spectra have in common.

import { el } from "./dom.js";
import { canvasListbox, canvasPointer } from "./keys.js";
import { canvasImage } from "./svg.js";

/**
 * The whole panel from what is its own:
 * kind: its name, for a panel without a title; take(data): new data has come;
 * layout() -> {count, columns} and next(item, sign): see itemKeys; itemAt(x, y) -> item or null;
 * draw(picture, canvas): paint all of it; into: where the listbox goes, `root` unless told.
 */
export function canvasPanel(root, ctx, { kind, take, layout, next, itemAt, draw, into = root }) {
  const canvas = el("canvas");
  let last = null;
  const list = canvasListbox(into, ctx, { layout, next });
  list.element.append(canvas);
  canvasPointer(canvas, ctx, itemAt);
  return {
    update(data) {
      take(data);
      list.element.setAttribute("aria-label", data.title || ctx.t(`panel_${kind}`));
      last = null;
    },
    paint(picture) {
      last = picture;
      draw(picture, canvas);
      list.say(picture.source ?? picture.marked, picture.pinned);
    },
    resize() { if (last) draw(last, canvas); },
    svg: () => canvasImage(canvas, () => draw(last, canvas)),
    dispose() { list.dispose(); },
  };
}
