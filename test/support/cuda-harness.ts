// Runs single launches on the GPU, with poison in what is to be written and canaries around everything, and compares them
// with the ops' own definitions, each of an op's kernels in turn.
import { expect } from 'vitest';
import type { Plan } from '../../src/compiler/plan.ts';
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';
import { CudaProgram } from '../../src/device/cuda/cuda-program.ts';
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { placePlan } from '../../src/device/cuda/place-plan.ts';
import { StepMemory } from '../../src/device/cuda/step-memory.ts';
import type { SamplingBatch, StepResult } from '../../src/device/step.ts';
import type { Attributes } from '../../src/ir/graph.ts';
import { TOKEN } from '../../src/ir/host-tensor.ts';
import { OPS } from '../../src/ir/ops/index.ts';
import { PagedKVCaches } from '../../src/ir/paged-kv-cache.ts';
import { CUDA_KERNELS } from '../../src/kernels/cuda/index.ts';
import type { KernelVariant } from '../../src/kernels/kernel.ts';
import { isCodeDType, type CodeDType, type FloatDType } from '../../src/tensor/dtype.ts';
import { cacheImage } from './cache-image.ts';
import { expectClose, hostTensor } from './check-launch.ts';
import { readDevice, readDevicePlaces, writeDevice, writeDevicePlaces } from './device-bytes.ts';
import { GuardedPool } from './guarded-pool.ts';
import { planOf, SingleLaunch, type CudaCase, type Weight } from './single-launch.ts';
import { stepBatch } from './step-batch.ts';

const BLOCK_SIZE = 16;

/** What a layer's cache is to hold, bit for bit. */
interface CacheImages {
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

export class CudaHarness {
  readonly #runtime: CudaRuntime;

  constructor(runtime: CudaRuntime) {
    this.#runtime = runtime;
  }

  static async open(): Promise<CudaHarness> {
    return new CudaHarness((await CudaDevice.open()).runtime);
  }

  close(): void {
    this.#runtime.close();
  }

  /** Every variant of the launch that takes the step's rows, against the definition; a tolerance for all outputs, or one each. */
  async check(testCase: CudaCase, tolerance: number | readonly number[]): Promise<void> {
    const { cache } = testCase;
    const before = cache ? cacheImage(cache) : null;
    const expected = interpret(testCase);
    const images = cache && before ? { before, after: cacheImage(cache) } : null;
    const { variants, workspaceBytes } = variantsOf(testCase);
    const built = new SingleLaunch(testCase);
    for (const variant of variants) {
      const plan = built.plan(variant, workspaceBytes);
      const actual = await this.#run(testCase, built, plan, images);
      actual.forEach((values, i) =>
        expectClose(values, expected[i], typeof tolerance === 'number' ? tolerance : tolerance[i]),
      );
    }
  }

