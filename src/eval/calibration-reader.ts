// Has a model read the calibration text on the engine's device, in floats or quantized in part, and sums up on the cpu what
// its products read.
import { compileToFit, type ModelToCompile } from '../compiler/compile-to-fit.ts';
import { blocksPerSeq } from '../compiler/memory-budget.ts';
import { CpuDevice } from '../device/cpu/cpu-device.ts';
import { createDevice, kernelsFor } from '../device/create-device.ts';
import type { Device, Executable } from '../device/device.ts';
import type { EngineConfig } from '../engine/config.ts';
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
import { isComparable, residualOf, type StageDrift } from '../quantization/stages.ts';
import { PLAIN_MATH, type CalibrationMath } from '../tensor/calibration-math.ts';
import { NO_QUANTIZATION } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import { observingDefinition, outputName } from './observing-definition.ts';
import type { TokenWindow } from './token-windows.ts';
import { readingSteps } from './window-steps.ts';

export interface ReaderOptions {
  readonly model: ModelToCompile;
  readonly subject: CalibrationSubject;
  readonly config: EngineConfig;
  readonly windows: readonly TokenWindow[];
  /** What static scales are made for. */
  readonly range: RangeKind;
  /** Called with windows done and in all of one reading. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** Tokens that one step reads: what products read is kept for all of them. */
const STEP_TOKENS = 256;

/** Rows of each input that searches try candidates on. */
const SAMPLE_SIZE = 512;

/** Values of a step, by their ids. */
type Observed = (value: Value) => Float32Array;

export class CalibrationReader implements TextReader {
  readonly math: CalibrationMath;
  readonly #options: ReaderOptions;
  readonly #device: Device;
  /** Multiplies matrices; null where the reference interpreter was asked for. */
  readonly #cpu: CpuDevice | null;

  private constructor(options: ReaderOptions, device: Device, cpu: CpuDevice | null) {
    this.#options = options;
    this.#device = device;
    this.#cpu = cpu;
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
    const { subject, windows, range } = this.#options;
    const inputs = inputsOf(subject.products);
    const numTokens = windows.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
    const observers = inputs.map(({ value, columns }) => {
      const numRows = (numTokens * (value.type.shape[1] as number)) / columns;
      return new InputObserver({ columns, numRows, sampleSize: SAMPLE_SIZE, range });
    });
    await this.#read(
      [subject],
      inputs.map(({ value }) => value),
      async ([observed]) => {
        for (const [i, { value }] of inputs.entries()) observers[i].add(observed(value));
      },
    );
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
    const values = [...inputs, ...residuals].map(({ value }) => value);
    await this.#read([floats, quantized], values, async ([expected, actual]) => {
      // All at once: the next one's rows are made ready while the threads add up those of the last.
      const sums = inputs.flatMap(({ value, gram, drift }) => {
        const x = actual(value);
        return [gram.add(x, x), drift?.add(difference(expected(value), x), x)];
      });
      const further = residuals.map(({ product, value, drift }) =>
        drift.add(difference(expected(value), actual(value)), actual(product.node.inputs[0])),
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

  async close(): Promise<void> {
    await this.#device.dispose();
    if (this.#cpu !== this.#device) await this.#cpu?.dispose();
  }

  /** The models read the windows in step; `look` sees the values of each step. */
  async #read(
    models: readonly Tensors[],
    values: readonly Value[],
    look: (observed: readonly Observed[]) => Promise<void>,
  ): Promise<void> {
    const { windows, signal, onProgress } = this.#options;
    const executables: Executable[] = [];
    try {
      for (const tensors of models) executables.push(await this.#load(tensors, values));
      for (const [i, { tokenIds }] of windows.entries()) {
        for (const step of readingSteps(tokenIds, executables[0].plan, STEP_TOKENS)) {
          signal?.throwIfAborted();
          const results = [];
          for (const executable of executables) results.push(await executable.run(step));
          await look(
            results.map(
              ({ outputs }) =>
                (value) =>
                  outputs!.get(outputName(value.id))!,
            ),
          );
        }
        onProgress?.(i + 1, windows.length);
      }
    } finally {
      for (const executable of executables) await executable.dispose();
    }
  }

  #load({ source, catalog }: Tensors, values: readonly Value[]): Promise<Executable> {
    const { model, config, windows } = this.#options;
    const { target } = this.#device;
    const observing = {
      ...model,
      definition: observingDefinition(model.definition, values),
      tensors: catalog,
    };
    const maxModelLen = Math.max(...windows.map(({ tokenIds }) => tokenIds.length));
    const settings: EngineConfig = {
      ...config,
      ...NO_QUANTIZATION,
      activationDType: '16bit',
      maxNumSeqs: 1,
      maxModelLen,
      maxNumBatchedTokens: STEP_TOKENS,
      batchInvariant: false,
    };
    const available = this.#device.availableMemory();
    const { plan, ledger } = compileToFit(observing, settings, target, kernelsFor(target), available);
    if (ledger.error !== null) throw new NeedletailError('out_of_memory', ledger.error);
    // One window at a time: a GPU's memory has room for both models.
    const numBlocks = ledger.numBlocks.map((count) => Math.min(count, blocksPerSeq(plan, maxModelLen)));
    return this.#device.load(plan, source, { numBlocks });
  }
}

function difference(a: Float32Array, b: Float32Array): Float32Array {
  const rest = new Float32Array(a.length);
  for (let i = 0; i < rest.length; i++) rest[i] = a[i] - b[i];
  return rest;
}
