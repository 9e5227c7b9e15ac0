// What calibration remembers of the inputs that a product saw: statistics of their columns, and some of their rows.
import { transposed } from './matrix.ts';
import { createRangeObserver, type RangeKind, type RangeObserver } from './range-observers.ts';

export interface InputStatistics {
  readonly numRows: number;
  readonly columns: number;
  /** Of each column: the largest magnitude, the mean one, and the mean square. */
  readonly absmax: Float64Array;
  readonly meanAbs: Float64Array;
  readonly meanSquare: Float64Array;
  /** XᵀX / numRows, `[columns, columns]`; null unless asked for. */
  readonly gram: Float64Array | null;
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
  readonly hasGram: boolean;
  readonly range: RangeKind;
}

/** Rows whose products are summed before they join the Gram matrix. */
const GRAM_ROWS = 256;

export class InputObserver {
  readonly #options: ObserverOptions;
  readonly #absmax: Float64Array;
  readonly #sumAbs: Float64Array;
  readonly #sumSquares: Float64Array;
  readonly #gram: Float64Array | null;
  readonly #sample: Float32Array[] = [];
  readonly #sampleStep: number;
  readonly #range: RangeObserver;
  #numRows = 0;

  constructor(options: ObserverOptions) {
    const { columns, numRows, sampleSize, hasGram } = options;
    this.#options = options;
    this.#absmax = new Float64Array(columns);
    this.#sumAbs = new Float64Array(columns);
    this.#sumSquares = new Float64Array(columns);
    this.#gram = hasGram ? new Float64Array(columns * columns) : null;
    this.#sampleStep = Math.max(1, Math.ceil(numRows / sampleSize));
    this.#range = createRangeObserver(options.range);
  }

  /** Rows `[numRows, columns]`. */
  add(rows: Float32Array): void {
    const { columns } = this.#options;
    for (let start = 0; start < rows.length; start += columns) this.#addRow(rows, start);
    this.#range.add(rows);
    if (this.#gram === null) return;
    for (let start = 0; start < rows.length; start += GRAM_ROWS * columns) {
      addGram(this.#gram, rows.subarray(start, start + GRAM_ROWS * columns), columns);
    }
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
      meanSquare: this.#sumSquares.map((sum) => sum / numRows),
      gram: this.#gram && symmetric(this.#gram, columns, numRows),
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
      this.#sumSquares[column] += magnitude * magnitude;
    }
  }
}

/** Adds XᵀX to the lower triangle: by the turned rows, so that what is multiplied lies side by side. */
function addGram(gram: Float64Array, rows: Float32Array, columns: number): void {
  const numRows = rows.length / columns;
  const turned = transposed(rows, columns);
  for (let a = 0; a < columns; a++) {
    const at = a * numRows;
    let b = 0;
    for (; b + 4 <= a + 1; b += 4) {
      const [b0, b1, b2, b3] = [b * numRows, (b + 1) * numRows, (b + 2) * numRows, (b + 3) * numRows];
      let [sum0, sum1, sum2, sum3] = [0, 0, 0, 0];
      for (let i = 0; i < numRows; i++) {
        const x = turned[at + i];
        sum0 += x * turned[b0 + i];
        sum1 += x * turned[b1 + i];
        sum2 += x * turned[b2 + i];
        sum3 += x * turned[b3 + i];
      }
      gram[a * columns + b] += sum0;
      gram[a * columns + b + 1] += sum1;
      gram[a * columns + b + 2] += sum2;
      gram[a * columns + b + 3] += sum3;
    }
    for (; b <= a; b++) {
      let sum = 0;
      for (let i = 0; i < numRows; i++) sum += turned[at + i] * turned[b * numRows + i];
      gram[a * columns + b] += sum;
    }
  }
}

function symmetric(lower: Float64Array, columns: number, numRows: number): Float64Array {
  const gram = new Float64Array(lower.length);
  for (let a = 0; a < columns; a++) {
    for (let b = 0; b <= a; b++) {
      gram[a * columns + b] = gram[b * columns + a] = lower[a * columns + b] / numRows;
    }
  }
  return gram;
}
