// One mounted view: the page elements, the panels, and the loop hover -> compose -> paint.

import { readTheme } from "./colours.js";
import { contextOf } from "./context.js";
import { State, isShare } from "./state.js";
import { Bar } from "./bar.js";
import { Foot } from "./foot.js";
import { SaveMenu } from "./save.js";
import { Files, typed } from "./files.js";
import { PANELS } from "./panels.js";
import { el, clear } from "./dom.js";
import { STYLE } from "./style.js";
import { formatWeight } from "./labels.js";

export class View {
  constructor(parent) {
    this.state = new State();
    this.files = new Files();
    this.root = el("div", "view");
    this.bar = new Bar(this);
    this.grid = el("div", "panels");
    this.foot = new Foot(this);
    this.save = new SaveMenu(this);
    this.bar.element.append(this.save.element);
    this.trouble = el("p", "caption trouble");
    this.trouble.setAttribute("role", "alert");
    this.root.append(this.trouble, this.bar.element, this.grid, this.foot.element);
    this.style = el("style", "", STYLE);
    parent.append(this.style, this.root);
    // Canvases drawn before a font has come are drawn again with it.
    document.fonts.ready.then(() => this.schedule(true));
    this.panels = [];
    this.paints = 0;
    this.resizer = new ResizeObserver(() => this.schedule(true));
    this.resizer.observe(this.grid);
    // Streamlit's own hot keys (r, c, ...) must not fire while a view has the focus.
    this.root.addEventListener("keydown", (event) => {
      this.hotKey(event);
      if (!event.ctrlKey && !event.metaKey && event.key !== "Tab") event.stopPropagation();
    });
  }

  t = (key, values = {}) => {
    const text = this.meta.texts[key] ?? key;
    return text.replace(/\{\{(\w+)\}\}/g, (whole, name) => (name in values ? values[name] : whole));
  };

  update({ data, setStateValue }) {
    const { meta, inline = {}, files = {}, arrays = {} } = data.text ? JSON.parse(data.text) : data;
    for (const [name, [type, text]] of Object.entries(inline)) arrays[name] = typed(type, text);
    this.latest = data;
    const fetched = this.files.take(files);
    if (!(fetched instanceof Promise)) {
      this.show(meta, Object.assign(arrays, fetched), setStateValue);
      return;
    }
    fetched.then(
      (more) => {
        if (this.latest === data && !this.gone) this.show(meta, Object.assign(arrays, more), setStateValue);
      },
      () => { this.trouble.textContent = meta.texts.fetch_failed; },
    );
  }

  show(meta, arrays, setStateValue) {
    this.arrays = arrays;
    this.trouble.textContent = "";
    this.meta = meta;
    this.report = (pin) => { if (meta.report) setStateValue("pin", pin ?? {}); };
    const wished = JSON.stringify(meta.settings);
    if (wished !== this.wished) {
      // Python's wishes hold when they are new; the reader's later choices hold over a reload.
      const kept = this.wished === undefined ? this.stored() : {};
      Object.assign(this.state.settings, meta.settings, kept.wished === wished ? kept.settings : {});
      this.wished = wished;
    }
    this.state.load(meta, arrays, this.t);
    const hadPin = Boolean(this.state.pinned);
    if (meta.selection && meta.selection.turn !== this.turn) {
      this.turn = meta.selection.turn;
      this.state.show(meta.selection.source);
      if (hadPin && !this.state.pinned) this.report(null);
    }
    this.theme = readTheme(this.root);
    this.root.dataset.theme = this.theme.dark ? "dark" : "light";
    this.root.classList.toggle("compact", meta.compact);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", meta.title || this.t("view"));
    this.build(arrays);
    this.bar.update();
    this.save.update();
    this.foot.update();
    this.schedule(true);
    this.root.dataset.ready = String(Number(this.root.dataset.ready ?? 0) + 1);
  }

  // --- panels --------------------------------------------------------------------------------

