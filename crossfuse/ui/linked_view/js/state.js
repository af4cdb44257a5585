// What a view holds and computes: maps, geometries, choices, and the picture of each panel.
// Nothing here touches the page.

import { counterpart, withArrays } from "./geometries.js";
import { AttentionMap, MEAN, entropyOf, strongest } from "./maps.js";
import { Scale } from "./colours.js";
import { labelOf } from "./labels.js";

export const DEFAULTS = {
  stage: null, layer: null, direction: "all", head: MEAN,
  scale: "row", read: "row", conditional: false, smooth: false, opacity: 0.8, top: 3,
};

// Where weights are shares of a row the scale ends no lower than this many times uniform: else a
// row that looks everywhere alike would be painted as if it looked hard everywhere.
const FLOOR = 2;

/** Whether the weights are shares of a row that sums to 1. */
export function isShare(map) {
  return map.kind === "attention" || map.kind === "grouped";
}

export class State {
  constructor() {
    this.settings = { ...DEFAULTS };
    this.maps = [];
    this.geometries = {};
    this.pinned = null; // {geometry, item, role?, partner?}
    this.hovered = null;
    this.resting = null; // the last item shown, so that a view is never blank
  }

  load(meta, arrays, t) {
    this.meta = meta;
    this.panels = meta.panels;
    this.t = t;
    this.geometries = {};
    for (const [name, g] of Object.entries(meta.geometries)) {
      this.geometries[name] = withArrays(g, arrays, `g/${name}/`);
    }
    this.maps = meta.maps.map((m) => new AttentionMap(
      { ...m, items: m.items ? [...arrays[m.items]] : null },
      arrays[m.array], this.geometries[m.query].count));
    this.vectors = new Map();
    this.settle();
    this.pinned ??= meta.pinned ?? null;
    for (const name of ["pinned", "hovered", "resting"]) {
      if (!this.exists(this[name])) this[name] = null;
    }
    this.resting = this.cast(this.resting ?? meta.resting ?? this.firstItem());
  }

  /** A source with the role it plays, where panels of its geometry have one role each. */
  cast(source) {
    if (!source || source.role) return source;
    const split = this.panels.some((p) => p.role !== "any"
      && p.geometries.includes(source.geometry));
    return split ? { ...source, role: this.settings.read === "row" ? "query" : "key" } : source;
  }

  exists(source) {
    const g = source && this.geometries[source.geometry];
    return Boolean(g) && source.item >= 0 && source.item < g.count;
  }

  firstItem() {
    const map = this.active()[0] ?? this.maps[0];
    if (!map) return null;
    const g = this.geometries[map.query];
    let item = 0;
    if (map.items) item = map.items[0];
    else if (g.kind === "image_grid") {
      item = Math.floor(g.rows / 2) * g.columns + Math.floor(g.columns / 2);
    }
    return { geometry: map.query, item };
  }

  // --- choices -----------------------------------------------------------------------------

  /** The values that can be chosen on each axis, given the choices before it. */
  axes() {
    const s = this.settings;
    const unique = (maps, axis) => [...new Set(maps.map((m) => m[axis]))];
    const stages = unique(this.maps, "stage");
    const inStage = this.maps.filter((m) => m.stage === s.stage);
    const layers = unique(inStage, "layer").sort((a, b) => a - b);
    const inLayer = inStage.filter((m) => m.layer === s.layer);
    const active = this.active();
    const most = active.reduce((a, m) => (m.heads.length > a.length ? m.heads : a), []);
    return { stages, layers, directions: unique(inLayer, "direction"), heads: most };
  }

  /** Move choices that the present maps do not offer to the nearest that they do. */
  settle() {
    const s = this.settings;
    let axes = this.axes();
    if (!axes.stages.includes(s.stage)) s.stage = axes.stages[0] ?? null;
    axes = this.axes();
    if (!axes.layers.includes(s.layer)) {
      s.layer = axes.layers.reduce(
        (a, l) => (a === null || Math.abs(l - s.layer) < Math.abs(a - s.layer) ? l : a), null);
    }
    axes = this.axes();
    if (s.direction !== "all" && !axes.directions.includes(s.direction)) s.direction = "all";
    if (s.head >= this.axes().heads.length) s.head = MEAN;
    this.vectors = new Map();
  }

  choose(changes) {
    Object.assign(this.settings, changes);
    this.settle();
  }

  /** The chosen maps; `fixed` overrides choices for one panel. */
  active(fixed = {}) {
    const wanted = { ...this.settings, ...fixed };
    return this.maps.filter((m) => m.stage === wanted.stage && m.layer === wanted.layer
      && (wanted.direction === "all" || m.direction === wanted.direction));
  }

  headOf(map, fixed = {}) {
    const head = fixed.head ?? this.settings.head;
    return head < map.heads.length ? head : MEAN;
  }

  hasSelfMap() {
    return this.active().some((m) => m.query === m.key);
  }

