// Arrays of the view's data: those that stand in it, and those that are fetched under an address.

const WAITS = [300, 1500, 4000]; // ms before each further try

/** Fetched arrays, kept while the data name their address. */
export class Files {
  constructor() {
    this.kept = new Map(); // address -> typed array, or the promise of one
  }

  /** {name: [type, address]} as {name: typed array}; a promise of it while some are on their way. */
  take(wanted) {
    const addresses = new Set(Object.values(wanted).map(([, address]) => address));
    for (const address of this.kept.keys()) if (!addresses.has(address)) this.kept.delete(address);
    for (const [type, address] of Object.values(wanted)) {
      if (!this.kept.has(address)) this.kept.set(address, this.bring(type, address));
    }
    const found = () => Object.fromEntries(
      Object.entries(wanted).map(([name, [, address]]) => [name, this.kept.get(address)]));
    const coming = Object.values(found()).filter((item) => item instanceof Promise);
    return coming.length ? Promise.all(coming).then(found) : found();
  }

  async bring(type, address) {
    try {
      const array = new globalThis[type](await fetched(address));
      if (this.kept.has(address)) this.kept.set(address, array);
      return array;
    } catch (error) {
      this.kept.delete(address);
      throw error;
    }
  }
}

/** The bytes under an address. A page that runs again takes its files away for a moment. */
async function fetched(address) {
  for (const wait of [...WAITS, null]) {
    // A range is not compressed, which would take longer than sending numbers as they are.
    const answer = await fetch(address, { headers: { Range: "bytes=0-" } });
    if (answer.ok) return answer.arrayBuffer();
    if (wait === null) throw new Error(`${answer.status} for ${address}`);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
  return null;
}

/** A typed array out of the base64 of its bytes. */
export function typed(type, text) {
  if (Uint8Array.fromBase64) return new globalThis[type](Uint8Array.fromBase64(text).buffer);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return new globalThis[type](bytes.buffer);
}
