// Values of a model for every token of a text, kept from one reading of it for the next.
import type { Value } from '../ir/graph.ts';
import type { Tensors } from '../quantization/calibrate.ts';
import type { TensorFacts, TensorView } from '../tensor/tensor-source.ts';
import { valueName, type KnownValue } from './slice-graph.ts';

export class KnownRows {
  readonly values: readonly KnownValue[];
  readonly #rows = new Map<string, Float32Array>();

  /** `values`: `[numTokens, columns]`. */
  constructor(values: readonly Value[], numRows: number) {
    this.values = values.map((value) => ({ value, numRows }));
    for (const value of values) {
      this.#rows.set(valueName(value.id), new Float32Array(numRows * (value.type.shape[1] as number)));
    }
  }

  /** Rows of the value from row `start` on. */
  set({ id, type: { shape } }: Value, start: number, rows: Float32Array): void {
    this.#rows.get(valueName(id))!.set(rows, start * (shape[1] as number));
  }

  /** A model's tensors, and a further one for each value. */
  beside({ source, catalog }: Tensors): Tensors {
    const views = new Map(this.values.map(({ value }) => [valueName(value.id), this.#view(value)]));
    return {
      source: { read: (name) => views.get(name) ?? source.read(name), close: () => source.close() },
      catalog: new Map<string, TensorFacts>([
        ...catalog,
        ...[...views].map(([name, { dtype, shape }]) => [name, { dtype, shape }] as const),
      ]),
    };
  }

  #view({ id, type: { shape } }: Value): TensorView {
    const rows = this.#rows.get(valueName(id))!;
    const columns = shape[1] as number;
    const bytes = new Uint8Array(rows.buffer);
    return { dtype: 'float32', shape: [rows.length / columns, columns], bytes };
  }
}