  /** Samples each row of `logits` `[rows, vocabSize]`. */
  async sample(logits: Float32Array, vocabSize: number, sampling: SamplingBatch): Promise<StepResult> {
    const numRows = logits.length / vocabSize;
    const rows = Array.from({ length: numRows }, (_, row) => row % vocabSize);
    const blocks = new Array<number>(Math.ceil(numRows / 16)).fill(0);
    const logitRows = [...rows.keys()];
    const step = {
      ...stepBatch([{ tokenIds: rows, numCached: 0, blocks, logitRows }], 16),
      sampling,
      groups: [],
    };
    const buffer = { id: 0, name: '', dtype: 'float32', shape: ['numLogitRows', vocabSize] } as const;
    const plan = planOf(step, vocabSize, [{ ...buffer, offset: 0, bytes: logits.byteLength }], {});
    const pool = new GuardedPool(this.#runtime);
    try {
      const placement = placePlan(plan, [], pool);
      const bytes = new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength);
      writeDevice(this.#runtime, placement.arena, bytes);
      const memory = new StepMemory(this.#runtime, pool, plan);
      const program = new CudaProgram(this.#runtime, pool, plan, placement, memory);
      const staged = memory.write(step);
      program.run(staged.counts);
      await staged.end();
      pool.expectIntact();
      const after = readDevice(this.#runtime, placement.arena, bytes.length);
      expect(Buffer.compare(after, bytes), 'the logits').toBe(0);
      return staged.readResults(null);
    } finally {
      pool.freeAll();
    }
  }

  async #run(
    { step, cache }: CudaCase,
    built: SingleLaunch,
    plan: Plan,
    images: CacheImages | null,
  ): Promise<Float32Array[]> {
    const pool = new GuardedPool(this.#runtime);
    try {
      const placement = placePlan(plan, [cache?.numBlocks ?? 1], pool);
      const weights = built.weightBytes.map((bytes, id) => ({ address: placement.weights[id], bytes }));
      const tables = built.tableBytes.map((bytes, id) => ({ address: placement.ropeTables[id], bytes }));
      const arena = { address: placement.arena, bytes: built.image };
      const caches = images ? [{ address: placement.caches[0].keys, bytes: images.before }] : [];
      writeDevicePlaces(this.#runtime, [arena, ...weights, ...tables, ...caches]);
      const memory = new StepMemory(this.#runtime, pool, plan);
      const program = new CudaProgram(this.#runtime, pool, plan, placement, memory);
      const staged = memory.write(step);
      program.run(staged.counts);
      await staged.end();
      program.release();
      memory.release();
      pool.expectIntact();
      const places = [arena, ...weights, ...caches].map(({ address, bytes }) => ({
        address,
        numBytes: bytes.length,
      }));
      const [after, ...held] = readDevicePlaces(this.#runtime, places);
      if (images) expect(Buffer.compare(held.at(-1)!, images.after), 'the KV cache').toBe(0);
      weights.forEach(({ bytes }, id) => expect(Buffer.compare(held[id], bytes)).toBe(0));
      return built.readOutputs(after);
    } finally {
      pool.freeAll();
    }
  }
}

/** What the launch yields by definition. */
function interpret({ launch: { op, inputs, attributes }, step, cache }: CudaCase): Float32Array[] {
  const tensors = inputs.flatMap((operand) => hostTensor(operand, step));
  const results = OPS.get(op)!.interpret(
    tensors,
    attributes,
    cache?.paged ?? new PagedKVCaches([], BLOCK_SIZE, []),
  );
  return results.filter((tensor) => tensor !== TOKEN).map(({ data }) => data as Float32Array);
}

/** Kernels that take the launch, and what they say that they need of the workspace. */
function variantsOf({ launch: { op, attributes, inputs }, step, dtype, cache }: CudaCase): {
  readonly variants: readonly KernelVariant[];
  readonly workspaceBytes: number;
} {
  const { matrixInput } = OPS.get(op)!;
  const weight = inputs.find((operand, i) => operand.kind === 'weight' && i >= (matrixInput ?? 0)) as
    Weight | undefined;
  const [weightRows, weightColumns = 1] = weight?.shape ?? [1, 1];
  const query = {
    ...(isCodes(weight)
      ? codesQuery(weight, (attributes['product'] ?? attributes) as Attributes, dtype)
      : floatsQuery(weight, dtype)),
    arch: 'sm_90',
    activationPrecision: 'auto',
    kvDType: cache?.spec.dtype ?? dtype,
    activationDType: dtype,
    maxRows: step.numTokens,
    weightRows,
    weightColumns,
    attributes,
  } as const;
  const queries = [false, true].map((batchInvariant) => ({ ...query, batchInvariant }));
  const description = CUDA_KERNELS.find((kernel) => kernel.op === op)!;
  const all = queries.flatMap((each) => description.variants(each));
  const byKernel = new Map(all.map((variant) => [variant.kernel, variant]));
  return {
    variants: [...byKernel.values()].filter(({ maxRows }) => maxRows === null || maxRows >= step.numTokens),
    workspaceBytes: Math.max(...queries.map((each) => description.workspaceBytes(each))),
  };
}

function isCodes(weight: Weight | undefined): weight is Weight & { dtype: CodeDType } {
  return weight !== undefined && isCodeDType(weight.dtype);
}

function floatsQuery(weight: Weight | undefined, dtype: FloatDType) {
  return { weightDType: (weight?.dtype ?? dtype) as FloatDType, weightFormat: null };
}

function codesQuery(
  { dtype, shape }: Weight & { dtype: CodeDType },
  attributes: Attributes,
  floats: FloatDType,
) {
  const { groupSize, hasZeros } = attributes as { groupSize: number; hasZeros: boolean };
  const weightFormat = { dtype, groupSize: groupSize === shape[1] ? null : groupSize, hasZeros };
  return { weightDType: floats, weightFormat };
}
