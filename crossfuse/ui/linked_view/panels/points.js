// A point cloud that can be turned: points take the colour of their segment's weight.

import { Cloud, OrbitCamera } from "../js/cloud.js";
import { parseColour } from "../js/colours.js";
import { el } from "../js/dom.js";
import { canvasListbox } from "../js/keys.js";
import { canvasImage, rect, text } from "../js/svg.js";

const MODES = ["attention", "photo", "class", "confidence", "error"];
// Told apart by lightness too, for readers who do not see red and green.
const VERDICTS = { right: [70, 165, 140], wrong: [178, 34, 52], none: [150, 150, 150] };

/** Colour of a probability: from a dark purple to a light yellow-green. */
function sureness(v) {
  return [68 + 150 * v, 30 + 190 * v, 110 - 40 * v].map(Math.round);
}

export function create(root, ctx) {
  const tools = el("div", "segments point-tools");
  tools.setAttribute("role", "radiogroup");
  const cut = el("input", "point-cut");
  Object.assign(cut, { type: "range", min: "0.05", max: "1", step: "0.01" });
  const canvas = el("canvas");
  // One finger up or down scrolls the page, on a phone the cloud is as wide as the screen; sideways
  // it turns the cloud, and what follows is ours.
  canvas.style.touchAction = "pan-y";
  const hint = el("p", "caption point-hint");
  const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  const camera = new OrbitCamera();
  const cloud = gl ? new Cloud(gl) : null;
  let data = null;
  let mode = "attention";
  let last = null;
  let frame = 0;
  let moving = false;
  let turned = 0; // time of the last frame while the cloud was being turned
  let placed = ""; // where the cloud lies that the eye was last brought to

  root.append(el("div", "point-bar", tools, cut));
  const list = canvasListbox(root, ctx, { layout: () => ({ count: data?.count ?? 0, columns: 1 }) });
  list.element.append(canvas);
  const legend = el("div", "point-legend");
  root.append(legend, hint);

  // --- colours -------------------------------------------------------------------------------

  function chosenMode() {
    if (mode === "attention" && !last?.weights && last?.source === null) return "photo";
    return mode;
  }

  /** RGBA of every segment in the present mode. */
  function entries(picture) {
    const out = new Uint8Array(4 * data.count);
    const { predicted, confidence, palette } = data.arrays;
    const shown = chosenMode();
    for (let i = 0; i < data.count; i++) {
      let rgb = null;
      let alpha = 0;
      if (shown === "attention" && picture.weights) {
        const w = picture.weights[i];
        if (w === w) { rgb = picture.scale.rgb(w); alpha = 0.25 + 0.75 * Math.sqrt(picture.scale.strength(w)); }
      } else if (shown === "class" && predicted) {
        rgb = palette.subarray(3 * predicted[i], 3 * predicted[i] + 3);
        alpha = 0.85;
      } else if (shown === "confidence" && confidence) {
        rgb = sureness(confidence[i]);
        alpha = 0.85;
      }
      if (i === picture.source) {
        const mark = parseColour(ctx.theme.primary);
        // Where colours mean classes, the marked piece keeps half of its own.
        rgb = rgb && shown !== "attention" ? mark.map((v, k) => (v + rgb[k]) / 2) : mark;
        alpha = 1;
      }
      else if (i === picture.marked) { rgb = [255, 255, 255]; alpha = 0.8; }
      if (rgb) { out.set(rgb, 4 * i); out[4 * i + 3] = Math.round(255 * alpha); }
    }
    return out;
  }

  /** What the colours of the present mode mean. */
  function explain() {
    const { predicted, palette } = data.arrays;
    const shown = chosenMode();
    const key = (colour, words, className = "") => {
      const patch = el("i", className);
      patch.style.background = colour;
      return el("span", "", patch, words);
    };
    const css = (rgb) => `rgb(${[...rgb].join(",")})`;
    let keys = [ctx.t("points_legend_file")];
    if (shown === "class") {
      keys = [...new Set(predicted)].sort((a, b) => a - b).map(
        (c) => key(css(palette.subarray(3 * c, 3 * c + 3)), data.options.classes[c]));
    } else if (shown === "confidence") {
      const ramp = [0, 0.5, 1].map((v) => css(sureness(v))).join(",");
      keys = [ctx.t("points_legend_low"), key(`linear-gradient(90deg,${ramp})`, ctx.t("points_legend_high"), "wide")];
    } else if (shown === "error") {
      keys = Object.entries(VERDICTS).map(([name, rgb]) => key(css(rgb), ctx.t(`points_legend_${name}`)));
    } else if (shown === "attention") keys = [el("span", "caption", ctx.t("points_legend_attention"))];
    legend.replaceChildren(...keys);
    legend.dataset.mode = shown;
  }

  /** Points coloured by whether their label was found: green, red, grey where there is none. */
  function errors() {
    const { labels, predicted, segment, colour } = data.arrays;
    const out = new Uint8Array(colour.length);
    for (let i = 0; i < segment.length; i++) {
      const { right, wrong, none } = VERDICTS;
      const rgb = labels[i] === 255 ? none : labels[i] === predicted[segment[i]] ? right : wrong;
      out.set(rgb, 4 * i);
      out[4 * i + 3] = 255;
    }
    return out;
  }

  // --- drawing -------------------------------------------------------------------------------

  function fit() {
    const ratio = canvas.ratio ?? Math.min(window.devicePixelRatio || 1, 2);
    const width = ctx.width();
    const height = Math.min(ctx.height(), Math.max(240, Math.round(width * 0.72)));
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }

  /** Draw from the start, as many points a frame as the card manages in time. While the cloud is
   *  turned every frame starts anew, and the time since the one before tells how many. */
  function redraw() {
    if (!cloud || !data) return;
    cancelAnimationFrame(frame);
    let from = 0;
    let before = 0;
    const step = (now) => {
      before ||= moving ? turned : 0;
      if (before && now - before > 45) cloud.budget = Math.max(20_000, cloud.budget * 0.6);
      else if (before && now - before < 22) cloud.budget = Math.min(2_000_000, cloud.budget * 1.4);
      before = now;
      turned = moving ? now : 0;
      const to = Math.min(cloud.count, from + Math.round(cloud.budget));
      cloud.draw(camera, parseColour(ctx.theme.background), from, to);
      from = to;
      canvas.dataset.drawn = String(to);
      if (from < cloud.count && !moving) frame = requestAnimationFrame(step);
    };
    frame = requestAnimationFrame(step);
  }

  /** Everything at once: for saved pictures. */
  function drawWhole() {
    fit();
    cancelAnimationFrame(frame);
    cloud?.draw(camera, parseColour(ctx.theme.background), 0, cloud.count);
    frame = 0;
    if (canvas.ratio === undefined) redraw();
  }

  // --- gestures ------------------------------------------------------------------------------

  const touches = new Map();
  let pressed = null;
  let asked = 0;

  function itemAt(event) {
    const box = canvas.getBoundingClientRect();
    const ratio = canvas.width / box.width;
    return cloud?.pick(camera, (event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio) ?? null;
  }

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    touches.set(event.pointerId, [event.clientX, event.clientY]);
    pressed = { x: event.clientX, y: event.clientY, far: false, pan: event.button === 2 || event.shiftKey };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!touches.has(event.pointerId)) {
      if (asked || event.pointerType === "touch") return;
      asked = requestAnimationFrame(() => { asked = 0; ctx.hover(itemAt(event)); });
      return;
    }
    const [x, y] = touches.get(event.pointerId);
    const [dx, dy] = [event.clientX - x, event.clientY - y];
    if (Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > 4) pressed.far = true;
    if (!pressed.far) return;
    moving = true;
    if (touches.size === 2) {
      const other = [...touches].find(([id]) => id !== event.pointerId)[1];
      const before = Math.hypot(x - other[0], y - other[1]);
      const after = Math.hypot(event.clientX - other[0], event.clientY - other[1]);
      camera.zoom(before / Math.max(after, 1));
      camera.pan(dx / (2 * canvas.clientHeight), dy / (2 * canvas.clientHeight));
    } else if (pressed.pan) camera.pan(dx / canvas.clientHeight, dy / canvas.clientHeight);
    else camera.turn(dx * 0.008, dy * 0.008);
    touches.set(event.pointerId, [event.clientX, event.clientY]);
    redraw();
  });
  const release = (event) => {
    if (!touches.delete(event.pointerId)) return;
    moving = false;
    if (event.type === "pointerup" && pressed && !pressed.far) {
      const item = itemAt(event);
      if (item !== null) ctx.pin(item);
    }
    redraw();
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { if (!touches.size) ctx.hover(null); });
  canvas.addEventListener("dblclick", () => { camera.home(data.options.extent); redraw(); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    camera.zoom(Math.exp(event.deltaY * 0.0012));
    redraw();
  }, { passive: false });
  list.element.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const steps = {
      a: () => camera.turn(-0.12, 0), d: () => camera.turn(0.12, 0),
      w: () => camera.turn(0, 0.1), s: () => camera.turn(0, -0.1),
      A: () => camera.pan(0.06, 0), D: () => camera.pan(-0.06, 0),
      W: () => camera.pan(0, 0.06), S: () => camera.pan(0, -0.06),
      "+": () => camera.zoom(0.88), "=": () => camera.zoom(0.88), "-": () => camera.zoom(1.14),
      0: () => camera.home(data.options.extent),
    };
    if (!steps[event.key]) return;
    steps[event.key]();
    event.preventDefault();
    redraw();
  });
  cut.oninput = () => { cloud.cut = Number(cut.value); redraw(); };

  function buildTools() {
    const offered = MODES.filter((m) => (m !== "error" || data.options.labelled)
      && (m !== "class" && m !== "confidence" || data.arrays.predicted));
    if (!offered.includes(mode)) [mode] = offered;
    tools.replaceChildren(...offered.map((name) => {
      const button = el("button", "", ctx.t(`points_${name}`));
      button.type = "button";
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", String(name === mode));
      button.dataset.mode = name;
      button.onclick = () => { mode = name; buildTools(); recolour(); };
      return button;
    }));
    tools.setAttribute("aria-label", ctx.t("points_colour"));
    cut.title = ctx.t("points_cut");
    cut.setAttribute("aria-label", ctx.t("points_cut"));
  }

  function recolour() {
    if (!cloud || !last) return;
    const shown = chosenMode();
    cloud.paintPoints(shown === "error" ? errors() : null);
    cloud.grey = shown === "attention" && last.weights ? 0.75 : 0;
    cloud.paintSegments(entries(last));
    explain();
    redraw();
  }

  return {
    update(next) {
      const fresh = !data || next.arrays.place !== data.arrays.place;
      data = next;
      if (!cloud) { hint.textContent = ctx.t("points_no_webgl"); return; }
      if (fresh) {
        cloud.load({ ...data.arrays, extent: data.options.extent });
        // The eye stays where it is while labels change, and goes home for another cloud.
        const place = [...data.options.low, ...data.options.extent].join(" ");
        if (place !== placed) {
          camera.home(data.options.extent);
          if (!placed) mode = data.options.colour;
          cut.value = String(data.options.cut);
          cloud.cut = data.options.cut;
          placed = place;
        }
      }
      hint.textContent = ctx.t("points_hint", { count: data.options.count.toLocaleString() });
      list.element.setAttribute("aria-label", data.title || ctx.t("panel_points"));
      buildTools();
    },
    paint(picture) {
      last = picture;
      if (!cloud) return;
      if (!canvas.width || canvas.clientWidth !== ctx.width()) fit();
      recolour();
      list.say(picture.source ?? picture.marked, picture.pinned);
    },
    resize() { fit(); redraw(); },
    svg() {
      const { body, element } = canvasImage(canvas, drawWhole);
      const origin = canvas.getBoundingClientRect();
      const keys = [...legend.querySelectorAll("span")].filter((key) => key.querySelector("i")).map((key) => {
        const patch = key.querySelector("i");
        const box = patch.getBoundingClientRect();
        const [x, y] = [box.left - origin.left, box.top - origin.top];
        const flat = !patch.classList.contains("wide");
        return rect(x, y, box.width, box.height, { fill: flat ? patch.style.background : "none", radius: 3 })
          + text(x + box.width + 6, y + box.height - 1, key.textContent, { fill: ctx.theme.text });
      });
      return { body: body + keys.join(""), element };
    },
    dispose() {
      cancelAnimationFrame(frame);
      cancelAnimationFrame(asked);
      list.dispose();
      cloud?.dispose();
    },
  };
}
