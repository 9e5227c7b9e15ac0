// Writes C structs field by field, little-endian, in the order of their declaration.

export class StructWriter {
  readonly bytes: Uint8Array;
  readonly #data: DataView;
  #at = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#data = new DataView(this.bytes.buffer);
  }

  get position(): number {
    return this.#at;
  }

  /** Continue at byte `position`; what was skipped stays zero. */
  seek(position: number): void {
    this.#at = position;
  }

  int32(...values: readonly number[]): void {
    for (const value of values) this.#data.setInt32(this.#take(4), value, true);
  }

  /** Also for addresses. */
  int64(...values: readonly number[]): void {
    for (const value of values) this.#data.setBigInt64(this.#take(8), BigInt(value), true);
  }

  float32(...values: readonly number[]): void {
    for (const value of values) this.#data.setFloat32(this.#take(4), value, true);
  }

  float64(...values: readonly number[]): void {
    for (const value of values) this.#data.setFloat64(this.#take(8), value, true);
  }

  #take(size: number): number {
    const at = this.#at;
    this.#at += size;
    return at;
  }
}
