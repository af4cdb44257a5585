// Taking things away: the present picture (SVG, PNG), the present rows (CSV), the data (NPZ),
// the live view itself (HTML).

import { Menu } from "./controls.js";
import { el, xml } from "./dom.js";
import { distinct } from "./foot.js";
import { npy, zip } from "./npz.js";
import { livePage } from "./page.js";
import { rect, text } from "./svg.js";

const FORMATS = ["png", "svg", "csv", "npz", "html"];

export class SaveMenu {
  constructor(view) {
    this.view = view;
    this.menu = new Menu("save");
    this.element = this.menu.element;
    this.buttons = FORMATS.map((format) => {
      const button = el("button", "entry");
      button.type = "button";
      button.dataset.format = format;
      button.onclick = () => { this.menu.open(false); this.save(format); };
      this.menu.sheet.append(button);
      return button;
    });
  }

  update() {
    const { t } = this.view;
    this.menu.button.textContent = t("save");
    this.buttons.forEach((button, i) => { button.textContent = t(`save_${FORMATS[i]}`); });
  }

  async save(format) {
    const blob = await {
      svg: () => new Blob([drawing(this.view).svg], { type: "image/svg+xml" }),
      png: () => rasterise(drawing(this.view)),
      csv: () => new Blob(["\ufeff", table(this.view)], { type: "text/csv" }),
      html: async () => new Blob([await livePage(this.view)], { type: "text/html" }),
      npz: () => new Blob([archive(this.view)], { type: "application/octet-stream" }),
    }[format]();
    const link = el("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${this.view.meta.file}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
}

/** The picture on screen as one SVG: title, panels where they stand, sentences, colour bar. */
export function drawing(view) {
  const { theme, meta, state } = view;
  const origin = view.grid.getBoundingClientRect();
  const width = Math.ceil(origin.width);
  const margin = 20;
  const parts = [];
  let y = 0;
  const line = (content, options = {}) => {
    y += options.step ?? 20;
    parts.push(text(0, y, content, { fill: theme.text, ...options }));
  };
  if (meta.title) line(meta.title, { size: 17, weight: 600 });
  line(choices(view), { size: 12, step: meta.title ? 19 : 14 });
  y += 16;
  const at = (node) => {
    const box = node.getBoundingClientRect();
    return { x: box.left - origin.left, y: y + box.top - origin.top, bottom: y + box.bottom - origin.top };
  };
  for (const panel of view.panels) {
    if (panel.heading.getClientRects().length) {
      const head = at(panel.heading);
      const tag = at(panel.tag);
      parts.push(text(head.x, head.bottom - 4, panel.title, { size: 13, weight: 600, fill: theme.text }));
      parts.push(text(tag.x, head.bottom - 4, panel.tag.textContent, { size: 12, fill: theme.text }));
    }
    const { body, element } = panel.drawer.svg();
    const place = at(element);
    parts.push(`<g transform="translate(${place.x} ${place.y})">${body}</g>`);
  }
  y += origin.height + 6;
  for (const sentence of view.foot.lines()) {
    line(sentence.map((piece) => piece.text).join(""), { size: 13 });
  }
  y += 26;
  parts.push(legend(view, y));
  y += 46;
  const body = parts.join("\n");
  const [w, h] = [width + 2 * margin, Math.ceil(y) + 2 * margin];
  const svg = `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${h}" viewBox="0 0 ${w} ${h}" font-family="${xml(theme.font)}">
<title>${xml(meta.title || state.t("view"))}</title>
${rect(0, 0, w, h, { fill: theme.background })}
<g transform="translate(${margin} ${margin})">${body}</g>
</svg>`;
  return { svg, width: w, height: h };
}

/** Which map is shown, in words: "layer 3 · head mean". */
function choices(view) {
  const { state, t, bar } = view;
  const { settings: s } = state;
  const axes = state.axes();
  const said = [];
  if (axes.stages.length > 1) said.push(bar.name("stage", s.stage));
  if (axes.layers.length > 1) said.push(`${t("axis_layer")} ${bar.name("layer", s.layer)}`);
  if (s.direction !== "all") said.push(bar.name("direction", s.direction));
  if (axes.heads.length > 1) said.push(s.head < 0 ? t("head_mean_said") : axes.heads[s.head]);
  if (state.source) said.push(state.label(state.source.geometry, state.source.item));
  return said.join(" · ");
}

function legend(view, y) {
  const { theme, state, foot } = view;
  const width = 240;
  const stops = state.scale.gradient().map(
    (colour, i, all) => `<stop offset="${i / (all.length - 1)}" stop-color="${colour}"/>`).join("");
  const ticks = foot.legendTicks().map((tick) => {
    const x = tick.at * width;
    const anchor = tick.at < 0.08 ? "start" : tick.at > 0.92 ? "end" : "middle";
    const high = tick.kind.startsWith("uniform");
    return `<line x1="${x}" x2="${x}" y1="${high ? -3 : 10}" y2="13" stroke="${xml(theme.text)}"/>`
      + text(x, high ? -6 : 25, tick.text, { size: 11, anchor, fill: theme.text });
  }).join("");
  return `<g transform="translate(0 ${y + 6})"><defs><linearGradient id="ramp">${stops}</linearGradient></defs>`
    + rect(0, 0, width, 10, { fill: "url(#ramp)", stroke: theme.border })
    + ticks + text(width + 16, 10, foot.unit.textContent, { size: 12, fill: theme.text }) + "</g>";
}

async function rasterise({ svg, width, height }) {
  const image = new Image();
  image.src = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** The painted weights: one line for each item of each painted vector. */
export function table(view) {
  const { state } = view;
  const { source } = state;
  const lines = [["map", "head", "reading", "asked", "item", "label", "weight", "times_uniform"]];
  for (const link of source ? distinct(state.links) : []) {
    const name = link.reading === "row" ? link.map.key : link.map.query;
    const head = link.head < 0 ? "mean" : link.map.heads[link.head];
    const asked = state.label(source.geometry, source.item);
    link.weights.forEach((weight, item) => lines.push([
      link.map.id, head, link.reading, asked, item, state.label(name, item), weight,
      weight * link.map.columns,
    ]));
  }
  return lines.map((line) => line.map(quote).join(",")).join("\r\n");
}

function quote(value) {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  // A leading = + - @ would be run as a formula by spreadsheets.
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** All maps of the view as a trace file, as crossfuse.trace writes it. */
export function archive(view) {
  const { state, meta } = view;
  const members = [];
  const geometries = {};
  const add = (g, prefix) => {
    for (const [name, shape] of Object.entries(g.shapes)) {
      members.push([`${prefix}${name}.npy`, npy(g[name], shape)]);
    }
    if (!g.parts) return g.fields;
    return { ...g.fields, parts: g.parts.map((part, i) => add(part, `${prefix}${i}.`)) };
  };
  for (const [name, g] of Object.entries(state.geometries)) {
    geometries[name] = add(g, `geometry/${name}/`);
  }
  const maps = state.maps.map((map, i) => {
    const type = map.table ? "<f2" : undefined;
    members.push([`map/${i}/weights.npy`, npy(map.values, [map.heads.length, map.rows, map.columns], type)]);
    if (map.items) members.push([`map/${i}/rows.npy`, npy(Int32Array.from(map.items), [map.rows])]);
    const { stage, layer, direction, query, key, kind, heads } = map;
    return { stage, layer, direction, query, key, kind, heads };
  });
  const document = { schema: meta.schema, model: meta.model, meta: meta.trace, geometries, maps };
  members.push(["trace.json.npy", npy(JSON.stringify(document), [])]);
  return zip(members);
}
