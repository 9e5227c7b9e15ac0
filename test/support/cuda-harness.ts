// Runs single launches on the GPU, with poison in what is to be written and canaries around everything, and compares them
// with the ops' own definitions, each of an op's kernels in turn.
import { expect } from 'vitest';
import type { BufferSpec, Launch, Operand, Plan, WeightSpec } from '../../src/compiler/plan.ts';
import { PLAN_FORMAT_VERSION } from '../../src/compiler/plan.ts';
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';
import { CudaProgram } from '../../src/device/cuda/cuda-program.ts';
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { placePlan } from '../../src/device/cuda/place-plan.ts';
import { StepMemory } from '../../src/device/cuda/step-memory.ts';
import type { SamplingBatch, StepBatch, StepResult } from '../../src/device/step.ts';
import type { Attributes, KVCacheSpec } from '../../src/ir/graph.ts';
import { TOKEN } from '../../src/ir/host-tensor.ts';
import { OPS } from '../../src/ir/ops/index.ts';
import { PagedKVCaches } from '../../src/ir/paged-kv-cache.ts';
import { CUDA_KERNELS } from '../../src/kernels/cuda/index.ts';
import type { KernelVariant } from '../../src/kernels/kernel.ts';
import { decodeTensor } from '../../src/tensor/codes.ts';
import {
  isCodeDType,
  itemSize,
  toFloat16Bits,
  type CodeDType,
  type DType,
  type FloatDType,
} from '../../src/tensor/dtype.ts';
import { expectClose, hostTensor } from './check-launch.ts';
import { encode, readDevice, readDevicePlaces, writeDevice } from './device-bytes.ts';
import { GuardedPool, POISON } from './guarded-pool.ts';
import type { HarnessLaunch, HarnessOperand, Matrix } from './cpu-harness.ts';
import { stepBatch } from './step-batch.ts';

const CANARY_BYTES = 256;

