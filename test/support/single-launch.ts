// A plan of one launch: its operands laid out in memory, poison in what is to be written and canaries around everything.
import { expect } from 'vitest';
import type { BufferSpec, Launch, Operand, Plan, WeightSpec } from '../../src/compiler/plan.ts';
import { PLAN_FORMAT_VERSION } from '../../src/compiler/plan.ts';
import type { StepBatch } from '../../src/device/step.ts';
import type { KVCacheSpec } from '../../src/ir/graph.ts';
import { OPS } from '../../src/ir/ops/index.ts';
import type { KernelVariant } from '../../src/kernels/kernel.ts';
import { isCodeDType, itemSize, type DType, type FloatDType } from '../../src/tensor/dtype.ts';
import type { FilledCache } from './cache-image.ts';
import type { HarnessLaunch, HarnessOperand, Matrix } from './cpu-harness.ts';
import { decode, encode } from './device-bytes.ts';
import { POISON } from './guarded-pool.ts';

const CANARY_BYTES = 256;
const BLOCK_SIZE = 16;
/** Of the logits that a step must have, of which these say nothing. */
const LOGIT_COLUMNS = 16;

export interface CudaCase {
  readonly launch: HarnessLaunch;
  readonly step: StepBatch;
  /** Of every matrix of floats but scales. */
  readonly dtype: FloatDType;
  /** One layer's cache, filled. */
  readonly cache?: FilledCache;
}

export type Weight = Extract<HarnessOperand, { kind: 'weight' }>;

/** Matrices that are float32 whatever type the others have. */
function scalesOf({ op, inputs, outputs }: HarnessLaunch): readonly HarnessOperand[] {
  const [x] = inputs;
  const ofX = x.kind === 'matrix' && isCodeDType(x.dtype) ? [inputs[1]] : [];
  return [...ofX, ...OPS.get(op)!.wideOutputs.map((i) => outputs[i])];
}

/** Lays a case's operands out as buffers of one arena, canaries between them. */
export class SingleLaunch {
  readonly weightBytes: Uint8Array[] = [];
  readonly tableBytes: Uint8Array[] = [];
  /** The arena before the launch. */
  readonly image: Uint8Array;
  readonly #case: CudaCase;
  readonly #buffers: BufferSpec[] = [];
  readonly #weights: WeightSpec[] = [];
  readonly #ropeTables: Plan['ropeTables'][number][] = [];
  readonly #placed = new Map<Matrix, BufferSpec>();
  readonly #scales: readonly HarnessOperand[];
  readonly #inputs: readonly Operand[];
  readonly #outputs: readonly Operand[];
  #arenaBytes = CANARY_BYTES;

