// What an item of a geometry is called.

/** Label of one item of one geometry (not of a Joined as a whole). */
export function labelOf(geometry, item, t) {
  switch (geometry.kind) {
    case "words": return geometry.words[item];
    case "image_grid":
      return t("item_image_grid", {
        row: Math.floor(item / geometry.columns) + 1,
        column: (item % geometry.columns) + 1,
      });
    case "time_frequency": {
      const windows = geometry.times.length / 2;
      const window = item % windows;
      return t("item_time_frequency", {
        band: geometry.bands[Math.floor(item / windows)],
        start: short(geometry.times[2 * window]),
        end: short(geometry.times[2 * window + 1]),
      });
    }
    default:
      if (geometry.names) return geometry.names[item];
      return t(`item_${geometry.kind}`, { number: item + 1 });
  }
}

function short(number) {
  return String(Math.round(number * 1000) / 1000);
}

const RAISED = Object.fromEntries([..."-0123456789"].map((c, i) => [c, [..."⁻⁰¹²³⁴⁵⁶⁷⁸⁹"][i]]));

/** A weight as people read it: three significant digits. */
export function formatWeight(value) {
  if (value !== value) return "–";
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1000 || size < 1e-4) {
    const [digits, power] = value.toExponential(1).split("e");
    return `${digits}·10${[...power.replace("+", "")].map((c) => RAISED[c]).join("")}`;
  }
  if (size >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(size < 0.01 ? 2 : 3)));
}

/** A multiple of the uniform weight. */
export function formatTimes(value) {
  if (value !== value) return "–";
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
