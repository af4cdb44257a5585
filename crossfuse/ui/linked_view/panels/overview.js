// Small multiples: layers down, heads across. Choosing one chooses layer and head.

import { Scale } from "../js/colours.js";
import { el, fitCanvas } from "../js/dom.js";
import { canvasListbox } from "../js/keys.js";
import { MEAN, pool } from "../js/maps.js";
import { canvasImage } from "../js/svg.js";

export const draws = "map";

const GAP = 4;
const MARGIN = { left: 26, top: 18 };
const DETAIL = 36; // pixels at most along a side of a small map

export function create(root, ctx) {
  const canvas = el("canvas");
  const stamp = document.createElement("canvas");
  const small = new WeakMap(); // map -> pooled matrix of each head
  let state = null;
  let picture = null;
  let drawn = "";
  let table = null; // {layers, heads, size: {w, h}}

  const list = canvasListbox(root, { ...ctx, label, hover: move, pin: choose, unpin: ctx.unpin }, {
    layout: () => ({
      count: table ? table.layers.length * table.heads.length : 0,
      columns: table ? table.heads.length : 1,
    }),
  });
  list.element.append(canvas);
  canvas.addEventListener("click", (event) => {
    const index = indexAt(event);
    if (index !== null) choose(index);
  });
  canvas.addEventListener("pointermove", (event) => {
    const index = indexAt(event);
    canvas.style.cursor = index === null ? "default" : "pointer";
    canvas.title = index === null ? "" : label(index);
  });

  function place(index) {
    return {
      layer: table.layers[Math.floor(index / table.heads.length)],
      head: table.heads[index % table.heads.length],
    };
  }

  function label(index) {
    const { layer, head } = place(index);
    return ctx.t("item_overview", { layer: ctx.nameOf("layer", layer), head: headName(head) });
  }

  function headName(head) {
    return head === MEAN ? ctx.t("head_mean") : state.axes().heads[head];
  }

  function choose(index) { ctx.choose(place(index)); }

  function move(index) { if (index !== null) choose(index); }

  function indexAt(event) {
    if (!table) return null;
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - MARGIN.left) / (table.w + GAP));
    const row = Math.floor((event.clientY - box.top - MARGIN.top) / (table.h + GAP));
    const inside = column >= 0 && row >= 0 && column < table.heads.length && row < table.layers.length;
    return inside ? row * table.heads.length + column : null;
  }

  /** The map of that layer which stands where the present one stands. */
  function mapAt(layer) {
    const { stage, direction, query, key } = picture.map;
    return state.maps.find((m) => m.layer === layer && m.stage === stage
      && m.direction === direction && m.query === query && m.key === key);
  }

  /** What a small picture shows: {values, rows, columns}. */
  function content(map, head) {
    const grid = state.geometries[map.key];
    const source = state.source;
    if (grid.kind === "image_grid" && source?.geometry === map.query && source.role !== "key") {
      const values = map.row(head, source.item);
      if (values) return { values, rows: grid.rows, columns: grid.columns };
    }
    if (!small.has(map)) small.set(map, new Map());
    const known = small.get(map);
    if (!known.has(head)) known.set(head, pool(map.matrix(head), map.rows, map.columns, DETAIL));
    return known.get(head);
  }

  /** What the drawing depends on; most hovers change none of it. */
  function signature() {
    const { source, settings } = state;
    const byRow = state.geometries[picture.map.key].kind === "image_grid";
    return [picture.map.id, settings.layer, settings.head, ctx.width(), ctx.theme.dark,
      byRow ? `${source?.geometry} ${source?.item} ${source?.role}` : ""].join(" ");
  }

  function layout() {
    const axes = state.axes();
    const heads = axes.heads.length > 1 ? [MEAN, ...axes.heads.keys()] : [0];
    const shape = content(picture.map, heads[0]);
    const w = Math.max(14, Math.min(72, (ctx.width() - MARGIN.left) / heads.length - GAP));
    const tall = Math.min(1.6, Math.max(0.4, shape.rows / shape.columns));
    const h = Math.max(12, Math.min(w * tall, (ctx.height() - MARGIN.top) / axes.layers.length - GAP));
    table = { layers: axes.layers, heads, w, h };
    return fitCanvas(canvas, Math.ceil(MARGIN.left + heads.length * (w + GAP)),
      Math.ceil(MARGIN.top + axes.layers.length * (h + GAP)));
  }

  function draw() {
    const { theme } = ctx;
    const pen = layout();
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.font = `11px ${theme.font}`;
    pen.fillStyle = theme.text;
    pen.textBaseline = "middle";
    pen.imageSmoothingEnabled = false;
    const { head: chosen, layer: at } = state.settings;
    table.heads.forEach((head, column) => {
      pen.textAlign = "center";
      pen.globalAlpha = head === chosen ? 1 : 0.65;
      const text = head === MEAN ? ctx.t("head_mean") : String(head + 1);
      pen.fillText(text, MARGIN.left + column * (table.w + GAP) + table.w / 2, 8, table.w + GAP);
    });
    table.layers.forEach((layer, row) => {
      const y = MARGIN.top + row * (table.h + GAP);
      pen.textAlign = "right";
      pen.globalAlpha = layer === at ? 1 : 0.65;
      pen.fillText(ctx.nameOf("layer", layer), MARGIN.left - 8, y + table.h / 2, MARGIN.left - 8);
      pen.globalAlpha = 1;
      const map = mapAt(layer);
      if (!map) return;
      table.heads.forEach((head, column) => {
        const x = MARGIN.left + column * (table.w + GAP);
        stampOn(pen, content(map, Math.min(head, map.heads.length - 1)), x, y);
        const here = layer === at && head === chosen;
        pen.strokeStyle = here ? theme.primary : theme.border;
        pen.lineWidth = here ? 2.5 : 1;
        pen.strokeRect(x, y, table.w, table.h);
      });
    });
  }

  function stampOn(pen, { values, rows, columns }, x, y) {
    let hi = 0;
    let signed = false;
    for (const v of values) {
      if (Number.isFinite(v)) hi = Math.max(hi, Math.abs(v));
      signed ||= v < 0;
    }
    const scale = new Scale({ lo: signed ? -hi : 0, hi, signed, dark: ctx.theme.dark });
    stamp.width = columns;
    stamp.height = rows;
    stamp.getContext("2d").putImageData(new ImageData(scale.pixels(values), columns, rows), 0, 0);
    pen.drawImage(stamp, x, y, table.w, table.h);
  }

  return {
    update(data) {
      state = data.state;
      drawn = "";
      list.element.setAttribute("aria-label", data.title || ctx.t("panel_overview"));
    },
    paint(next) {
      picture = next;
      canvas.hidden = !next.map;
      if (!next.map) return;
      const shown = signature();
      if (shown !== drawn) draw();
      drawn = shown;
      const { layer, head } = state.settings;
      const at = table.layers.indexOf(layer) * table.heads.length + table.heads.indexOf(head);
      list.say(at >= 0 ? at : null, true);
    },
    resize() { if (picture?.map) draw(); },
    svg: () => canvasImage(canvas, () => { if (picture?.map) draw(); }),
    dispose() { list.dispose(); },
  };
}