  build(arrays) {
    const signature = JSON.stringify([this.meta.layout, this.meta.panels.map((p) => [p.id, p.kind])]);
    if (signature !== this.signature) {
      this.signature = signature;
      for (const panel of this.panels) panel.drawer.dispose?.();
      clear(this.grid);
      this.panels = this.meta.panels.map((meta) => this.makePanel(meta));
      for (const row of this.meta.layout) {
        const line = el("div", "line");
        for (const i of row) line.append(this.panels[i].element);
        this.grid.append(line);
      }
    }
    this.panels.forEach((panel, i) => {
      const meta = this.meta.panels[i];
      Object.assign(panel, meta);
      panel.arrays = {};
      for (const name of meta.arrays) panel.arrays[name] = arrays[`p/${meta.id}/${name}`];
      panel.element.style.flexGrow = String(meta.width);
      panel.heading.textContent = meta.title;
      panel.heading.hidden = !meta.title;
      panel.geometry = undefined;
      this.place(panel);
    });
  }

  /** Let a panel show whichever of its geometries the chosen maps use. */
  place(panel) {
    if (panel.draws === "map") {
      if (panel.geometry === undefined) panel.drawer.update(this.dataOf(panel));
      panel.geometry = null;
      return;
    }
    const active = this.state.active(panel.fixed);
    const name = panel.geometries.find(
      (g) => active.some((m) => m.query === g || m.key === g)) ?? panel.geometries[0];
    // Items of a grid of another scale, which no chosen map uses, go along to this one.
    const used = new Set(this.state.active().flatMap((m) => [m.query, m.key]));
    for (const other of panel.geometries) {
      if (other !== name && !used.has(other)) this.state.move(other, name);
    }
    if (name === panel.geometry) return;
    panel.geometry = name;
    const whole = this.state.geometries[name];
    const part = panel.part === null ? null : whole.parts?.find((p) => p.name === panel.part);
    panel.shape = part ?? whole;
    panel.offset = part?.offset ?? 0;
    panel.count = panel.shape.count;
    panel.partial = Boolean(part);
    panel.drawer.update(this.dataOf(panel));
  }

  dataOf(panel) {
    return {
      title: panel.title, options: panel.options, arrays: panel.arrays,
      geometry: panel.shape ?? null, count: panel.count, state: this.state,
    };
  }

  makePanel(meta) {
    const module = PANELS[meta.kind];
    if (!module) throw new Error(`There is no panel module "${meta.kind}.js".`);
    const heading = el("h4", "title");
    const tag = el("span", "tag");
    const body = el("div", "body");
    const element = el("section", `panel panel-${meta.kind}`, el("header", "", heading, tag), body);
    element.dataset.panel = meta.id;
    const panel = { ...meta, draws: module.draws ?? "geometry", heading, tag, body, element };
    panel.ctx = contextOf(this, panel);
    panel.drawer = module.create(body, panel.ctx);
    return panel;
  }

  // --- gestures ------------------------------------------------------------------------------

  hover(source) {
    source = this.state.cast(source);
    if (same(source, this.state.hovered)) return;
    this.state.hover(source);
    this.schedule();
  }

  pin(source) {
    if (!source && !this.state.pinned) return;
    const pinned = this.state.pin(this.state.cast(source));
    this.foot.announce();
    this.report(this.describe(pinned));
    // Other components of the page may follow a pin at once, without a run of the page.
    window.dispatchEvent(new CustomEvent("crossfuse:pin", {
      detail: { view: this.meta.id, geometry: pinned?.geometry ?? null, item: pinned?.item ?? null },
    }));
    this.schedule();
  }

  /** A pin as Python hears of it. */
  describe(source) {
    if (!source) return null;
    const links = this.panels.filter((p) => p.draws !== "map").map((p) => this.state.link(p, source));
    const link = links.find((l) => l);
    const { stage, layer, direction, head } = this.state.settings;
    return {
      geometry: source.geometry, item: source.item, map: link?.map.id ?? null,
      reading: link?.reading ?? null, missing: Boolean(link && !link.weights),
      partner: source.partner?.item ?? null, stage, layer, direction, head,
    };
  }

  choose(changes) {
    this.state.choose(changes);
    for (const panel of this.panels) this.place(panel);
    this.store();
    this.bar.update();
    this.foot.update();
    this.schedule();
  }