  /** Show an item as if it had been pointed at; a pin elsewhere gives way to it. */
  show(source) {
    if (!this.exists(source)) return;
    const { pinned } = this;
    const same = pinned && pinned.geometry === source.geometry && pinned.item === source.item;
    if (same) return;
    this.pinned = this.hovered = null;
    this.resting = this.cast(source);
  }

  /** A panel went over to another geometry (a grid of another scale): its items go along. */
  move(from, to) {
    for (const name of ["pinned", "hovered", "resting"]) {
      const source = this[name];
      if (source?.geometry !== from) continue;
      const item = counterpart(this.geometries[from], this.geometries[to], source.item);
      this[name] = { ...source, geometry: to, item, partner: undefined };
    }
  }

  // --- what is shown -----------------------------------------------------------------------

  get source() { return this.pinned ?? this.hovered ?? this.resting; }

  /** The item that is only read, not asked: under the pointer while another is pinned. */
  get read() {
    const { pinned, hovered } = this;
    if (!pinned || !hovered) return null;
    const itself = pinned.geometry === hovered.geometry && pinned.item === hovered.item
      && pinned.role === hovered.role && !hovered.partner;
    return itself ? null : hovered;
  }

  hover(source) {
    if (source && !this.pinned) this.resting = source;
    this.hovered = source;
  }

  pin(source) {
    if (this.pinned) this.resting = this.pinned;
    const same = source && this.pinned && source.geometry === this.pinned.geometry
      && source.item === this.pinned.item
      && source.partner?.item === this.pinned.partner?.item;
    this.pinned = same ? null : source;
    return this.pinned;
  }

  /** The map and the weights that paint a panel, for the present source. */
  link(panel, source = this.source) {
    if (!source) return null;
    const rows = panel.role !== "query" && source.role !== "key";
    const columns = panel.role !== "key" && source.role !== "query";
    let found = [];
    for (const map of this.active(panel.fixed)) {
      if (rows && map.query === source.geometry && map.key === panel.geometry) {
        found.push({ map, reading: "row" });
      }
      if (columns && map.key === source.geometry && map.query === panel.geometry) {
        found.push({ map, reading: "column" });
      }
    }
    const preferred = found.filter((f) => f.reading === this.settings.read);
    if (preferred.length) found = preferred;
    if (!found.length) return null;
    const head = this.headOf(found[0].map, panel.fixed);
    return { ...found[0], head, ...this.vector(found[0].map, found[0].reading, head, source.item) };
  }

  vector(map, reading, head, item) {
    const key = `${map.id} ${reading} ${head} ${item}`;
    if (!this.vectors.has(key)) {
      if (this.vectors.size > 64) this.vectors.clear();
      const weights = reading === "row" ? map.row(head, item) : map.column(head, item);
      let max = 0;
      let sum = 0;
      for (const w of weights ?? []) {
        if (!Number.isFinite(w)) continue;
        sum += w;
        if (Math.abs(w) > max) max = Math.abs(w);
      }
      this.vectors.set(key, { weights, max, sum });
    }
    return this.vectors.get(key);
  }

  /** The picture of every geometry panel and of every map panel, on one shared scale. */
  compose(panels, dark) {
    const links = panels.map((panel) => (panel.draws === "map" ? null : this.link(panel)));
    // A panel may keep a colour scale of its own, where its numbers are of another kind; or only
    // while another panel shows another map ("several").
    const several = new Set(links.filter((link) => link?.weights).map((link) => link.map)).size > 1;
    const apart = panels.map((panel, i) => {
      const own = panel.options?.own_scale;
      return Boolean(own && (own !== "several" || several) && links[i]?.weights);
    });
    const shared = links.filter((link, i) => link?.weights && !apart[i]);
    const maps = panels.filter((p) => p.draws === "map").map((p) => this.mapOf(p)).filter(Boolean);
    const scale = this.scaleOf(shared, maps, dark, panels, links.map((l, i) => (apart[i] ? null : l)));
    this.scale = scale;
    this.links = links.filter((link, i) => link?.weights
      && (!apart[i] || panels[i].options.own_scale === "several"));
    return panels.map((panel, i) => {
      if (panel.draws === "map") return this.mapPicture(panel, scale);
      const own = apart[i] ? this.scaleOf([links[i]], [], dark, [panel], [links[i]]) : scale;
      return this.picture(panel, links[i], own);
    });
  }

  scaleOf(links, maps, dark, panels, slots) {
    let hi = 0;
    let signed = false;
    const uniform = new Set();
    const conditional = this.settings.conditional && panels.some((p) => p.partial);
    for (const { map, head, max } of links) {
      signed ||= map.signed;
      if (isShare(map)) uniform.add(1 / map.columns);
      if (!conditional) hi = Math.max(hi, this.settings.scale === "row" ? max : this.top(map, head));
    }
    if (conditional) {
      panels.forEach((panel, i) => {
        if (slots[i]?.weights) hi = Math.max(hi, this.part(panel, slots[i]).max);
      });
    }
    if (!links.length) {
      for (const [map, head] of maps) {
        signed ||= map.signed;
        hi = Math.max(hi, this.top(map, head));
        if (isShare(map)) uniform.add(1 / map.columns);
      }
    }
    const floor = conditional ? 0 : FLOOR * Math.max(0, ...uniform);
    const scale = new Scale({
      lo: signed ? -hi : 0, hi: Math.max(hi, floor), signed, dark,
    });
    scale.floored = hi < floor;
    scale.clipped = this.settings.scale === "clip" && !conditional && !scale.floored;
    scale.uniform = conditional ? [] : [...uniform];
    scale.kind = links[0]?.map.kind ?? maps[0]?.[0].kind ?? null;
    scale.mode = conditional ? "conditional" : this.settings.scale;
    return scale;
  }

