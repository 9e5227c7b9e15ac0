// Has a model read the calibration text on the engine's device, in floats or quantized in part, and sums up on the cpu what
// its products read.
import { CpuDevice } from '../device/cpu/cpu-device.ts';
import { createDevice } from '../device/create-device.ts';
import type { Device } from '../device/device.ts';
import type { Value } from '../ir/graph.ts';
import type {
  CalibrationStatistics,
  CalibrationSubject,
  Tensors,
  TextReader,
} from '../quantization/calibrate.ts';
import { CrossGram } from '../quantization/gram.ts';
import { InputObserver } from '../quantization/input-statistics.ts';
import { columnsOf, inputsOf, type Product } from '../quantization/products.ts';
import type { RangeKind } from '../quantization/range-observers.ts';
import { isComparable, residualOf, valuesBefore, type StageDrift } from '../quantization/stages.ts';
import { PLAIN_MATH, type CalibrationMath } from '../tensor/calibration-math.ts';
import { KnownRows } from './known-rows.ts';
import { readObserved, type Observed, type ReadingOptions } from './observed-reading.ts';
import { sliceGraph } from './slice-graph.ts';

export interface ReaderOptions extends ReadingOptions {
  readonly subject: CalibrationSubject;
  /** What static scales are made for. */
  readonly range: RangeKind;
}

/** Rows of each input that searches try candidates on. */
const SAMPLE_SIZE = 512;

export class CalibrationReader implements TextReader {
  readonly math: CalibrationMath;
  readonly #options: ReaderOptions;
  readonly #device: Device;
  /** Multiplies matrices; null where the reference interpreter was asked for. */
  readonly #cpu: CpuDevice | null;
  readonly #numTokens: number;
  readonly #productsRead = new Set<Product>();
  /** What the last stage left of the float model and of the quantized one. */
  #known: readonly [KnownRows, KnownRows] | null = null;

  private constructor(options: ReaderOptions, device: Device, cpu: CpuDevice | null) {
    this.#options = options;
    this.#device = device;
    this.#cpu = cpu;
    this.#numTokens = options.windows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    this.math = cpu?.calibrationMath ?? PLAIN_MATH;
  }

  static async open(options: ReaderOptions): Promise<CalibrationReader> {
    const { config } = options;
    const device = await createDevice(config.device, config);
    try {
      if (device.target.kind === 'reference') return new CalibrationReader(options, device, null);
      const cpu = device instanceof CpuDevice ? device : await CpuDevice.open(config);
      return new CalibrationReader(options, device, cpu);
    } catch (error) {
      await device.dispose();
      throw error;
    }
  }

  async readStatistics(): Promise<CalibrationStatistics> {
    const { subject, range } = this.#options;
    const inputs = inputsOf(subject.products);
    const observers = inputs.map(({ value, columns }) => {
      const numRows = (this.#numTokens * (value.type.shape[1] as number)) / columns;
      return new InputObserver({ columns, numRows, sampleSize: SAMPLE_SIZE, range });
    });
    const values = inputs.map(({ value }) => value);
    const look = async ([observed]: readonly Observed[]): Promise<void> => {
      for (const [i, { value }] of inputs.entries()) observers[i].add(observed(value));
    };
    await readObserved([{ tensors: subject, known: null }], values, this.#device, this.#options, look);
    return new Map(inputs.map(({ value }, i) => [value.id, observers[i].statistics()]));
  }

  async readDrift(stage: readonly Product[], floats: Tensors, quantized: Tensors): Promise<StageDrift> {
    const { index } = this.#options.subject;
    const inputs = inputsOf(stage).map(({ value, columns }) => {
      const [gram, drift] = [0, 1].map(() => new CrossGram(columns, columns, this.math.addProduct));
      return { value, gram, drift: isComparable(value, columns) ? drift : null };
    });
    const residuals = stage.flatMap((product) => {
      const value = residualOf(product, index);
      if (value === null) return [];
      const numRows = product.weight.value.type.shape[0] as number;
      return [
        { product, value, drift: new CrossGram(numRows, columnsOf(product.weight), this.math.addProduct) },
      ];
    });
    const wanted = [...inputs, ...residuals].map(({ value }) => value);
    await this.#readBoth(stage, wanted, [floats, quantized], async ([expected, actual]) => {
      // All at once: the next one's rows are made ready while the threads add up those of the last.
      const sums = inputs.flatMap(({ value, gram, drift }) => {
        const x = actual(value);
        return [gram.add(x, x), drift?.add(expected(value), x, x)];
      });
      const further = residuals.map(({ product, value, drift }) =>
        drift.add(expected(value), actual(product.node.inputs[0]), actual(value)),
      );
      await Promise.all([...sums, ...further]);
    });
    return {
      inputs: new Map(
        inputs.map(({ value, gram, drift }) => [
          value.id,
          { gram: gram.mean(), drift: drift?.mean() ?? null },
        ]),
      ),
      residuals: new Map(residuals.map(({ product, drift }) => [product, drift.mean()])),
    };
  }

  /** Both models read on from the values that the last stage left, and leave some to the next one. */
  async #readBoth(
    stage: readonly Product[],
    wanted: readonly Value[],
    models: readonly [Tensors, Tensors],
    look: (observed: readonly Observed[]) => Promise<void>,
  ): Promise<void> {
    const { index, products } = this.#options.subject;
    const toCome = products.filter((product) => !this.#productsRead.has(product));
    for (const product of stage) this.#productsRead.add(product);
    const kept = toCome.length === stage.length ? [] : valuesBefore(toCome, index);
    const left = [0, 1].map(() => new KnownRows(kept, this.#numTokens)) as [KnownRows, KnownRows];
    const values = [...new Map([...wanted, ...kept].map((value) => [value.id, value])).values()];
    const suffices = this.#known !== null && sliceGraph(index.graph, values, this.#known[0].values) !== null;
    const readers = models.map((tensors, i) => ({ tensors, known: suffices ? this.#known![i] : null }));
    await readObserved(readers, values, this.#device, this.#options, async (observed, start) => {
      for (const value of kept) left.forEach((rows, i) => rows.set(value, start, observed[i](value)));
      await look(observed);
    });
    this.#known = kept.length === 0 ? null : left;
  }

  async close(): Promise<void> {
    await this.#device.dispose();
    if (this.#cpu !== this.#device) await this.#cpu?.dispose();
  }
}
