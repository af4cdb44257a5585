// Raw traces and a scrubber on two canvases. Everything is drawn from arrays already here.

const LINE = 8; // usual amplitudes in the height of a channel, at gain 1
const views = new WeakMap();

function el(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function build(parent) {
  const root = el("div", "traces");
  const tools = el("div", "tools");
  const page = el("canvas", "page");
  const strip = el("canvas", "strip");
  const now = el("span", "now");
  page.tabIndex = 0;
  page.setAttribute("role", "img");
  strip.tabIndex = 0;
  strip.setAttribute("role", "slider");
  root.append(tools, page, strip);
  parent.append(root);
  const view = { root, tools, page, strip, now, start: 0, span: 10, gain: 1, wait: 0, frame: 0 };
  view.size = new ResizeObserver(() => ask(view));
  view.size.observe(root);
  for (const canvas of [page, strip]) canvas.addEventListener("keydown", (event) => keys(view, event));
  let last = null;
  page.addEventListener("pointerdown", (event) => {
    if (nameAt(view, event) !== null) return;
    last = event.clientX;
    page.setPointerCapture(event.pointerId);
  });
  page.addEventListener("click", (event) => {
    const name = nameAt(view, event);
    if (name !== null) view.toggle("toggle", name);
  });
  page.addEventListener("pointermove", (event) => {
    if (last === null) { page.style.cursor = nameAt(view, event) === null ? "grab" : "pointer"; return; }
    move(view, view.start - ((event.clientX - last) / (page.clientWidth - view.left)) * view.span);
    last = event.clientX;
  });
  page.addEventListener("pointerup", () => { last = null; });
  const drag = (event) => {
    const box = strip.getBoundingClientRect();
    const at = (event.clientX - box.left - view.left) / (box.width - view.left);
    move(view, at * view.meta.seconds - view.span / 2);
  };
  strip.addEventListener("pointerdown", (event) => {
    strip.setPointerCapture(event.pointerId);
    drag(event);
  });
  strip.addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
  page.addEventListener("wheel", (event) => {
    if (Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return;
    event.preventDefault();
    move(view, view.start + (event.deltaX / 600) * view.span);
  }, { passive: false });
  view.follow = ({ detail }) => {
    const [id, geometry] = view.meta?.follows ?? [];
    if (detail.view !== id || detail.geometry !== geometry || !view.times.length) return;
    look(view, detail.item % (view.times.length / 2));
  };
  window.addEventListener("crossfuse:pin", view.follow);
  return view;
}

/** The channel whose name is under the pointer, or null. */
function nameAt(view, event) {
  if (!view.meta || !view.left) return null;
  const box = view.page.getBoundingClientRect();
  const line = (view.meta.height - 18) / view.meta.names.length;
  const k = Math.floor((event.clientY - box.top) / line);
  return event.clientX - box.left < view.left ? view.meta.names[k] ?? null : null;
}

/** Outline a window, and bring it into sight. */
function look(view, index) {
  view.mark = [view.times[2 * index], view.times[2 * index + 1]];
  const [a, b] = view.mark;
  if (a < view.start || b > view.start + view.span) move(view, (a + b) / 2 - view.span / 2);
  ask(view);
}

function keys(view, event) {
  const steps = { ArrowRight: 0.1, ArrowLeft: -0.1, PageDown: 1, PageUp: -1 };
  if (event.key in steps) move(view, view.start + steps[event.key] * view.span);
  else if (event.key === "Home") move(view, 0);
  else if (event.key === "End") move(view, view.meta.seconds);
  else if (event.key === "+" || event.key === "=") { view.gain *= 1.25; ask(view); }
  else if (event.key === "-") { view.gain /= 1.25; ask(view); }
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function move(view, start) {
  const most = Math.max(0, view.meta.seconds - view.span);
  view.start = Math.min(most, Math.max(0, start));
  ask(view);
  clearTimeout(view.wait);
  view.wait = setTimeout(() => {
    const { meta } = view;
    const from = meta.first / meta.rate;
    const to = meta.last / meta.rate;
    const inside = view.start >= from && view.start + view.span <= to;
    if (!inside && view.span <= 45) view.send("place", view.start + view.span / 2);
  }, 120);
}

function ask(view) {
  if (view.frame) return;
  view.frame = requestAnimationFrame(() => {
    view.frame = 0;
    if (view.root.clientWidth > 0 && view.meta) draw(view);
  });
}

function fit(canvas, width, height) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return pen;
}

function colours(root) {
  const style = getComputedStyle(root);
  const read = (name) => style.getPropertyValue(`--st-${name}`).trim();
  return { text: read("text-color"), primary: read("primary-color"), border: read("border-color"),
    back: read("secondary-background-color"), bad: read("red-text-color") || "#c0392b",
    doubt: read("orange-text-color") || "#b7791f" };
}

const SIGN = { "": "", marked: "× ", bad: "× ", proposed: "? " };

function shade(c, state) {
  return { marked: c.bad, bad: c.bad, proposed: c.doubt }[state] ?? c.text;
}

function clock(s) {
  const m = Math.floor(s / 60);
  return `${m}:${(s - 60 * m).toFixed(1).padStart(4, "0")}`;
}

function draw(view) {
  const began = performance.now();
  const { meta, page, strip } = view;
  const c = colours(view.root);
  const width = view.root.clientWidth;
  const count = meta.names.length;
  const height = meta.height;
  const pen = fit(page, width, height);
  pen.font = `${count > 40 ? 8 : 11}px ${getComputedStyle(view.root).fontFamily}`;
  view.left = 12 + Math.max(...meta.names.map((n) => pen.measureText(`× ${n}`).width));
  const { left } = view;
  const room = width - left;
  const line = (height - 18) / count;
  const x = (s) => left + ((s - view.start) / view.span) * room;
  const end = Math.min(view.start + view.span, meta.seconds);
  pen.fillStyle = c.back;
  pen.fillRect(left, 0, room, height - 18);
  if (view.mark) {
    pen.fillStyle = c.primary;
    pen.globalAlpha = 0.14;
    const a = Math.max(left, x(view.mark[0]));
    pen.fillRect(a, 0, Math.max(0, Math.min(width, x(view.mark[1])) - a), height - 18);
    pen.globalAlpha = 1;
  }
  pen.fillStyle = c.text;
  pen.textBaseline = "middle";
  const step = [0.5, 1, 2, 5, 10, 30, 60, 300, 600].find((s) => view.span / s <= 12) ?? 1800;
  pen.textAlign = "center";
  for (let s = Math.ceil(view.start / step) * step; s <= end; s += step) {
    pen.globalAlpha = 0.15;
    pen.fillRect(x(s), 0, 1, height - 18);
    pen.globalAlpha = 0.75;
    pen.fillText(clock(s), Math.min(Math.max(x(s), left + 14), width - 16), height - 8);
  }
  pen.globalAlpha = 1;
  // One scale for all channels: at gain 1 a line is as high as LINE usual amplitudes. Each channel
  // is drawn round its own mean of the page, because a constant offset says nothing.
  const unit = (line / (view.usual * LINE)) * view.gain;
  const from = meta.first / meta.rate;
  const to = meta.last / meta.rate;
  const sharp = view.start >= from - 1e-6 && end <= to + 1e-6 && view.span <= 120;
  const held = meta.last - meta.first;
  pen.strokeStyle = c.text;
  pen.lineWidth = 0.8;
  pen.save();
  pen.beginPath();
  pen.rect(left, 0, room, height - 18);
  pen.clip();
  for (let k = 0; k < count; k++) {
    const base = line * (k + 0.5);
    const apart = meta.apart[k] && view.own[k] > 0;
    const factor = view.factors[k] * (apart ? (0.9 * line * view.gain) / view.own[k] : unit);
    pen.strokeStyle = shade(c, meta.states[k]);
    pen.beginPath();
    if (sharp) {
      const a = Math.max(0, Math.floor(view.start * meta.rate) - meta.first);
      const b = Math.min(held, Math.ceil(end * meta.rate) - meta.first + 1);
      const per = (b - a) / room;
      let sum = 0;
      for (let i = a; i < b; i++) sum += view.detail[k * held + i];
      const mean = sum / Math.max(1, b - a);
      if (per <= 3) {
        for (let i = a; i < b; i++) {
          pen.lineTo(x((i + meta.first) / meta.rate), base - (view.detail[k * held + i] - mean) * factor);
        }
      } else {
        for (let px = 0; px < room; px++) {
          let low = 32767;
          let high = -32768;
          const stop = Math.min(b, a + Math.ceil((px + 1) * per));
          for (let i = a + Math.floor(px * per); i < stop; i++) {
            const v = view.detail[k * held + i];
            if (v < low) low = v;
            if (v > high) high = v;
          }
          if (low <= high) { pen.moveTo(left + px, base - (low - mean) * factor); pen.lineTo(left + px, base - (high - mean) * factor - 0.5); }
        }
      }
    } else {
      const wide = meta.seconds / meta.bins;
      const a = Math.max(0, Math.floor(view.start / wide));
      const b = Math.min(meta.bins, Math.ceil(end / wide));
      let sum = 0;
      for (let i = a; i < b; i++) {
        const at = 2 * (k * meta.bins + i);
        sum += view.overview[at] + view.overview[at + 1];
      }
      const mean = sum / Math.max(1, 2 * (b - a));
      for (let i = a; i < b; i++) {
        const at = 2 * (k * meta.bins + i);
        const px = x((i + 0.5) * wide);
        pen.moveTo(px, base - (view.overview[at] - mean) * factor);
        pen.lineTo(px, base - (view.overview[at + 1] - mean) * factor - 0.5);
      }
    }
    pen.stroke();
  }
  pen.restore();
  pen.textAlign = "right";
  for (let k = 0; k < count; k++) {
    pen.fillStyle = shade(c, meta.states[k]);
    pen.fillText(SIGN[meta.states[k]] + meta.names[k], left - 6, line * (k + 0.5));
  }
  pen.fillStyle = c.text;
  pen.textAlign = "left";
  for (const [onset, duration, text] of meta.annotations) {
    if (onset > end || onset + duration < view.start) continue;
    const a = Math.max(left, x(onset));
    pen.fillStyle = c.primary;
    pen.fillRect(a, 0, Math.max(1.5, Math.min(width, x(onset + duration)) - a), 2);
    if (onset >= view.start) pen.fillText(text.slice(0, 40), a + 3, 9);
  }
  const scale = (LINE * view.usual) / view.gain;
  view.now.textContent = `${clock(view.start)} – ${clock(end)} · ${view.t("line")} ${scale.toFixed(0)} µV`;
  page.setAttribute("aria-label", `${view.t("label")} ${view.now.textContent}`);
  drawStrip(view, c, width);
  view.root.dataset.drawn = String(Number(view.root.dataset.drawn ?? 0) + 1);
  view.root.dataset.sharp = String(sharp);
  view.root.dataset.start = view.start.toFixed(2);
  view.root.dataset.milliseconds = (performance.now() - began).toFixed(1);
}

function drawStrip(view, c, width) {
  const { meta, strip } = view;
  const height = 46;
  const pen = fit(strip, width, height);
  const { left } = view;
  const room = width - left;
  pen.fillStyle = c.back;
  pen.fillRect(left, 0, room, height);
  pen.strokeStyle = c.text;
  pen.globalAlpha = 0.45;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let px = 0; px < room; px++) {
    const i = Math.min(view.power.length - 1, Math.floor((px / room) * view.power.length));
    const h = Math.min(1, view.power[i]) * (height / 2 - 3);
    pen.moveTo(left + px, height / 2 - h);
    pen.lineTo(left + px, height / 2 + h + 0.5);
  }
  pen.stroke();
  pen.globalAlpha = 1;
  const n = view.line.length;
  if (n) {
    pen.strokeStyle = c.primary;
    pen.lineWidth = 1.6;
    pen.beginPath();
    for (let i = 0; i < n; i++) pen.lineTo(left + ((i + 0.5) / n) * room, height - 4 - view.line[i] * (height - 8));
    pen.stroke();
  }
  const a = left + (view.start / meta.seconds) * room;
  const w = Math.max(4, (view.span / meta.seconds) * room);
  pen.fillStyle = c.primary;
  pen.globalAlpha = 0.18;
  pen.fillRect(a, 0, w, height);
  pen.globalAlpha = 1;
  pen.strokeStyle = c.primary;
  pen.lineWidth = 1.5;
  pen.strokeRect(a, 0.75, w, height - 1.5);
  strip.setAttribute("aria-valuemin", "0");
  strip.setAttribute("aria-valuemax", meta.seconds.toFixed(0));
  strip.setAttribute("aria-valuenow", view.start.toFixed(0));
  strip.setAttribute("aria-label", view.t("scrubber"));
}

/** Usual amplitude (µV, as a standard deviation), and the mean envelope over time for the strip. */
function measure(view) {
  const { meta, overview, factors, detail } = view;
  view.power = new Float32Array(meta.bins);
  const held = meta.last - meta.first;
  const step = Math.max(1, Math.floor(held / 1500));
  const sizes = [];
  view.own = [];
  for (let k = 0; k < meta.names.length; k++) {
    for (let i = 0; i < meta.bins; i++) {
      const at = 2 * (k * meta.bins + i);
      view.power[i] += (overview[at + 1] - overview[at]) * factors[k];
    }
    const some = [];
    for (let i = 0; i < held; i += step) some.push(detail[k * held + i]);
    const centre = middle(some);
    sizes.push(1.4826 * middle(some.map((v) => Math.abs(v - centre))) * factors[k]);
    // What is no EEG (a heartbeat, a trigger) fills its line by a scale of its own.
    view.own[k] = (Math.max(...some) - Math.min(...some)) * factors[k];
  }
  const eeg = sizes.filter((size, k) => size > 0 && !meta.apart[k]);
  view.usual = Math.max(1e-3, middle(eeg.length ? eeg : sizes) || 1);
  const top = [...view.power].sort((a, b) => a - b)[Math.floor(0.98 * meta.bins)] || 1;
  for (let i = 0; i < view.power.length; i++) view.power[i] /= top;
}

function middle(values) {
  return [...values].sort((a, b) => a - b)[values.length >> 1];
}

function controls(view) {
  view.tools.replaceChildren();
  const add = (name, options, value, change) => {
    const label = el("label", "", view.t(name));
    const select = el("select");
    for (const [text, v] of options) {
      const option = el("option", "", text);
      option.value = v;
      option.selected = Math.abs(v - value) < 1e-9;
      select.append(option);
    }
    select.onchange = () => change(Number(select.value));
    label.append(select);
    view.tools.append(label);
  };
  const spans = [2, 5, 10, 20, 30, 60, 300, 3600].filter((s) => s < view.meta.seconds);
  spans.push(view.meta.seconds);
  if (!spans.includes(view.span)) view.span = spans.find((s) => s >= 10) ?? spans.at(-1);
  add("page", spans.map((s) => [s < 120 ? `${Math.round(s)} s` : `${Math.round(s / 60)} min`, s]), view.span,
    (v) => { view.span = v; move(view, view.start); });
  add("gain", [0.25, 0.5, 1, 2, 4, 8].map((g) => [`× ${g}`, g]), view.gain, (v) => { view.gain = v; ask(view); });
  view.tools.append(view.now);
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  let view = views.get(parentElement);
  if (!view) {
    view = build(parentElement);
    views.set(parentElement, view);
  }
  const fresh = view.meta?.digest !== data.meta.digest;
  view.meta = data.meta;
  view.t = (name) => data.meta.texts[name] ?? name;
  view.send = setStateValue;
  view.toggle = setTriggerValue;
  for (const name of ["factors", "overview", "detail", "line", "times"]) {
    view[name] = data[name].getChildAt(0).toArray();
  }
  if (fresh) {
    view.start = 0;
    view.mark = null;
    measure(view);
  }
  controls(view);
  if (fresh && view.times.length) look(view, data.meta.window);
  ask(view);
  return () => {
    window.removeEventListener("crossfuse:pin", view.follow);
    view.size.disconnect();
    clearTimeout(view.wait);
    cancelAnimationFrame(view.frame);
    view.root.remove();
    views.delete(parentElement);
  };
}
