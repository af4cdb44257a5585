// The lines below the panels: what is lit, in words, and the colour bar with its scale.

import { el, clear } from "./dom.js";
import { formatTimes, formatWeight } from "./labels.js";
import { isShare } from "./state.js";

const TOO_CLOSE = 0.28; // of the bar: marks nearer to each other than their words are wide share them

export class Foot {
  constructor(view) {
    this.view = view;
    this.says = el("div", "says");
    this.state = el("span", "pin-state");
    this.live = el("div", "sr");
    this.live.setAttribute("aria-live", "polite");
    this.why = el("button", "why");
    this.why.type = "button";
    this.why.setAttribute("aria-expanded", "false");
    this.because = el("ul", "because");
    this.because.hidden = true;
    this.why.onclick = () => {
      this.because.hidden = !this.because.hidden;
      this.why.setAttribute("aria-expanded", String(!this.because.hidden));
      this.paintReasons();
    };
    this.unit = el("span", "unit");
    this.ramp = el("div", "ramp");
    this.ticks = el("div", "ticks");
    this.legend = el("div", "legend", this.unit, el("div", "ramp-box", this.ramp, this.ticks));
    this.element = el("div", "foot",
      el("div", "story", this.says, this.state, this.why, this.because),
      this.legend, this.live);
  }

  update() { this.drawn = null; }

  announce() { this.speakNow = true; }

  paint() {
    const lines = this.lines();
    const text = lines.map((line) => line.map((piece) => piece.text).join("")).join(" ");
    if (text !== this.text) {
      this.text = text;
      clear(this.says);
      for (const line of lines) {
        const row = el("p");
        for (const piece of line) row.append(piece.strong ? el("strong", "", piece.text) : piece.text);
        this.says.append(row);
      }
      // Speech follows with a little delay, so that a sweep over cells is not read out cell by cell.
      clearTimeout(this.timer);
      this.timer = setTimeout(() => { this.live.textContent = text; }, this.speakNow ? 0 : 350);
      this.speakNow = false;
    }
    const { state, t } = this.view;
    const pin = state.pinned ? t("pinned") : t("hint");
    if (this.state.textContent !== pin) this.state.textContent = pin;
    this.state.dataset.pinned = String(Boolean(state.pinned));
    this.paintLegend();
    this.paintReasons();
  }

  /** How the numbers of the read-out come about, filled with the numbers at hand. */
  paintReasons() {
    this.why.textContent = this.view.t("explain");
    if (this.because.hidden) return;
    const lines = this.reasons();
    const text = lines.join("\n");
    if (text === this.reasoned) return;
    this.reasoned = text;
    clear(this.because);
    for (const line of lines) this.because.append(el("li", "", line));
  }

  reasons() {
    const { state, t } = this.view;
    const link = state.links[0];
    if (!link) return [];
    const f = state.facts(link);
    if (!isShare(link.map)) return [t("explain_plain")];
    const keys = link.map.columns;
    const asked = state.read ?? state.source.partner;
    const read = asked && asked.geometry === f.other ? link.weights[asked.item] : f.weight;
    const values = {
      source: state.label(state.source.geometry, state.source.item), keys, rows: link.map.rows,
      weight: formatWeight(read), times: formatTimes(read * keys), share: formatWeight(1 / keys),
      entropy: f.entropy?.toFixed(2), uniform: f.uniform?.toFixed(2),
      sum: formatWeight(f.sum), expected: formatWeight(f.expected), heads: link.map.heads.length,
    };
    const reasons = [link.reading === "row" ? t("explain_row", values) : t("explain_column", values)];
    if (link.head < 0 && values.heads > 1) reasons.push(t("explain_mean", values));
    reasons.push(t("explain_times", values));
    if (link.reading === "row") reasons.push(t("explain_entropy", values));
    return reasons;
  }

  /** Sentences with {{placeholders}} set in bold: [[{text, strong}]]. */
  sentence(key, values) {
    const pieces = [];
    let at = 0;
    const text = this.view.t(key);
    for (const match of text.matchAll(/\{\{(\w+)\}\}/g)) {
      if (match.index > at) pieces.push({ text: text.slice(at, match.index) });
      const strong = match[1] === "source" || match[1] === "target" || match[1] === "weight";
      pieces.push({ text: String(values[match[1]] ?? match[0]), strong });
      at = match.index + match[0].length;
    }
    pieces.push({ text: text.slice(at) });
    return pieces.filter((piece) => piece.text);
  }

  lines() {
    const { state, t } = this.view;
    const { source } = state;
    if (!source) return [[{ text: t("nothing") }]];
    const name = state.label(source.geometry, source.item);
    const links = distinct(state.links);
    if (!links.length) {
      const missing = this.view.panels.some((p) => p.picture?.missing);
      return [this.sentence(missing ? "readout_missing" : "readout_alone", { source: name })];
    }
    const asked = state.read ?? source.partner ?? null;
    if (asked) {
      const line = this.valueLine(links, asked, name);
      if (line) return [line];
    }
    const lines = links.slice(0, 3).map((link) => this.summary(link, name, links.length > 1));
    if (links.length === 1) lines.push(...this.acrossParts(links[0]));
    return lines;
  }

