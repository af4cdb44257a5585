// The line above the panels: which map is shown, and how it is drawn.

import { MEAN } from "./maps.js";
import { Choice, Menu } from "./controls.js";
import { el } from "./dom.js";

const AXES = ["stage", "layer", "direction", "head", "read"];

export class Bar {
  constructor(view) {
    this.view = view;
    this.element = el("div", "bar");
    this.choices = Object.fromEntries(
      AXES.map((axis) => [axis, new Choice("", (value) => view.choose({ [axis]: value }))]));
    this.display = new Menu("display");
    this.element.append(...AXES.map((axis) => this.choices[axis].element), el("span", "spacer"),
      this.display.element);
    this.buildDisplay();
  }

  buildDisplay() {
    const { view } = this;
    this.scale = new Choice("", (scale) => view.choose({ scale }));
    this.marks = new Choice("", (top) => view.choose({ top }));
    this.smooth = toggle((smooth) => view.choose({ smooth }));
    this.conditional = toggle((conditional) => view.choose({ conditional }));
    this.opacity = el("input");
    this.opacity.type = "range";
    Object.assign(this.opacity, { min: "0", max: "100", step: "5" });
    this.opacity.oninput = () => view.choose({ opacity: Number(this.opacity.value) / 100 });
    this.opacityText = el("span", "caption");
    this.keys = el("p", "keys");
    this.display.sheet.append(
      this.scale.element, this.marks.element,
      this.smooth.element, this.conditional.element,
      el("label", "slider", this.opacityText, this.opacity), this.keys);
  }

  /** The word for a value of an axis: a text of the page, else the value itself. */
  name(axis, value) {
    const { texts } = this.view.meta;
    const own = texts[`${axis}.${this.view.state.settings.stage}.${value}`] ?? texts[`${axis}.${value}`];
    if (own !== undefined) return own;
    return axis === "layer" ? String(value + 1) : String(value);
  }

  update() {
    const { t, state } = this.view;
    const { settings } = state;
    const axes = state.axes();
    // What every panel has fixed for itself is no choice of the reader.
    const fixed = (axis) => state.panels.every((p) => axis in p.fixed || p.role === "query");
    const put = (axis, options) => this.choices[axis].update(
      t(`axis_${axis}`), state.panels.some((p) => axis in p.fixed) && fixed(axis) ? [] : options, settings[axis]);
    put("stage", axes.stages.map((value) => ({ value, text: this.name("stage", value) })));
    // A stepper among the panels takes the layers of its stage.
    const stepped = state.panels.some((p) => p.options?.steps === settings.stage);
    put("layer", stepped ? [] : axes.layers.map((value) => ({ value, text: this.name("layer", value) })));
    put("direction", axes.directions.length < 2 ? [] : [
      { value: "all", text: t("direction_all"), title: t("direction_all_help") },
      ...axes.directions.map((value) => ({ value, text: this.name("direction", value) })),
    ]);
    put("head", axes.heads.length < 2 ? [] : [
      { value: MEAN, text: t("head_mean") },
      ...axes.heads.map((label, value) => ({
        value, text: /^head (\d+)$/.exec(label)?.[1] ?? label, title: label,
      })),
    ]);
    const roles = state.panels.some((p) => p.role !== "any");
    put("read", !state.hasSelfMap() || roles ? [] : [
      { value: "row", text: t("read_row"), title: t("read_row_help") },
      { value: "column", text: t("read_column"), title: t("read_column_help") },
    ]);
    this.updateDisplay(t, settings, state);
  }

  updateDisplay(t, settings, state) {
    this.display.button.textContent = t("display");
    this.scale.update(t("scale"), ["map", "row", "clip"].map(
      (value) => ({ value, text: t(`scale_${value}`), title: t(`scale_${value}_help`) })), settings.scale);
    this.marks.update(t("marks"), [0, 1, 3, 5].map(
      (value) => ({ value, text: String(value) })), settings.top);
    this.smooth.update(t("smooth"), settings.smooth, t("smooth_help"));
    this.conditional.update(t("conditional"), settings.conditional, t("conditional_help"));
    this.conditional.element.hidden = !state.panels.some((p) => p.part !== null);
    this.opacityText.textContent = t("opacity");
    this.opacity.value = String(Math.round(settings.opacity * 100));
    this.keys.textContent = t("keys");
  }
}

function toggle(onChange) {
  const box = el("input");
  box.type = "checkbox";
  box.onchange = () => onChange(box.checked);
  const text = el("span");
  const element = el("label", "toggle", box, text);
  return {
    element,
    update(label, value, help) {
      text.textContent = label;
      box.checked = value;
      element.title = help;
    },
  };
}