  /** The end of the colour scale of a whole map. */
  top(map, head) {
    const range = map.range(head);
    return this.settings.scale === "clip" ? range.clip : range.max;
  }

  /** The slice of a vector that a panel shows, and its share of the whole. */
  part(panel, link) {
    let weights = link.weights.subarray(panel.offset, panel.offset + panel.count);
    let total = 0;
    let max = 0;
    for (const w of weights) if (Number.isFinite(w)) { total += w; max = Math.max(max, Math.abs(w)); }
    const alone = this.settings.conditional && panel.partial && isShare(link.map);
    if (alone && link.reading === "row" && total > 0) {
      weights = weights.map((w) => w / total);
      max /= total;
    }
    return { weights, total, max };
  }

  local(panel, source) {
    if (!source || source.geometry !== panel.geometry) return null;
    const item = source.item - panel.offset;
    return item >= 0 && item < panel.count ? item : null;
  }

  picture(panel, link, scale) {
    const source = this.source;
    const here = (s) => this.local(panel, s);
    const plays = panel.role === "any" || source?.role === panel.role;
    const picture = {
      weights: null, scale, top: [], total: null, reading: null, missing: false,
      source: plays ? here(source) : null,
      pinned: Boolean(this.pinned),
      marked: here(this.read) ?? here(this.read?.partner) ?? here(source?.partner),
      settings: this.settings,
    };
    if (!link) return picture;
    if (!link.weights) return { ...picture, missing: true };
    const { weights, total } = this.part(panel, link);
    return {
      ...picture, weights, total, map: link.map, reading: link.reading,
      top: strongest(weights, this.settings.top),
    };
  }

  // --- the map itself ----------------------------------------------------------------------

  mapOf(panel) {
    const active = this.active(panel.fixed);
    const source = this.source;
    const map = active.find((m) => m.query === source?.geometry)
      ?? active.find((m) => m.key === source?.geometry) ?? active[0];
    return map ? [map, this.headOf(map, panel.fixed)] : null;
  }

  mapPicture(panel, scale) {
    const chosen = this.mapOf(panel);
    if (!chosen) return { map: null, scale };
    const [map, head] = chosen;
    const cell = { row: null, column: null };
    const asKeyFirst = this.settings.read === "column";
    const put = (s) => {
      if (!s) return;
      const row = s.geometry === map.query && s.role !== "key" && cell.row === null;
      const column = s.geometry === map.key && s.role !== "query" && cell.column === null;
      if (row && !(asKeyFirst && column)) cell.row = s.item;
      else if (column) cell.column = s.item;
      if (s.partner?.geometry === map.key) cell.column ??= s.partner.item;
    };
    put(this.source);
    put(this.read);
    const hi = Math.max(this.top(map, head), isShare(map) ? FLOOR / map.columns : 0);
    // One row's own maximum would mislead on a whole map: it is painted over its own range.
    const own = this.settings.scale === "row" || scale.mode === "conditional" || scale.signed !== map.signed;
    return {
      map, head, cell, pinned: Boolean(this.pinned), settings: this.settings,
      scale: own ? new Scale({ lo: map.signed ? -hi : 0, hi, signed: map.signed, dark: scale.dark }) : scale,
    };
  }

  label(name, item) {
    const g = this.geometries[name];
    if (!g.parts) return labelOf(g, item, this.t);
    const part = g.parts.findLast((p) => p.offset <= item);
    const label = labelOf(part, item - part.offset, this.t);
    // Cells of several photographs: "row 1, column 2" alone would not say of which.
    const many = part.kind === "image_grid" && g.parts.filter((p) => p.kind === part.kind).length > 1;
    return many ? `${this.meta.texts[`part.${part.name}`] ?? part.name}, ${label}` : label;
  }

  /** Facts of one painted vector for the read-out. */
  facts(link) {
    const { map, reading, weights } = link;
    const other = reading === "row" ? map.key : map.query;
    const [best] = strongest(weights, 1);
    const baseline = 1 / map.columns;
    return {
      other, best, map, reading,
      weight: best === undefined ? 0 : weights[best],
      times: best === undefined ? 0 : weights[best] / baseline,
      baseline,
      sum: link.sum,
      expected: map.rows / map.columns,
      ...(reading === "row" ? entropyOf(weights) : {}),
    };
  }
}