  hotKey(event) {
    if (event.target.closest?.("select, input")) return;
    const { heads, layers } = this.state.axes();
    const s = this.state.settings;
    const step = { "[": -1, "]": 1 }[event.key];
    const climb = { "{": -1, "}": 1 }[event.key];
    if (step && heads.length > 1) {
      this.choose({ head: ((s.head + 1 + step + heads.length + 1) % (heads.length + 1)) - 1 });
    } else if (climb && layers.length > 1) {
      const at = layers.indexOf(s.layer) + climb;
      if (at >= 0 && at < layers.length) this.choose({ layer: layers[at] });
    } else if (event.key === "Escape") this.pin(null);
  }

  stored() {
    try { return JSON.parse(sessionStorage.getItem(`linked-view ${this.meta.id}`)) ?? {}; }
    catch { return {}; } // storage can be switched off; the choices then last as long as the page
  }

  store() {
    const kept = { wished: this.wished, settings: this.state.settings };
    try { sessionStorage.setItem(`linked-view ${this.meta.id}`, JSON.stringify(kept)); }
    catch { /* as above */ }
  }

  // --- painting ------------------------------------------------------------------------------

  schedule(resized = false) {
    this.resized ||= resized;
    if (this.frame || this.gone) return;
    this.frame = requestAnimationFrame(() => { this.frame = 0; this.paint(); });
  }

  paint() {
    if (!this.meta || !this.grid.clientWidth) return; // hidden: the observer calls when shown
    const start = performance.now();
    if (this.resized) for (const panel of this.panels) panel.drawer.resize?.();
    this.resized = false;
    const pictures = this.state.compose(this.panels, this.theme.dark);
    this.panels.forEach((panel, i) => {
      panel.picture = pictures[i];
      panel.drawer.paint(pictures[i]);
      this.tagPanel(panel);
    });
    this.foot.paint();
    this.root.dataset.paints = String(++this.paints);
    this.root.dataset.paintMs = (performance.now() - start).toFixed(2);
  }

  /** The small word beside a panel's title: what it is in the present reading. */
  tagPanel(panel) {
    const { picture } = panel;
    let text = "";
    let kind = "";
    if (panel.draws === "map") {
      // A map over its own range says so: the colour bar below is of the painted row.
      if (panel.kind === "overview") text = this.t("tag_own_range");
      else if (panel.kind !== "turns" && picture.map && picture.scale !== this.state.scale) {
        text = this.t("tag_range", { low: formatWeight(picture.scale.lo), high: formatWeight(picture.scale.hi) });
        kind = "range";
      }
    } else {
      if (picture.missing) { text = this.t("tag_missing"); kind = "missing"; }
      else if (picture.weights) {
        kind = picture.reading === "row" ? "key" : "query";
        text = isShare(picture.map) ? this.t(`tag_${kind}`) : this.t("tag_plain");
        if (panel.options?.own_scale === "several" && picture.scale !== this.state.scale) {
          const range = { low: formatWeight(picture.scale.lo), high: formatWeight(picture.scale.hi) };
          text = `${text} · ${this.t("tag_range", range)}`;
        } else if (panel.partial && picture.reading === "row" && isShare(picture.map)
          && picture.total < 0.9995) {
          text = this.t("tag_part", { role: text, percent: (100 * picture.total).toFixed(1) });
        }
      } else if (picture.source !== null) {
        const link = this.state.links[0];
        kind = link?.reading === "column" ? "key" : "query";
        text = !link || isShare(link.map) ? this.t(`tag_${kind}`) : this.t("tag_chosen");
      }
      panel.element.classList.toggle("idle", !picture.weights && picture.source === null);
    }
    if (panel.tag.textContent !== text) panel.tag.textContent = text;
    panel.tag.dataset.kind = kind;
  }

  dispose() {
    this.gone = true;
    cancelAnimationFrame(this.frame);
    this.resizer.disconnect();
    for (const panel of this.panels) panel.drawer.dispose?.();
    this.root.remove();
    this.style.remove();
  }
}

function same(a, b) {
  if (!a || !b) return a === b;
  return a.geometry === b.geometry && a.item === b.item && a.role === b.role
    && a.partner?.item === b.partner?.item;
}
