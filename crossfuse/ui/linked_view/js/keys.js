// Arrow-key movement over items laid out in rows; shared by all panels.

/**
 * Make `element` (focusable) move an item index by keys.
 * layout() -> {count, columns}: columns > 1 makes Up and Down move by a row.
 * on.move(item), on.pin(item), on.escape(); get() -> present item or null.
 * Returns a function that removes the listener.
 */
export function itemKeys(element, { layout, get, on, next }) {
  const handler = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const { count, columns } = layout();
    if (!count) return;
    const at = get();
    const from = at ?? 0;
    let to = null;
    switch (event.key) {
      case "ArrowRight": to = from + 1; break;
      case "ArrowLeft": to = from - 1; break;
      case "ArrowDown": to = next ? next(from, 1) : from + columns; break;
      case "ArrowUp": to = next ? next(from, -1) : from - columns; break;
      case "Home": to = event.shiftKey ? 0 : from - (from % columns); break;
      case "End": to = event.shiftKey ? count - 1
        : Math.min(count - 1, from - (from % columns) + columns - 1); break;
      case "PageDown": to = Math.min(count - 1, from + 5 * columns); break;
      case "PageUp": to = Math.max(0, from - 5 * columns); break;
      case "Enter":
      case " ":
        if (at !== null) on.pin(at);
        event.preventDefault();
        return;
      case "Escape": on.escape(); event.preventDefault(); return;
      default: return;
    }
    event.preventDefault();
    if (to === null || to < 0 || to >= count) return;
    on.move(at === null ? from : to);
  };
  element.addEventListener("keydown", handler);
  return () => element.removeEventListener("keydown", handler);
}

/**
 * For a canvas: one focusable listbox whose present option is told to screen readers.
 * Returns {element, say(item), dispose}. The canvas is put inside `element`.
 */
export function canvasListbox(root, ctx, options) {
  const box = document.createElement("div");
  box.className = "canvas-box";
  box.tabIndex = 0;
  box.setAttribute("role", "listbox");
  // Two hidden options take turns, so that a change is announced even on the same text.
  const voices = [0, 1].map((i) => {
    const voice = document.createElement("div");
    voice.id = `${ctx.id}-option-${i}`;
    voice.className = "sr";
    voice.setAttribute("role", "option");
    box.append(voice);
    return voice;
  });
  root.append(box);
  let turn = 0;
  let said = null;
  let current = null;
  const stop = itemKeys(box, {
    layout: options.layout,
    next: options.next,
    get: () => current,
    on: {
      move: (item) => { current = item; ctx.hover(item); },
      pin: (item) => ctx.pin(item),
      escape: () => ctx.unpin(),
    },
  });
  box.addEventListener("blur", () => ctx.hover(null));
  return {
    element: box,
    say(item, selected) {
      if (item !== null) current = item;
      const text = item === null ? "" : ctx.label(item);
      if (text === said) return;
      said = text;
      turn = 1 - turn;
      voices[turn].textContent = text;
      voices[turn].setAttribute("aria-selected", String(Boolean(selected)));
      voices[turn].setAttribute("aria-posinset", String((item ?? 0) + 1));
      voices[turn].setAttribute("aria-setsize", String(options.layout().count));
      voices[1 - turn].textContent = "";
      if (item === null) box.removeAttribute("aria-activedescendant");
      else box.setAttribute("aria-activedescendant", voices[turn].id);
    },
    dispose: stop,
  };
}

/** Pointer gestures of a canvas: `itemAt(x, y)` in CSS pixels -> item or null. */
export function canvasPointer(canvas, ctx, itemAt) {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return itemAt(event.clientX - box.left, event.clientY - box.top);
  };
  canvas.addEventListener("pointermove", (event) => ctx.hover(at(event)));
  canvas.addEventListener("pointerleave", () => ctx.hover(null));
  canvas.addEventListener("click", (event) => {
    const item = at(event);
    if (item !== null) ctx.pin(item);
  });
}
