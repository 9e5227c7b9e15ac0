// Small arrays that launches of a plan read, or write and leave as they were: equal ones lie on the device once.
import type { Address } from '../../ffi/native-memory.ts';

/**
 * A plan's launches run one after the other and touch them behind the one ahead's end, so that even flags, which a kernel
 * sets and clears, may be all launches' own: one for each layer would be megabytes that no ledger counts.
 */
export class LaunchConstants {
  readonly #upload: (bytes: Uint8Array) => Address;
  readonly #known = new Map<string, Address>();

  constructor(upload: (bytes: Uint8Array) => Address) {
    this.#upload = upload;
  }

  place(values: Float32Array): Address {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    const key = Buffer.from(bytes).toString('base64');
    const address = this.#known.get(key) ?? this.#upload(bytes);
    this.#known.set(key, address);
    return address;
  }
}
