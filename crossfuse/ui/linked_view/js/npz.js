// Writing .npz in the browser: .npy arrays in a stored (uncompressed) zip.

const CRC = new Uint32Array(256).map((_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = ~0;
  for (let i = 0; i < bytes.length; i++) crc = CRC[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

const TYPES = new Map([
  [Float32Array, "<f4"], [Float64Array, "<f8"], [Int32Array, "<i4"], [Uint16Array, "<u2"],
  [Uint8Array, "|u1"],
]);

/**
 * One array as the bytes of a .npy file (format 1.0, C order); a string becomes a 0-d array.
 * `type` overrides the type that the array's class tells (float16 bits come as Uint16Array).
 */
export function npy(array, shape, type) {
  let descr;
  let body;
  if (typeof array === "string") {
    const points = Uint32Array.from([...array], (c) => c.codePointAt(0));
    descr = `<U${points.length || 1}`;
    body = new Uint8Array(points.length ? points.buffer : new ArrayBuffer(4));
    shape = [];
  } else {
    descr = type ?? TYPES.get(array.constructor);
    if (!descr) throw new TypeError(`no .npy type for ${array.constructor.name}`);
    body = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  }
  const tuple = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const text = `{'descr': '${descr}', 'fortran_order': False, 'shape': ${tuple}, }`;
  const length = Math.ceil((10 + text.length + 1) / 64) * 64 - 10;
  const out = new Uint8Array(10 + length + body.length);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0, length & 255, length >> 8]);
  out.set(new TextEncoder().encode(`${text.padEnd(length - 1)}\n`), 10);
  out.set(body, 10 + length);
  return out;
}

/** [[name, bytes]] -> a zip file with stored members. */
export function zip(members) {
  const encoder = new TextEncoder();
  const local = [];
  const central = [];
  let offset = 0;
  for (const [name, bytes] of members) {
    const label = encoder.encode(name);
    const sum = crc32(bytes);
    const shared = [
      u16(20), u16(0x0800), u16(0), u16(0), u16(0x21), u32(sum), u32(bytes.length),
      u32(bytes.length), u16(label.length), u16(0),
    ];
    const head = join([u32(0x04034b50), ...shared, label]);
    local.push(head, bytes);
    central.push(join([
      u32(0x02014b50), u16(20), ...shared, u16(0), u16(0), u16(0), u32(0), u32(offset), label,
    ]));
    offset += head.length + bytes.length;
  }
  const directory = join(central);
  const end = join([
    u32(0x06054b50), u16(0), u16(0), u16(members.length), u16(members.length),
    u32(directory.length), u32(offset), u16(0),
  ]);
  return join([...local, directory, end]);
}

const u16 = (n) => new Uint8Array([n & 255, (n >> 8) & 255]);
const u32 = (n) => new Uint8Array([n & 255, (n >>> 8) & 255, (n >>> 16) & 255, n >>> 24]);

function join(parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { out.set(part, at); at += part.length; }
  return out;
}
