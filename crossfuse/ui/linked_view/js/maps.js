// Attention maps in the browser: rows, columns, ranges, entropy, from arrays sent once.

let halves = null;

/** 65,536 float32 values, one for each float16 bit pattern. */
function halfTable() {
  if (halves) return halves;
  halves = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) halves[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) halves[bits] = fraction ? NaN : sign * Infinity;
    else halves[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return halves;
}

export const MEAN = -1;

/** One map: `values` is (heads, rows, columns), float32 or float16 bits; head MEAN = their mean. */
export class AttentionMap {
  constructor(meta, values, queries) {
    Object.assign(this, meta); // id stage layer direction query key kind heads rows columns items
    this.queries = queries; // number of query items; `rows` of them are held
    this.values = values;
    this.table = meta.half ? halfTable() : null;
    this.index = meta.items ? new Map(meta.items.map((item, row) => [item, row])) : null;
    this.cache = new Map();
  }

  get complete() { return this.index === null; }

  /** Where query item lies among the held rows; -1 if it is not held. */
  rowOf(item) {
    if (this.index === null) return item;
    return this.index.has(item) ? this.index.get(item) : -1;
  }

  value(head, row, column) {
    if (row < 0) return NaN;
    if (head === MEAN) {
      let sum = 0;
      for (let h = 0; h < this.heads.length; h++) sum += this.value(h, row, column);
      return sum / this.heads.length;
    }
    const v = this.values[(head * this.rows + row) * this.columns + column];
    return this.table ? this.table[v] : v;
  }

  /** Weights of one query item over all keys, or null if that row is not held. */
  row(head, item) {
    const row = this.rowOf(item);
    if (row < 0) return null;
    const out = new Float32Array(this.columns);
    const chosen = head === MEAN ? this.heads.map((_, h) => h) : [head];
    for (const h of chosen) {
      const start = (h * this.rows + row) * this.columns;
      for (let c = 0; c < this.columns; c++) {
        const v = this.values[start + c];
        out[c] += this.table ? this.table[v] : v;
      }
    }
    if (chosen.length > 1) for (let c = 0; c < out.length; c++) out[c] /= chosen.length;
    return out;
  }

  /** Weights that every query item gives to one key; NaN where a row is not held. */
  column(head, item) {
    const out = new Float32Array(this.queries).fill(this.complete ? 0 : NaN);
    for (let row = 0; row < this.rows; row++) {
      out[this.index ? this.items[row] : row] = this.value(head, row, item);
    }
    return out;
  }

  /** The held rows of one head as one float32 matrix. */
  matrix(head) {
    const size = this.rows * this.columns;
    if (head !== MEAN && !this.table) return this.values.subarray(head * size, (head + 1) * size);
    return this.remember(`matrix ${head}`, () => {
      const out = new Float32Array(size);
      const chosen = head === MEAN ? this.heads.map((_, h) => h) : [head];
      for (const h of chosen) {
        const start = h * size;
        if (this.table) for (let i = 0; i < size; i++) out[i] += this.table[this.values[start + i]];
        else for (let i = 0; i < size; i++) out[i] += this.values[start + i];
      }
      if (chosen.length > 1) for (let i = 0; i < size; i++) out[i] /= chosen.length;
      return out;
    });
  }

  /** {max, clip}: largest size of a weight and its 99th percentile over the held rows. */
  range(head) {
    return this.remember(`range ${head}`, () => rangeOf(this.matrix(head)));
  }

  remember(key, make) {
    if (!this.cache.has(key)) {
      // Matrices are large: keep few of them.
      if (key.startsWith("matrix")) {
        const old = [...this.cache.keys()].filter((k) => k.startsWith("matrix"));
        if (old.length > 3) this.cache.delete(old[0]);
      }
      this.cache.set(key, make());
    }
    return this.cache.get(key);
  }
}

export function rangeOf(values) {
  let max = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]);
    if (size > max && size < Infinity) max = size;
  }
  // The percentile by histogram: exact to 1/4096 of the largest weight, and one pass.
  const bins = new Uint32Array(4097);
  let count = 0;
  if (max > 0) {
    for (let i = 0; i < values.length; i++) {
      const size = Math.abs(values[i]);
      if (size <= max) { bins[Math.ceil((size / max) * 4096)]++; count++; }
    }
  }
  let seen = 0;
  let bin = 0;
  while (bin < 4096 && seen + bins[bin] < 0.99 * count) seen += bins[bin++];
  return { max, clip: Math.max((bin / 4096) * max, max / 4096) };
}

/** {entropy, uniform} in nats of one row of weights (made to sum to 1 first). */
export function entropyOf(weights) {
  let sum = 0;
  let n = 0;
  for (const w of weights) if (w >= 0) { sum += w; n++; }
  let entropy = 0;
  if (sum > 0) for (const w of weights) if (w > 0) entropy -= (w / sum) * Math.log(w / sum);
  return { entropy, uniform: Math.log(n) };
}

/** Indices of the k largest sizes, strongest first. */
export function strongest(weights, k) {
  const best = [];
  for (let i = 0; i < weights.length; i++) {
    const size = Math.abs(weights[i]);
    if (!(size > 0)) continue;
    if (best.length < k || size > Math.abs(weights[best[best.length - 1]])) {
      let at = best.length;
      while (at > 0 && size > Math.abs(weights[best[at - 1]])) at--;
      best.splice(at, 0, i);
      if (best.length > k) best.pop();
    }
  }
  return best;
}

/** Means over blocks of a matrix, so that no side is longer than `longest`. */
export function pool(values, rows, columns, longest) {
  const down = Math.ceil(rows / longest);
  const across = Math.ceil(columns / longest);
  if (down === 1 && across === 1) return { values, rows, columns };
  const outRows = Math.ceil(rows / down);
  const outColumns = Math.ceil(columns / across);
  const sums = new Float32Array(outRows * outColumns);
  const counts = new Float32Array(outRows * outColumns);
  for (let r = 0; r < rows; r++) {
    const start = Math.floor(r / down) * outColumns;
    for (let c = 0; c < columns; c++) {
      const to = start + Math.floor(c / across);
      sums[to] += values[r * columns + c];
      counts[to]++;
    }
  }
  for (let i = 0; i < sums.length; i++) sums[i] /= counts[i];
  return { values: sums, rows: outRows, columns: outColumns };
}
