// The words of a sentence as chips in reading order; also any geometry that has only labels.

import { el, clear } from "../js/dom.js";
import { itemKeys } from "../js/keys.js";
import { formatWeight } from "../js/labels.js";
import { rect, text } from "../js/svg.js";

export function create(root, ctx) {
  const list = el("div", "chips");
  list.setAttribute("role", "listbox");
  root.append(list);
  let chips = [];
  let current = 0;
  let signature = null;
  let last = null;

  const stop = itemKeys(list, {
    layout: () => ({ count: chips.length, columns: 1 }),
    get: () => current,
    next: (from, step) => neighbour(from, step),
    on: {
      move: (item) => { focusOn(item); chips[item].focus(); },
      pin: (item) => ctx.pin(item),
      escape: () => ctx.unpin(),
    },
  });

  /** The chip nearest above or below. */
  function neighbour(from, step) {
    const here = chips[from];
    const x = here.offsetLeft + here.offsetWidth / 2;
    let best = null;
    let line = null;
    for (let i = from + step; i >= 0 && i < chips.length; i += step) {
      const top = chips[i].offsetTop;
      if (top === here.offsetTop) continue;
      line ??= top;
      if (top !== line) break;
      const away = Math.abs(chips[i].offsetLeft + chips[i].offsetWidth / 2 - x);
      if (best === null || away < best.away) best = { i, away };
    }
    return best ? best.i : from;
  }

  function focusOn(item) {
    if (chips[current]) chips[current].tabIndex = -1;
    current = item;
    chips[item].tabIndex = 0;
  }

  function build(labels) {
    const next = JSON.stringify(labels);
    if (next === signature) return;
    signature = next;
    clear(list);
    current = Math.min(current, Math.max(0, labels.length - 1));
    chips = labels.map((label, item) => {
      const chip = el("span", "chip", label);
      chip.setAttribute("role", "option");
      chip.setAttribute("aria-label", label);
      chip.tabIndex = item === current ? 0 : -1;
      chip.dataset.item = String(item);
      chip.onpointerenter = () => ctx.hover(item);
      chip.onclick = () => { focusOn(item); ctx.pin(item); };
      chip.onfocus = (event) => {
        focusOn(item);
        // Passing by with Tab changes nothing; moving within the words does.
        if (list.contains(event.relatedTarget)) ctx.hover(item);
      };
      chip.onblur = () => ctx.hover(null);
      list.append(chip);
      return chip;
    });
  }
  list.onpointerleave = () => ctx.hover(null);

  return {
    update(data) {
      build(Array.from({ length: data.count }, (_, i) => ctx.label(i)));
      list.classList.toggle("stacked", Boolean(data.options.stacked));
      list.setAttribute("aria-label", data.title || ctx.t("panel_words"));
      list.style.maxHeight = `${ctx.height()}px`;
    },
    paint(picture) {
      last = picture;
      const { weights, scale } = picture;
      const rank = new Map(picture.top.map((item, i) => [item, i + 1]));
      chips.forEach((chip, i) => {
        const painted = weights !== null && weights[i] === weights[i];
        chip.style.backgroundColor = painted ? scale.css(weights[i]) : "";
        chip.style.color = painted ? scale.ink(weights[i]) : "";
        chip.title = painted ? formatWeight(weights[i]) : "";
        chip.classList.toggle("painted", painted);
        chip.classList.toggle("marked", i === picture.marked);
        chip.classList.toggle("source", i === picture.source);
        chip.setAttribute("aria-selected", String(i === picture.source && picture.pinned));
        if (rank.has(i) && picture.top.length > 1) chip.dataset.rank = rank.get(i);
        else delete chip.dataset.rank;
      });
    },
    svg() {
      const { theme } = ctx;
      const body = chips.map((chip, i) => {
        const [x, y, w, h] = [chip.offsetLeft, chip.offsetTop - list.scrollTop, chip.offsetWidth, chip.offsetHeight];
        const painted = last?.weights && last.weights[i] === last.weights[i];
        const source = i === last?.source;
        return rect(x + 0.5, y + 0.5, w - 1, h - 1, {
          fill: painted ? last.scale.css(last.weights[i]) : "none",
          stroke: source ? theme.primary : theme.border, line: source ? 2.5 : 1, radius: 6,
        }) + text(x + w / 2, y + h / 2 + 5, chip.textContent, {
          size: 14, anchor: "middle", fill: painted ? last.scale.ink(last.weights[i]) : theme.text,
        });
      }).join("");
      return { body, element: list };
    },
    dispose: stop,
  };
}
