// Has models read the calibration text in step, and shows values from their insides.
import { compileToFit, type ModelToCompile } from '../compiler/compile-to-fit.ts';
import { blocksPerSeq } from '../compiler/memory-budget.ts';
import { kernelsFor } from '../device/create-device.ts';
import type { Device, Executable } from '../device/device.ts';
import type { EngineConfig } from '../engine/config.ts';
import type { Value } from '../ir/graph.ts';
import type { Tensors } from '../quantization/calibrate.ts';
import { NO_QUANTIZATION } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import type { KnownRows } from './known-rows.ts';
import { observingDefinition } from './observing-definition.ts';
import { valueName } from './slice-graph.ts';
import type { TokenWindow } from './token-windows.ts';
import { readingSteps } from './window-steps.ts';

export interface ReadingOptions {
  readonly model: ModelToCompile;
  readonly config: EngineConfig;
  readonly windows: readonly TokenWindow[];
  /** Called with windows done and in all of one reading. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/** A model, and what is known of the text in it; with nothing known it begins with the tokens. */
export interface Reader {
  readonly tensors: Tensors;
  readonly known: KnownRows | null;
}

/** A value's rows in one step. */
export type Observed = (value: Value) => Float32Array;

/** Tokens that one step reads: what products read is kept for all of them. */
const STEP_TOKENS = 256;

/**
 * The models read the windows in step; `look` sees the values of each in every step, which begin with row `start` of the
 * text, and may take its time until the next step has been read. What is known must suffice for all of them, or of none.
 */
export async function readObserved(
  readers: readonly Reader[],
  values: readonly Value[],
  device: Device,
  options: ReadingOptions,
  look: (observed: readonly Observed[], start: number) => Promise<void>,
): Promise<void> {
  const { windows, signal, onProgress } = options;
  const executables: Executable[] = [];
  let looking = Promise.resolve();
  try {
    for (const reader of readers) executables.push(await load(reader, values, device, options));
    let start = 0;
    for (const [i, { tokenIds }] of windows.entries()) {
      const ids = readers[0].known === null ? tokenIds : tokenIds.map((_, row) => start + row);
      for (const step of readingSteps(ids, executables[0].plan, STEP_TOKENS)) {
        signal?.throwIfAborted();
        const observed: Observed[] = [];
        for (const executable of executables) {
          const { outputs } = await executable.run(step);
          observed.push(({ id }) => outputs!.get(valueName(id))!);
        }
        await looking;
        looking = look(observed, start);
        start += step.numTokens;
      }
      onProgress?.(i + 1, windows.length);
    }
    await looking;
  } finally {
    await Promise.allSettled([looking]);
    for (const executable of executables) await executable.dispose();
  }
}

function load(
  { tensors, known }: Reader,
  values: readonly Value[],
  device: Device,
  { model, config, windows }: ReadingOptions,
): Promise<Executable> {
  const { source, catalog } = known?.beside(tensors) ?? tensors;
  const observing = {
    ...model,
    definition: observingDefinition(model.definition, values, known?.values),
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
  const { target } = device;
  const kernels = kernelsFor(target);
  const { plan, ledger } = compileToFit(observing, settings, target, kernels, device.availableMemory());
  if (ledger.error !== null) throw new NeedletailError('out_of_memory', ledger.error);
  // One window at a time: a GPU's memory has room for both models.
  const numBlocks = ledger.numBlocks.map((count) => Math.min(count, blocksPerSeq(plan, maxModelLen)));
  return device.load(plan, source, { numBlocks });
}