export interface CudaCase {
  readonly launch: HarnessLaunch;
  readonly step: StepBatch;
  /** Of every matrix of floats but scales. */
  readonly dtype: FloatDType;
  /** One layer's cache, filled. */
  readonly cache?: { readonly spec: KVCacheSpec; readonly numBlocks: number; readonly paged: PagedKVCaches };
}

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

  /** Every variant of the launch that takes the step's rows, against the definition. */
  async check(testCase: CudaCase, tolerance: number): Promise<void> {
    const { cache } = testCase;
    const before = cache ? cacheImage(cache) : null;
    const expected = interpret(testCase);
    const images = cache && before ? { before, after: cacheImage(cache) } : null;
    const { variants, workspaceBytes } = variantsOf(testCase);
    for (const variant of variants) {
      const actual = await this.#run(testCase, variant, workspaceBytes, images);
      actual.forEach((values, i) => expectClose(values, expected[i], tolerance));
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
    testCase: CudaCase,
    variant: KernelVariant,
    workspaceBytes: number,
    images: CacheImages | null,
  ): Promise<Float32Array[]> {
    const built = new PlanBuilder(testCase.dtype);
    const { launch, step, cache } = testCase;
    const launches = [built.add(launch, variant)];
    const logits = {
      id: built.buffers.length,
      name: '',
      dtype: 'float32',
      shape: ['numLogitRows', 16],
    } as const;
    const buffers = [...built.buffers, { ...logits, offset: built.arenaBytes, bytes: 64 }];
    const caches = cache ? [cache.spec] : [];
    const plan = planOf(step, 16, buffers, { weights: built.weights, launches, caches, workspaceBytes });
    const pool = new GuardedPool(this.#runtime);
    try {
      const placement = placePlan(plan, [cache?.numBlocks ?? 1], pool);
      if (images) writeDevice(this.#runtime, placement.caches[0].keys, images.before);
      built.weightBytes.forEach((bytes, id) => writeDevice(this.#runtime, placement.weights[id], bytes));
      built.tableBytes.forEach((bytes, id) => writeDevice(this.#runtime, placement.ropeTables[id], bytes));
      const image = built.image();
      writeDevice(this.#runtime, placement.arena, image);
      const memory = new StepMemory(this.#runtime, pool, plan);
      const program = new CudaProgram(this.#runtime, pool, plan, placement, memory);
      const staged = memory.write(step);
      program.run(staged.counts);
      await staged.end();
      program.release();
      memory.release();
      pool.expectIntact();
      const [after, ...held] = readDevicePlaces(this.#runtime, [
        { address: placement.arena, numBytes: image.length },
        ...built.weightBytes.map(({ length }, id) => ({ address: placement.weights[id], numBytes: length })),
        ...(images ? [{ address: placement.caches[0].keys, numBytes: images.after.length }] : []),
      ]);
      if (images) expect(Buffer.compare(held.at(-1)!, images.after), 'the KV cache').toBe(0);
      built.weightBytes.forEach((bytes, id) => expect(Buffer.compare(held[id], bytes)).toBe(0));
      return built.readOutputs(launch, image, after);
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

/** A layer's cache as kv-tile.cuh lays it out: keys, then values. */
function cacheImage({ spec, numBlocks, paged }: NonNullable<CudaCase['cache']>): Uint8Array {
  const { keys, values } = paged.layer(spec.layer);
  const images = [
    { rows: keys, headDim: spec.keyHeadDim },
    { rows: values, headDim: spec.valueHeadDim },
  ];
  return Buffer.concat(
    images.map(({ rows, headDim }) => tiled(storedRows(rows, spec, headDim), spec, numBlocks)),
  );
}

/** Rows of a head as a cache holds them; int8 codes have a scale each. */
interface StoredRows {
  readonly rows: Uint8Array;
  readonly rowBytes: number;
  readonly scales: Uint16Array | null;
}

function storedRows(values: Float32Array, { dtype }: KVCacheSpec, headDim: number): StoredRows {
  const rowBytes = headDim * itemSize(dtype);
  if (dtype !== 'int8') return { rows: encode(dtype, values), rowBytes, scales: null };
  const scales = Float32Array.from({ length: values.length / headDim }, (_, row) => {
    const head = values.subarray(row * headDim, (row + 1) * headDim);
    // The largest code is ±127.
    return head.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127;
  });
  const codes = values.map((value, i) => Math.round(value / (scales[Math.floor(i / headDim)] || 1)));
  return { rows: encode(dtype, codes), rowBytes, scales: Uint16Array.from(scales, toFloat16Bits) };
}

/** Rows [numBlocks, BLOCK_SIZE, numKvHeads] of bytes → [numBlocks, numKvHeads] tiles of BLOCK_SIZE rows, their scales behind. */
function tiled(
  { rows, rowBytes, scales }: StoredRows,
  { numKvHeads }: KVCacheSpec,
  numBlocks: number,
): Uint8Array {
  const tileBytes = BLOCK_SIZE * (rowBytes + (scales ? 2 : 0));
  const sorted = new Uint8Array(numBlocks * numKvHeads * tileBytes);
  const places = Uint32Array.from({ length: BLOCK_SIZE * rowBytes }, (_, i) =>
    tileByte(Math.floor(i / rowBytes), i % rowBytes, rowBytes),
  );
  for (let slot = 0; slot < numBlocks * BLOCK_SIZE; slot++)
    for (let head = 0; head < numKvHeads; head++) {
      const [block, row] = [Math.floor(slot / BLOCK_SIZE), slot % BLOCK_SIZE];
      const from = slot * numKvHeads + head;
      const tile = (block * numKvHeads + head) * tileBytes;
      for (let at = 0; at < rowBytes; at++)
        sorted[tile + places[row * rowBytes + at]] = rows[from * rowBytes + at];
      if (scales)
        new DataView(sorted.buffer).setUint16(tile + BLOCK_SIZE * rowBytes + 2 * row, scales[from], true);
    }
  return sorted;
}

/** Byte of a tile of 16 rows where byte `at` of a row lies. */
function tileByte(row: number, at: number, rowBytes: number): number {
  if (rowBytes % 16 !== 0) return row * rowBytes + at;
  let start = at - (at % 128);
  let width = 128;
  while (start + width > rowBytes || at >= start + width) {
    if (start + width <= rowBytes) start += width;
    width /= 2;
  }
  const piece = Math.floor((at - start) / 16) ^ Math.floor(((row % 8) * width) / 128);
  return start * BLOCK_SIZE + row * width + piece * 16 + (at % 16);
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

type Weight = Extract<HarnessOperand, { kind: 'weight' }>;

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

/** Matrices that are float32 whatever type the others have. */
function scalesOf({ op, inputs, outputs }: HarnessLaunch): readonly HarnessOperand[] {
  const ofX = op.startsWith('quantized') ? [inputs[1]] : [];
  return [...ofX, ...OPS.get(op)!.wideOutputs.map((i) => outputs[i])];
}

/** Lays operands out as buffers of one arena, canaries between them. */
class PlanBuilder {
  readonly buffers: BufferSpec[] = [];
  readonly weights: WeightSpec[] = [];
  readonly weightBytes: Uint8Array[] = [];
  readonly tableBytes: Uint8Array[] = [];
  arenaBytes = CANARY_BYTES;
  readonly #dtype: FloatDType;
  readonly #placed = new Map<Matrix, BufferSpec>();
  #scales: readonly HarnessOperand[] = [];

  constructor(dtype: FloatDType) {
    this.#dtype = dtype;
  }

  add(launch: HarnessLaunch, variant: KernelVariant): Launch {
    const { op, attributes, rows = 'numTokens' } = launch;
    this.#scales = scalesOf(launch);
    const [inputs, outputs] = [launch.inputs, launch.outputs].map((list) =>
      list.map((operand) => this.#operand(operand)),
    );
    return { op, label: '', inputs, outputs, attributes, variants: [variant], rows };
  }

  image(): Uint8Array {
    const image = new Uint8Array(this.arenaBytes).fill(POISON);
    for (const [matrix, buffer] of this.#placed) {
      if (!matrix.values) continue;
      eachRow(matrix, buffer, (start, row) => {
        const values = matrix.values!.subarray(row * matrix.columns, (row + 1) * matrix.columns);
        image.set(encode(buffer.dtype, values), start);
      });
    }
    return image;
  }

  /** The outputs, after checking that nothing else has changed. */
  readOutputs({ outputs }: HarnessLaunch, before: Uint8Array, after: Uint8Array): Float32Array[] {
    const rest = after.slice();
    const results = outputs
      .filter((operand) => operand.kind === 'matrix')
      .map((output) => {
        const values = new Float32Array(output.rows * output.columns);
        const { dtype } = this.#bufferOf(output);
        eachRow(output, this.#bufferOf(output), (start, row) => {
          const end = start + output.columns * itemSize(dtype);
          values.set(
            decodeTensor({ dtype, shape: [], bytes: after.slice(start, end) }),
            row * output.columns,
          );
          rest.set(before.subarray(start, end), start);
        });
        return values;
      });
    expect(Buffer.compare(rest, before), 'memory around the outputs').toBe(0);
    return results;
  }

  #operand(operand: HarnessOperand): Operand {
    switch (operand.kind) {
      case 'matrix': {
        const { columnStart, columns, rowStride } = operand;
        return { kind: 'buffer', id: this.#bufferOf(operand).id, columnStart, columns, rowStride };
      }
      case 'weight': {
        const { dtype, shape, values, layout } = operand;
        const bytes = layout === 'evenOdd' ? encode(dtype, evenOdd(values)) : encode(dtype, values);
        const id = this.weights.length;
        this.weights.push({
          id,
          name: '',
          dtype,
          shape,
          layout,
          parts: [],
          quantization: null,
          bytes: bytes.length,
        });
        this.weightBytes.push(bytes);
        return { kind: 'weight', id };
      }
      case 'input':
        return { ...operand, group: 0 };
      case 'ropeTable':
        throw new Error('tables of angles are tried with whole models');
      case 'kvCache':
      case 'none':
        return operand;
    }
  }

  #dtypeOf(matrix: Matrix): DType {
    if (matrix.values instanceof Int32Array) return 'int32';
    if (matrix.dtype !== 'float32') return matrix.dtype;
    return this.#scales.includes(matrix) ? 'float32' : this.#dtype;
  }

  #bufferOf(matrix: Matrix): BufferSpec {
    const owner = matrix.aliasOf ?? matrix;
    const known = this.#placed.get(owner);
    if (known) return known;
    const dtype = this.#dtypeOf(owner);
    const bytes = owner.rows * owner.rowStride * itemSize(dtype);
    const shape = ['numTokens', owner.rowStride] as const;
    const buffer = {
      id: this.buffers.length,
      name: '',
      dtype,
      shape,
      offset: this.arenaBytes,
      bytes,
    };
    this.arenaBytes = Math.ceil((this.arenaBytes + bytes + CANARY_BYTES) / CANARY_BYTES) * CANARY_BYTES;
    this.buffers.push(buffer);
    this.#placed.set(owner, buffer);
    return buffer;
  }
}

/** Of every eight codes those of even columns first. */
function evenOdd(codes: Float32Array): Float32Array {
  const order = [0, 2, 4, 6, 1, 3, 5, 7];
  return codes.map((_, i) => codes[i - (i % 8) + order[i % 8]]);
}

function eachRow(
  { rows, columnStart, rowStride }: Matrix,
  { dtype, offset }: BufferSpec,
  visit: (start: number, row: number) => void,
): void {
  for (let row = 0; row < rows; row++) visit(offset + (row * rowStride + columnStart) * itemSize(dtype), row);
}

interface PlanParts {
  readonly weights?: readonly WeightSpec[];
  readonly launches?: readonly Launch[];
  readonly caches?: readonly KVCacheSpec[];
  readonly workspaceBytes?: number;
}

function planOf(
  step: StepBatch,
  vocabSize: number,
  buffers: readonly BufferSpec[],
  { weights = [], launches = [], caches = [], workspaceBytes = 0 }: PlanParts,
): Plan {
  const group = { index: 0, window: null, layers: caches, bytesPerToken: 0 };
  const last = buffers.at(-1)!;
  return {
    header: {
      formatVersion: PLAN_FORMAT_VERSION,
      writtenBy: '',
      target: { kind: 'cuda', arch: '' },
      recipe: '',
      checkpointHash: null,
      rank: 0,
      worldSize: 1,
    },
    model: { modelType: '', vocabSize, hiddenSize: 0, numLayers: 0, maxModelLen: 8192, numParameters: 0 },
    limits: {
      maxNumBatchedTokens: Math.max(1, step.numTokens),
      maxNumSeqs: Math.max(1, step.numSeqs),
      maxNumLogitRows: Math.max(1, step.logitRows.length),
    },
    blockSize: BLOCK_SIZE,
    weights,
    ropeTables: [],
    kvCacheGroups: step.groups.length > 0 ? [group] : [],
    buffers,
    arenaBytes: last.offset + last.bytes,
    workspaceBytes,
    activationDType: 'float32',
    launches,
    logits: { kind: 'buffer', id: last.id, columnStart: 0, columns: vocabSize, rowStride: vocabSize },
    outputs: [],
  };
}