  /** In a joined sequence an item often looks most at its own kind: the best of the other parts. */
  acrossParts(link) {
    const { state, panels } = this.view;
    const { other, best } = state.facts(link);
    const parts = state.geometries[other].parts;
    if (!parts || best === undefined || state.source.geometry !== other) return [];
    const partOf = (item) => parts.findLast((part) => part.offset <= item).name;
    const own = partOf(state.source.item);
    if (partOf(best) !== own) return [];
    const shown = panels.filter((p) => p.partial && p.part !== own && p.picture?.top.length
      && p.geometry === other && p.picture.map === link.map);
    return shown.map((panel) => {
      const item = panel.picture.top[0] + panel.offset;
      return this.sentence("readout_part", {
        panel: panel.title || panel.part, target: state.label(other, item),
        weight: formatWeight(link.weights[item]), times: formatTimes(link.weights[item] * link.map.columns),
      });
    });
  }

  /** The weight between the shown item and the one under the pointer. */
  valueLine(links, asked, name) {
    const { state } = this.view;
    const target = asked.partner ?? asked;
    const link = links.find(
      ({ map, reading }) => (reading === "row" ? map.key : map.query) === target.geometry);
    if (!link) return null;
    const weight = link.weights[target.item];
    const other = state.label(target.geometry, target.item);
    const first = link.reading === "row" ? name : other;
    const second = link.reading === "row" ? other : name;
    return this.sentence(isShare(link.map) ? "readout_value" : "readout_value_plain", {
      source: first, target: second, weight: formatWeight(weight),
      times: formatTimes(weight * link.map.columns),
    });
  }

  summary(link, name, several) {
    const { state, t } = this.view;
    const f = state.facts(link);
    const key = `readout_${link.reading}${isShare(f.map) ? "" : "_plain"}`;
    const values = {
      source: name,
      target: f.best === undefined ? "–" : state.label(f.other, f.best),
      weight: formatWeight(f.weight), times: formatTimes(f.times),
      entropy: f.entropy?.toFixed(2), uniform: f.uniform?.toFixed(2),
      spread: f.uniform ? Math.round((100 * f.entropy) / f.uniform) : "–",
      sum: formatWeight(f.sum), expected: formatWeight(f.expected),
    };
    const pieces = this.sentence(key, values);
    if (several) {
      const axis = this.view.bar.name("direction", f.map.direction);
      pieces.unshift({ text: `${t("readout_of", { map: axis })} ` });
    }
    return pieces;
  }

  paintLegend() {
    const { state, t } = this.view;
    const { scale } = state;
    const signature = JSON.stringify(
      [scale.lo, scale.hi, scale.signed, scale.dark, scale.mode, scale.floored, scale.uniform, scale.kind, this.view.meta.texts.unit]);
    if (signature === this.drawn) return;
    this.drawn = signature;
    this.legend.hidden = scale.kind === null;
    this.unit.textContent = [
      this.unitText(), scale.floored ? t("scale_floor_said") : t(`scale_${scale.mode}_said`),
      scale.signed ? t("scale_signed_said") : "",
    ].filter(Boolean).join(" · ");
    this.ramp.style.background = `linear-gradient(90deg, ${scale.gradient().join(",")})`;
    clear(this.ticks);
    for (const tick of this.legendTicks()) {
      const mark = el("span", `tick ${tick.kind}`, el("i"), el("b", "", tick.text));
      mark.style.left = `${100 * tick.at}%`;
      this.ticks.append(mark);
    }
    this.ramp.setAttribute("role", "img");
    this.ramp.setAttribute("aria-label", t("legend_label",
      { low: formatWeight(scale.lo), high: formatWeight(scale.hi), unit: this.unit.textContent }));
  }

  unitText() {
    const { t, meta, state } = this.view;
    return meta.texts[`unit_${state.scale.kind}`] ?? t("unit_other");
  }

  /** [{at: 0..1, text, kind}] of the colour bar; used by the export too. */
  legendTicks() {
    const { scale } = this.view.state;
    const ticks = [
      { at: 0, text: formatWeight(scale.lo), kind: "end low" },
      { at: 1, text: (scale.clipped ? "≥ " : "") + formatWeight(scale.hi), kind: "end high" },
    ];
    if (scale.signed) ticks.push({ at: 0.5, text: "0", kind: "zero" });
    const uniform = scale.uniform
      .filter((share) => share > 0 && share <= scale.hi)
      .map((share) => ({ at: scale.position(share), shares: [`1/${Math.round(1 / share)}`] }))
      .sort((a, b) => a.at - b.at);
    let named = null;
    for (const mark of uniform) {
      if (named && mark.at - named.at < TOO_CLOSE) named.shares.push(...mark.shares.splice(0));
      else named = mark;
    }
    for (const { at, shares } of uniform) {
      const edge = at < 0.08 ? " first" : at > 0.92 ? " last" : "";
      const text = shares.length ? this.view.t("legend_uniform", { share: shares.join(", ") }) : "";
      ticks.push({ at, text, kind: `uniform${edge}` });
    }
    return ticks;
  }
}

/** One link for each painted vector: panels of one Joined geometry share theirs. */
export function distinct(links) {
  const seen = new Map();
  for (const link of links) seen.set(`${link.map.id} ${link.reading} ${link.head}`, link);
  return [...seen.values()];
}
