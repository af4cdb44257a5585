// Whose turn it is to be the query: two lanes, one step a layer, an arrow from who asks to who answers.

import { el } from "../js/dom.js";
import { rect, text } from "../js/svg.js";

export const draws = "map";

const ARROW = "M6 2 V22 M2.4 18 L6 22 L9.6 18";

export function create(root, ctx) {
  const back = button("‹");
  const on = button("›");
  const lanes = el("div", "lanes");
  const steps = el("div", "steps");
  steps.setAttribute("role", "radiogroup");
  const says = el("p", "turn-says");
  root.append(el("div", "turns", lanes, back, steps, on), says);
  let data = null;
  let buttons = [];

  function button(sign) {
    const made = el("button", "menu-button step-by", sign);
    made.type = "button";
    return made;
  }

  function go(layer) {
    if (layer < 0 || layer >= data.options.turns.length) return;
    ctx.choose({ stage: data.options.steps, layer });
  }

  /** The step that is shown, or null in a stage that is no step. */
  function at() {
    const { stage, layer } = ctx.settings;
    return data && stage === data.options.steps ? layer : null;
  }

  back.onclick = () => go((at() ?? 1) - 1);
  on.onclick = () => go((at() ?? -1) + 1);

  function build() {
    const { turns, sides } = data.options;
    lanes.replaceChildren(...sides.map((name) => el("span", "", name)));
    buttons = turns.map((side, layer) => {
      const step = el("button", "step");
      step.type = "button";
      step.setAttribute("role", "radio");
      step.dataset.asks = String(side);
      step.setAttribute("aria-label", ctx.nameOf("layer", layer));
      step.append(el("span", "dot"), arrow(side), el("span", "dot"), el("b", "", String(layer + 1)));
      step.onclick = () => go(layer);
      step.onkeydown = (event) => {
        const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        go(layer + by);
        buttons[layer + by]?.focus();
      };
      return step;
    });
    steps.replaceChildren(...buttons);
    steps.setAttribute("aria-label", data.title);
    back.setAttribute("aria-label", ctx.t("turn_back"));
    on.setAttribute("aria-label", ctx.t("turn_on"));
  }

  function arrow(side) {
    const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", "0 0 12 24");
    picture.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", ARROW);
    if (side === 1) line.setAttribute("transform", "rotate(180 6 12)");
    picture.append(line);
    return picture;
  }

  return {
    update(next) {
      data = next;
      build();
    },
    paint() {
      const shown = at();
      buttons.forEach((step, layer) => {
        step.setAttribute("aria-checked", String(layer === shown));
        step.tabIndex = layer === (shown ?? 0) ? 0 : -1;
      });
      back.disabled = shown === 0;
      on.disabled = shown === buttons.length - 1;
      const side = shown === null ? null : data.options.turns[shown];
      says.textContent = side === null ? ctx.t("turn_none")
        : `${ctx.nameOf("layer", shown)}. ${ctx.t(`turn_says.${side}`)}`;
      root.dataset.turn = shown === null ? "" : String(shown + 1);
    },
    svg() {
      const { theme } = ctx;
      const { turns } = data.options;
      const shown = at();
      const body = turns.map((_, layer) => rect(layer * 44, 0, 38, 24, {
        fill: layer === shown ? theme.primary : "none", stroke: theme.border, radius: 6,
      }) + text(layer * 44 + 19, 17, String(layer + 1), {
        anchor: "middle", fill: layer === shown ? theme.background : theme.text,
      })).join("") + (shown === null ? ""
        : text(turns.length * 44 + 8, 17, ctx.nameOf("layer", shown), { fill: theme.text }));
      return { body, element: root };
    },
  };
}
