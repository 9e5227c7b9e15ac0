// What calibration remembers of the inputs that a product saw: statistics of their columns, and some of their rows.
import { createRangeObserver, type RangeKind, type RangeObserver } from './range-observers.ts';

export interface InputStatistics {
  readonly numRows: number;
  readonly columns: number;
  /** Of each column: the largest magnitude, and the mean one. */
  readonly absmax: Float64Array;
  readonly meanAbs: Float64Array;
  /** Rows evenly spread over all that were seen. */
  readonly sample: Float32Array; // [numSampled, columns]
  /** The magnitude that a static scale of the whole tensor is made for. */
  readonly range: number;
}

export interface ObserverOptions {
  readonly columns: number;
  /** Rows that will be seen in all. */
  readonly numRows: number;
  readonly sampleSize: number;
  readonly range: RangeKind;
}

export class InputObserver {
  readonly #options: ObserverOptions;
  readonly #absmax: Float64Array;
  readonly #sumAbs: Float64Array;
  readonly #sample: Float32Array[] = [];
  readonly #sampleStep: number;
  readonly #range: RangeObserver;
  #numRows = 0;

  constructor(options: ObserverOptions) {
    const { columns, numRows, sampleSize } = options;
    this.#options = options;
    this.#absmax = new Float64Array(columns);
    this.#sumAbs = new Float64Array(columns);
    this.#sampleStep = Math.max(1, Math.ceil(numRows / sampleSize));
    this.#range = createRangeObserver(options.range);
  }

  /** Rows `[numRows, columns]`. */
  add(rows: Float32Array): void {
    const { columns } = this.#options;
    for (let start = 0; start < rows.length; start += columns) this.#addRow(rows, start);
    this.#range.add(rows);
  }

  statistics(): InputStatistics {
    const { columns } = this.#options;
    const numRows = this.#numRows;
    const sample = new Float32Array(this.#sample.length * columns);
    this.#sample.forEach((row, i) => sample.set(row, i * columns));
    return {
      numRows,
      columns,
      absmax: this.#absmax,
      meanAbs: this.#sumAbs.map((sum) => sum / numRows),
      sample,
      range: this.#range.range(),
    };
  }

  #addRow(rows: Float32Array, start: number): void {
    const { columns } = this.#options;
    if (this.#numRows % this.#sampleStep === 0) this.#sample.push(rows.slice(start, start + columns));
    this.#numRows++;
    for (let column = 0; column < columns; column++) {
      const magnitude = Math.abs(rows[start + column]);
      if (magnitude > this.#absmax[column]) this.#absmax[column] = magnitude;
      this.#sumAbs[column] += magnitude;
    }
  }
}
