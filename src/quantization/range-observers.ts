// How large a tensor's values get, as seen piece by piece: what one static scale for all of them follows from.

export interface RangeObserver {
  add(values: Float32Array): void;
  /** The magnitude that the largest code shall stand for. */
  range(): number;
}

/** `absmax`: the largest magnitude; `moving`: a moving average of each piece's; a number: that percentile of all magnitudes. */
export type RangeKind = 'absmax' | 'moving' | { readonly percentile: number };

export function createRangeObserver(kind: RangeKind): RangeObserver {
  if (kind === 'absmax') return new AbsmaxObserver();
  return kind === 'moving' ? new MovingObserver() : new PercentileObserver(kind.percentile);
}

class AbsmaxObserver implements RangeObserver {
  #absmax = 0;

  add(values: Float32Array): void {
    this.#absmax = Math.max(this.#absmax, absmaxOf(values));
  }

  range(): number {
    return this.#absmax;
  }
}

/** What the average keeps of itself when a piece is added. */
const MOMENTUM = 0.9;

class MovingObserver implements RangeObserver {
  #average: number | null = null;

  add(values: Float32Array): void {
    const absmax = absmaxOf(values);
    this.#average = this.#average === null ? absmax : MOMENTUM * this.#average + (1 - MOMENTUM) * absmax;
  }

  range(): number {
    return this.#average ?? 0;
  }
}

const NUM_BINS = 4096;

/** A histogram of magnitudes, whose bins double in width when a value lies beyond the last. */
class PercentileObserver implements RangeObserver {
  readonly #percentile: number;
  #counts = new Float64Array(NUM_BINS);
  #width = 0;
  #total = 0;

  constructor(percentile: number) {
    this.#percentile = percentile;
  }

  add(values: Float32Array): void {
    const absmax = absmaxOf(values);
    if (this.#width === 0) this.#width = absmax / NUM_BINS;
    while (absmax > this.#width * NUM_BINS) this.#widen();
    this.#total += values.length;
    if (this.#width === 0) return;
    for (const value of values) {
      this.#counts[Math.min(NUM_BINS - 1, Math.floor(Math.abs(value) / this.#width))]++;
    }
  }

  /** The upper end of the bin that the percentile falls into. */
  range(): number {
    const wanted = (this.#percentile / 100) * this.#total;
    let count = this.#total - this.#counts.reduce((sum, binCount) => sum + binCount, 0);
    let bin = 0;
    for (; bin < NUM_BINS && count < wanted; bin++) count += this.#counts[bin];
    return bin * this.#width;
  }

  #widen(): void {
    const counts = new Float64Array(NUM_BINS);
    this.#counts.forEach((count, bin) => (counts[bin >> 1] += count));
    this.#counts = counts;
    this.#width *= 2;
  }
}

function absmaxOf(values: Float32Array): number {
  let absmax = 0;
  for (let i = 0; i < values.length; i++) absmax = Math.max(absmax, Math.abs(values[i]));
  return absmax;
}
