// The view as one HTML file that needs no server: this very script, its style and its data.

import { xml } from "./dom.js";
import { source } from "./self.js";

const VARIABLES = [
  "background-color", "secondary-background-color", "text-color", "border-color", "primary-color", "font",
];

/** A page that shows the view as it stands now, alive. */
export async function livePage(view) {
  const style = getComputedStyle(view.root);
  const theme = VARIABLES.map((name) => {
    const value = style.getPropertyValue(`--st-${name}`).trim();
    return value ? `--st-${name}: ${value};` : "";
  }).join(" ");
  const { state, meta } = view;
  const now = {
    ...meta, report: false, settings: { ...state.settings }, resting: state.source,
    selection: null, pinned: state.pinned,
  };
  const places = {};
  const parts = [];
  let at = 0;
  for (const [name, array] of Object.entries(view.arrays)) {
    const room = Math.ceil(array.byteLength / 8) * 8;
    places[name] = [array.constructor.name, at, array.length];
    parts.push(array, new Uint8Array(room - array.byteLength));
    at += room;
  }
  const title = meta.title || view.t("view");
  return `<!doctype html>
<html lang="${xml(document.documentElement.lang || "en")}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>${xml(title)}</title>
<style>:root { ${theme.replaceAll("<", "")} color-scheme: ${view.theme.dark ? "dark" : "light"}; }
body { margin: 0 auto; padding: 28px; max-width: 1320px; background: var(--st-background-color);
color: var(--st-text-color); font-family: var(--st-font, sans-serif); } h1 { font-size: 22px; }</style>
</head><body><h1>${xml(title)}</h1><div id="place"></div>
<script type="module">
const places = ${json(places)};
const bytes = Uint8Array.from(atob("${await base64(parts)}"), (letter) => letter.charCodeAt(0));
const data = { meta: ${json(now)}, arrays: {} };
for (const [name, [type, at, length]] of Object.entries(places)) {
  data.arrays[name] = new globalThis[type](bytes.buffer, at, length);
}
const start = (${source()})();
const root = document.getElementById("place").attachShadow({ mode: "open" });
start({ data, parentElement: root, setStateValue() {} });
<\/script></body></html>
`;
}

/** JSON that cannot end the script it stands in. */
function json(value) {
  return JSON.stringify(value).replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028");
}

async function base64(parts) {
  const reader = new FileReader();
  const address = await new Promise((resolve, reject) => {
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(new Blob(parts));
  });
  return address.slice(address.indexOf(",") + 1);
}
