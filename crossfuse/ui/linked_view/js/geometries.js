// Geometries as they arrive: their fields and arrays put together, and places compared.

/** The item of `to` that lies where an item of `from` lies; by rank where there is no place. */
export function counterpart(from, to, item) {
  if (from.parts && to.parts?.length === from.parts.length) {
    const index = from.parts.findLastIndex((part) => part.offset <= item);
    const [part, other] = [from.parts[index], to.parts[index]];
    return other.offset + counterpart(part, other, item - part.offset);
  }
  if (from.kind === "image_grid" && to.kind === "image_grid") {
    const place = [0, 1].map((axis) => {
      const share = from.centres[2 * item + axis] / from.image_size[axis];
      const first = to.centres[axis] - to.cell[axis] / 2;
      return Math.floor((share * to.image_size[axis] - first) / to.cell[axis]);
    });
    const column = Math.min(to.columns - 1, Math.max(0, place[0]));
    const row = Math.min(to.rows - 1, Math.max(0, place[1]));
    return row * to.columns + column;
  }
  return from.count === to.count ? item : Math.floor((item / from.count) * to.count);
}

/** A packed geometry with its fields and arrays as properties. */
export function withArrays(packed, arrays, prefix) {
  const g = { ...packed.fields, ...packed, parts: undefined };
  for (const name of Object.keys(packed.shapes)) g[name] = arrays[prefix + name];
  if (packed.parts) {
    let offset = 0;
    g.parts = packed.parts.map((part, i) => {
      const full = { ...withArrays(part, arrays, `${prefix}${i}.`), offset };
      offset += full.count;
      return full;
    });
  }
  return g;
}
