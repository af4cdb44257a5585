// Small controls: a segmented choice, a menu that opens below its button.

import { el, clear } from "./dom.js";

/** Radio buttons in one line; a native select where they would not fit. */
export class Choice {
  constructor(label, onChoose) {
    this.onChoose = onChoose;
    this.caption = el("span", "caption", label);
    this.holder = el("span", "holder");
    this.element = el("div", "choice", this.caption, this.holder);
  }

  /** options: [{value, text, title?}] */
  update(label, options, value) {
    this.caption.textContent = label;
    const signature = JSON.stringify([label, options]);
    if (signature !== this.signature) {
      this.signature = signature;
      this.options = options;
      clear(this.holder);
      const letters = options.reduce((sum, o) => sum + [...o.text].length + 3, 0);
      this.compact = options.length > 16 || letters > 56;
      this.holder.append(this.compact ? this.makeSelect(label) : this.makeSegments(label));
    }
    if (this.compact) this.select.value = String(options.findIndex((o) => o.value === value));
    else {
      this.buttons.forEach((button, i) => {
        const chosen = options[i].value === value;
        button.setAttribute("aria-checked", String(chosen));
        button.tabIndex = chosen ? 0 : -1;
      });
    }
    this.element.hidden = options.length < 2;
  }

  makeSelect(label) {
    this.select = el("select");
    this.select.setAttribute("aria-label", label);
    this.options.forEach((option, i) => {
      const item = el("option", "", option.text);
      item.value = String(i);
      this.select.append(item);
    });
    this.select.onchange = () => this.onChoose(this.options[Number(this.select.value)].value);
    return this.select;
  }

  makeSegments(label) {
    const group = el("div", "segments");
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-label", label);
    this.buttons = this.options.map((option, i) => {
      const button = el("button", "", option.text);
      button.type = "button";
      button.setAttribute("role", "radio");
      if (option.title) button.title = option.title;
      button.onclick = () => this.onChoose(option.value);
      button.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const to = (i + step + this.options.length) % this.options.length;
        this.onChoose(this.options[to].value);
        this.buttons[to].focus();
      };
      group.append(button);
      return button;
    });
    return group;
  }
}

/** A button that opens a small sheet; Escape or a click elsewhere closes it. */
export class Menu {
  constructor(className) {
    this.button = el("button", "menu-button");
    this.button.type = "button";
    this.button.setAttribute("aria-expanded", "false");
    this.sheet = el("div", "sheet");
    this.sheet.hidden = true;
    this.element = el("div", `menu ${className}`, this.button, this.sheet);
    this.button.onclick = () => this.open(this.sheet.hidden);
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || this.sheet.hidden) return;
      event.stopPropagation();
      this.open(false);
      this.button.focus();
    });
    this.element.addEventListener("focusout", (event) => {
      if (!this.element.contains(event.relatedTarget)) this.open(false);
    });
    // Safari does not focus a clicked button; without this the sheet would close under the click.
    this.sheet.addEventListener("pointerdown", (event) => {
      if (event.target.tagName === "BUTTON") event.preventDefault();
    });
  }

  open(yes) {
    this.sheet.hidden = !yes;
    this.button.setAttribute("aria-expanded", String(yes));
  }
}
