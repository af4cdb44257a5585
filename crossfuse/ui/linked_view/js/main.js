// The component's entry: Streamlit calls the default function when data or theme change.

import { View } from "./view.js";

const views = new WeakMap();

export default function ({ data, parentElement, setStateValue }) {
  if (!data) return undefined; // only to have this script loaded in time
  let view = views.get(parentElement);
  if (!view) {
    view = new View(parentElement);
    views.set(parentElement, view);
  }
  view.update({ data, setStateValue });
  return () => {
    view.dispose();
    views.delete(parentElement);
  };
}
