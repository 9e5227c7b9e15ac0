// A growable list of 32-bit integers: block tables and token streams that are copied into batches as whole runs.

export class Int32List {
  #data: Int32Array;
  #length = 0;

  constructor(capacity = 16) {
    this.#data = new Int32Array(capacity);
  }

  static from(values: Int32Array): Int32List {
    const list = new Int32List(values.length);
    list.append(values);
    return list;
  }

  get length(): number {
    return this.#length;
  }

  /** The elements `[start, end)`; a view, valid until the list next grows. */
  view(start = 0, end = this.#length): Int32Array {
    return this.#data.subarray(start, end);
  }

  at(index: number): number {
    return this.#data[index];
  }

  set(index: number, value: number): void {
    this.#data[index] = value;
  }

  push(value: number): void {
    this.#reserve(this.#length + 1);
    this.#data[this.#length++] = value;
  }

  append(values: Int32Array): void {
    this.#reserve(this.#length + values.length);
    this.#data.set(values, this.#length);
    this.#length += values.length;
  }

  truncate(length: number): void {
    this.#length = Math.min(this.#length, length);
  }

  #reserve(capacity: number): void {
    if (capacity <= this.#data.length) return;
    const grown = new Int32Array(Math.max(capacity, this.#data.length * 2, 16));
    grown.set(this.view());
    this.#data = grown;
  }
}