  constructor(testCase: CudaCase) {
    const { launch } = testCase;
    this.#case = testCase;
    this.#scales = scalesOf(launch);
    [this.#inputs, this.#outputs] = [launch.inputs, launch.outputs].map((list) =>
      list.map((operand) => this.#operand(operand)),
    );
    this.image = this.#fillArena();
  }

  /** The launch alone, by one of its kernels. */
  plan(variant: KernelVariant, workspaceBytes: number): Plan {
    const { launch, step, cache } = this.#case;
    const { op, attributes, rows = 'numTokens' } = launch;
    const [inputs, outputs] = [this.#inputs, this.#outputs];
    const launches = [{ op, label: '', inputs, outputs, attributes, variants: [variant], rows }];
    const shape = ['numLogitRows', LOGIT_COLUMNS] as const;
    const bytes = 4 * LOGIT_COLUMNS * Math.max(1, step.logitRows.length);
    const logits = { id: this.#buffers.length, name: '', dtype: 'float32', shape } as const;
    const buffers = [...this.#buffers, { ...logits, offset: this.#arenaBytes, bytes }];
    const caches = cache ? [cache.spec] : [];
    const parts = { weights: this.#weights, ropeTables: this.#ropeTables, launches, caches, workspaceBytes };
    return planOf(step, LOGIT_COLUMNS, buffers, parts);
  }

  /** The outputs, after checking that nothing else has changed. */
  readOutputs(after: Uint8Array): Float32Array[] {
    const { outputs } = this.#case.launch;
    const rest = after.slice();
    const results = outputs
      .filter((operand) => operand.kind === 'matrix')
      .map((output) => {
        const values = new Float32Array(output.rows * output.columns);
        const { dtype } = this.#bufferOf(output);
        eachRow(output, this.#bufferOf(output), (start, row) => {
          const end = start + output.columns * itemSize(dtype);
          values.set(decode(dtype, after.slice(start, end)), row * output.columns);
          rest.set(this.image.subarray(start, end), start);
        });
        return values;
      });
    expect(Buffer.compare(rest, this.image), 'memory around the outputs').toBe(0);
    return results;
  }

  #fillArena(): Uint8Array {
    const image = new Uint8Array(this.#arenaBytes).fill(POISON);
    for (const [matrix, buffer] of this.#placed) {
      if (!matrix.values) continue;
      eachRow(matrix, buffer, (start, row) => {
        const values = matrix.values!.subarray(row * matrix.columns, (row + 1) * matrix.columns);
        image.set(encode(buffer.dtype, values), start);
      });
    }
    return image;
  }

  #operand(operand: HarnessOperand): Operand {
    switch (operand.kind) {
      case 'matrix': {
        const { columnStart, columns, rowStride } = operand;
        return { kind: 'buffer', id: this.#bufferOf(operand).id, columnStart, columns, rowStride };
      }
      case 'weight': {
        const { dtype, shape, layout } = operand;
        const bytes = weightBytes(operand);
        const id = this.#weights.length;
        this.#weights.push({
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
      case 'ropeTable': {
        const { values, rotaryDim } = operand;
        const id = this.#ropeTables.length;
        const numPositions = values.length / rotaryDim;
        const angles = { numPositions, rotaryDim, inverseFrequencies: [], attentionFactor: 1 };
        this.#ropeTables.push({ id, ...angles, bytes: values.byteLength });
        this.tableBytes.push(encode('float32', values));
        return { kind: 'ropeTable', id };
      }
      case 'kvCache':
      case 'none':
        return operand;
    }
  }

  #dtypeOf(matrix: Matrix): DType {
    if (matrix.values instanceof Int32Array) return 'int32';
    if (matrix.dtype !== 'float32') return matrix.dtype;
    return this.#scales.includes(matrix) ? 'float32' : this.#case.dtype;
  }

  #bufferOf(matrix: Matrix): BufferSpec {
    const owner = matrix.aliasOf ?? matrix;
    const known = this.#placed.get(owner);
    if (known) return known;
    const dtype = this.#dtypeOf(owner);
    const bytes = owner.rows * owner.rowStride * itemSize(dtype);
    const shape = ['numTokens', owner.rowStride] as const;
    const buffer = {
      id: this.#buffers.length,
      name: '',
      dtype,
      shape,
      offset: this.#arenaBytes,
      bytes,
    };
    this.#arenaBytes = Math.ceil((this.#arenaBytes + bytes + CANARY_BYTES) / CANARY_BYTES) * CANARY_BYTES;
    this.#buffers.push(buffer);
    this.#placed.set(owner, buffer);
    return buffer;
  }
}

/** Made once: a suite tries a weight with many numbers of rows. */
const encodedWeights = new WeakMap<Weight, Uint8Array>();

function weightBytes(weight: Weight): Uint8Array {
  const { dtype, values, layout } = weight;
  const bytes = encodedWeights.get(weight) ?? encode(dtype, layout === 'evenOdd' ? evenOdd(values) : values);
  encodedWeights.set(weight, bytes);
  return bytes;
}

/** Of every eight codes those of even columns first. */
function evenOdd(codes: Float32Array): Float32Array {
  const sorted = new Float32Array(codes.length);
  for (let start = 0; start < codes.length; start += 8)
    for (let i = 0; i < 8; i++) sorted[start + i] = codes[start + (i < 4 ? 2 * i : 2 * i - 7)];
  return sorted;
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
  readonly ropeTables?: Plan['ropeTables'];
  readonly launches?: readonly Launch[];
  readonly caches?: readonly KVCacheSpec[];
  readonly workspaceBytes?: number;
}

export function planOf(
  step: StepBatch,
  vocabSize: number,
  buffers: readonly BufferSpec[],
  { weights = [], ropeTables = [], launches = [], caches = [], workspaceBytes = 0 }: PlanParts,
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
    ropeTables,
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
