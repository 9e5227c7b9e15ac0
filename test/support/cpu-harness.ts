// Runs single launches on the CPU library: operands laid out by hand, with poison in what is to be written and canaries
// around everything.
import type { BufferOperand, Launch, Operand, Plan, WeightSpec } from '../../src/compiler/plan.ts';
import { PLAN_FORMAT_VERSION } from '../../src/compiler/plan.ts';
import { CpuRuntime } from '../../src/device/cpu/cpu-runtime.ts';
import { encodeProgram, findDescription, type Placement } from '../../src/device/cpu/program-blob.ts';
import { StepMemory } from '../../src/device/cpu/step-memory.ts';
import type { SamplingBatch, StepBatch, StepResult } from '../../src/device/step.ts';
import { CpuLibrary, Status } from '../../src/ffi/cpu-library.ts';
import type { Address } from '../../src/ffi/native-memory.ts';
import type { Attributes, KVCacheSpec, StepInputName } from '../../src/ir/graph.ts';
import { kvBytesPerToken } from '../../src/ir/kv-cache-groups.ts';
import { layoutBytes, type KernelQuery, type WeightLayout } from '../../src/kernels/kernel.ts';
import { decodeTensor, encodeCodes } from '../../src/tensor/codes.ts';
import {
  isCodeDType,
  itemSize,
  toBfloat16Bits,
  toFloat16Bits,
  type CodeDType,
  type FloatDType,
} from '../../src/tensor/dtype.ts';
import { stepBatch } from './step-batch.ts';

/** Bytes kept free on each side of a buffer. */
const CANARY_BYTES = 256;
/** As a float NaN. */
const CANARY = [0xad, 0xde, 0xc0, 0x7f];

/** What a buffer holds: floats (or the 32 bits of ids), or codes that are bytes. */
type MatrixDType = 'float32' | 'int8' | 'float8_e4m3fn';

/** A view of `columns` columns in rows of `rowStride` elements. */
export interface Matrix {
  readonly kind: 'matrix';
  readonly dtype: MatrixDType;
  readonly rows: number;
  readonly columns: number;
  readonly columnStart: number;
  readonly rowStride: number;
  /** Row-major values of the view, codes as the numbers that they are; absent for an output that shares no memory. */
  readonly values?: Float32Array | Int32Array;
  /** Shares the memory of this other operand, exactly. */
  readonly aliasOf?: Matrix;
}

export type HarnessOperand =
  | Matrix
  | {
      readonly kind: 'weight';
      readonly values: Float32Array;
      readonly shape: readonly number[];
      readonly dtype: FloatDType | CodeDType;
      readonly layout: WeightLayout;
    }
  | { readonly kind: 'ropeTable'; readonly values: Float32Array; readonly rotaryDim: number }
  | { readonly kind: 'input'; readonly name: StepInputName }
  | { readonly kind: 'kvCache'; readonly layer: number }
  | { readonly kind: 'none' };

export interface HarnessLaunch {
  readonly op: string;
  readonly attributes: Attributes;
  readonly inputs: readonly HarnessOperand[];
  readonly outputs: readonly HarnessOperand[];
  readonly rows?: Launch['rows'];
  /** What its kernels are chosen for; float32 in everything unless said otherwise. */
  readonly query?: Partial<KernelQuery>;
}

export function matrix(
  rows: number,
  columns: number,
  values?: Float32Array | Int32Array,
  view: { columnStart?: number; rowStride?: number; aliasOf?: Matrix; dtype?: MatrixDType } = {},
): Matrix {
  const { columnStart = 0, rowStride = columnStart + columns, dtype = 'float32' } = view;
  const placed = { kind: 'matrix', dtype, rows, columns, columnStart, rowStride } as const;
  return { ...placed, ...(values && { values }), ...(view.aliasOf && { aliasOf: view.aliasOf }) };
}

export class CpuHarness {
  readonly runtime: CpuRuntime;

  constructor(arch: string, numThreads = 2) {
    this.runtime = new CpuRuntime(CpuLibrary.load(arch), numThreads);
  }

  close(): void {
    this.runtime.close();
  }

  /**
   * A session whose KV caches outlive its launches. Bytes of the caches start as `cacheFill`, by default NaN in every
   * type: slots that were never written must not matter.
   */
  session(
    caches: readonly KVCacheSpec[] = [],
    numBlocks = 1,
    blockSize = 16,
    cacheFill = 0xff,
  ): HarnessSession {
    return new HarnessSession(this.runtime, caches, numBlocks, blockSize, cacheFill);
  }
}

export class HarnessSession {
  readonly #runtime: CpuRuntime;
  readonly #caches: readonly KVCacheSpec[];
  readonly #numBlocks: number;
  readonly #blockSize: number;
  readonly #regions: { address: Address; bytes: number }[] = [];
  readonly #kvCaches: Address[];

  constructor(
    runtime: CpuRuntime,
    caches: readonly KVCacheSpec[],
    numBlocks: number,
    blockSize: number,
    cacheFill: number,
  ) {
    this.#runtime = runtime;
    this.#caches = caches;
    this.#numBlocks = numBlocks;
    this.#blockSize = blockSize;
    this.#kvCaches = caches.map((cache) => {
      const address = this.#allocate(this.#cacheBytes(cache));
      new Uint8Array(this.#runtime.library.view(address, this.#cacheBytes(cache))).fill(cacheFill);
      return address;
    });
  }

  /**
   * Runs the launches in one step. Gives the outputs of the last of them that are matrices, after checking that nothing
   * around them was touched.
   */
  async run(launches: readonly HarnessLaunch[], step: StepBatch): Promise<Float32Array[]> {
    const program = this.prepare(launches, step);
    try {
      await program.run();
      return program.readOutputs();
    } finally {
      program.free();
    }
  }

  /** Samples each row of `logits` `[rows, vocabSize]`. */
  async sample(logits: Float32Array, vocabSize: number, sampling: SamplingBatch): Promise<StepResult> {
    const program = this.prepareSampling(logits, vocabSize, sampling);
    try {
      return await program.run();
    } finally {
      program.free();
    }
  }

  /** The same as a program that can run often. */
  prepare(launches: readonly HarnessLaunch[], step: StepBatch): HarnessProgram {
    const built = new LaunchBuilder(this.#allocate, this.#runtime.library);
    const planned = launches.map((launch) => built.add(launch));
    const plan = this.#planOf(planned, built, limitsOf(step));
    return new HarnessProgram(this.#runtime, plan, this.#placementOf(built), step, () =>
      built.readOutputs(launches.at(-1)!.outputs),
    );
  }

  prepareSampling(logits: Float32Array, vocabSize: number, sampling: SamplingBatch): HarnessProgram {
    const numRows = logits.length / vocabSize;
    const rows = Array.from({ length: numRows }, (_, row) => row);
    const blocks = new Array<number>(Math.ceil(numRows / 16)).fill(0);
    const step = stepBatch([{ tokenIds: rows, numCached: 0, blocks, logitRows: rows }], 16);
    const built = new LaunchBuilder(this.#allocate, this.#runtime.library);
    const address = this.#allocate(logits.byteLength);
    new Float32Array(this.#runtime.library.view(address, logits.byteLength)).set(logits);
    const id = built.addBuffer('float32', numRows, vocabSize, vocabSize, address);
    const operand = { kind: 'buffer', id, columnStart: 0, columns: vocabSize, rowStride: vocabSize } as const;
    const plan = this.#planOf([], built, limitsOf(step), operand);
    return new HarnessProgram(this.#runtime, plan, this.#placementOf(built), { ...step, sampling }, () => []);
  }

  /** The raw bytes of a layer's cache. */
  cacheBytes(layer: number): Uint8Array {
    const index = this.#caches.findIndex((cache) => cache.layer === layer);
    const view = this.#runtime.library.view(this.#kvCaches[index], this.#cacheBytes(this.#caches[index]));
    return new Uint8Array(view).slice();
  }

  free(): void {
    for (const { address, bytes } of this.#regions) this.#runtime.library.free(address, bytes);
    this.#regions.length = 0;
  }

  #placementOf(built: LaunchBuilder): Placement {
    return {
      weights: built.weightAddresses,
      ropeTables: built.tableAddresses,
      kvCaches: this.#kvCaches,
      arena: 0,
      workspace: this.#poisonedWorkspace(Math.max(2 ** 22, built.workspaceBytes)),
      numBlocks: [this.#numBlocks],
    };
  }

  /** Scratch that no kernel may read before it has written it: all NaN. */
  #poisonedWorkspace(bytes: number): Address {
    const address = this.#allocate(bytes);
    new Uint8Array(this.#runtime.library.view(address, bytes)).fill(0xff);
    return address;
  }

  #cacheBytes(spec: KVCacheSpec): number {
    const { keys, values } = kvBytesPerToken(spec);
    return this.#numBlocks * this.#blockSize * (keys + values);
  }

  readonly #allocate = (bytes: number): Address => {
    const region = { address: this.#runtime.library.allocate(Math.max(1, bytes)), bytes: Math.max(1, bytes) };
    this.#regions.push(region);
    return region.address;
  };

  #planOf(
    launches: Launch[],
    built: LaunchBuilder,
    limits: Plan['limits'],
    logits: BufferOperand = this.#noLogits(built),
  ): Plan {
    const group = { index: 0, window: null, layers: this.#caches, bytesPerToken: 0 };
    return {
      header: {
        formatVersion: PLAN_FORMAT_VERSION,
        writtenBy: '',
        target: { kind: 'cpu', arch: this.#runtime.library.arch },
        recipe: '',
        checkpointHash: null,
        rank: 0,
        worldSize: 1,
      },
      model: {
        modelType: '',
        vocabSize: 16,
        hiddenSize: 0,
        numLayers: 0,
        maxModelLen: 0,
        numParameters: 0,
      },
      limits,
      blockSize: this.#blockSize,
      weights: built.weights,
      ropeTables: built.tables,
      kvCacheGroups: [group],
      buffers: built.buffers,
      arenaBytes: 0,
      workspaceBytes: 0,
      activationDType: 'float32',
      launches,
      logits,
      outputs: [],
    };
  }

  #noLogits(built: LaunchBuilder): BufferOperand {
    const id = built.addBuffer('float32', 1, 16, 16, this.#allocate(64));
    return { kind: 'buffer', id, columnStart: 0, columns: 16, rowStride: 16 };
  }
}

/** A program with its step, on memory of its session. */
export class HarnessProgram {
  readonly readOutputs: () => Float32Array[];
  readonly #runtime: CpuRuntime;
  readonly #program: Address;
  readonly #memory: StepMemory;

  constructor(
    runtime: CpuRuntime,
    plan: Plan,
    placement: Placement,
    step: StepBatch,
    readOutputs: () => Float32Array[],
  ) {
    const { library } = runtime;
    this.#runtime = runtime;
    this.readOutputs = readOutputs;
    const blob = encodeProgram(plan, placement, (name) => library.findKernel(name));
    this.#program = library.createProgram(runtime.address, blob);
    this.#memory = new StepMemory(library, plan);
    this.#memory.write(step);
  }

  async run(): Promise<StepResult> {
    const { library } = this.#runtime;
    const status = await this.#runtime.run((job) =>
      library.submitStep(this.#program, this.#memory.address, job),
    );
    if (status === Status.ok) return this.#memory.readResult(null);
    throw new Error(`status ${status}: ${status === Status.invalidStep ? this.#memory.readMessage() : ''}`);
  }

  free(): void {
    this.#memory.free();
    this.#runtime.library.destroyProgram(this.#program);
  }
}

function limitsOf(step: StepBatch): Plan['limits'] {
  return {
    maxNumBatchedTokens: Math.max(1, step.numTokens),
    maxNumSeqs: Math.max(1, step.numSeqs),
    maxNumLogitRows: Math.max(1, step.logitRows.length),
  };
}

/** Gives operands memory and ids. Buffers' offsets are their addresses, for the arena starts at 0. */
class LaunchBuilder {
  readonly weights: WeightSpec[] = [];
  readonly weightAddresses: Address[] = [];
  readonly tables: Plan['ropeTables'][number][] = [];
  readonly tableAddresses: Address[] = [];
  readonly buffers: Plan['buffers'][number][] = [];
  readonly #allocate: (bytes: number) => Address;
  readonly #library: CpuLibrary;
  readonly #placed = new Map<Matrix, { id: number; address: Address }>();
  readonly #placedWeights = new Map<HarnessOperand, number>();
  /** The most that a launch declares. */
  workspaceBytes = 0;

  constructor(allocate: (bytes: number) => Address, library: CpuLibrary) {
    this.#allocate = allocate;
    this.#library = library;
  }

  add({ op, attributes, inputs, outputs, rows = 'numTokens', query: special }: HarnessLaunch): Launch {
    const query: KernelQuery = {
      arch: this.#library.arch,
      weightDType: 'float32',
      weightFormat: null,
      kvDType: 'float32',
      activationPrecision: 'float32',
      activationDType: 'float32',
      maxRows: 1,
      weightRows: 1,
      weightColumns: 1,
      attributes,
      ...special,
    };
    const description = findDescription(op);
    this.workspaceBytes = Math.max(this.workspaceBytes, description.workspaceBytes(query));
    return {
      op,
      label: '',
      attributes,
      rows,
      variants: description.variants(query),
      inputs: inputs.map((operand) => this.#place(operand)),
      outputs: outputs.map((operand) => this.#place(operand)),
    };
  }

  addBuffer(dtype: MatrixDType, rows: number, columns: number, rowStride: number, address: Address): number {
    const id = this.buffers.length;
    const bytes = rows * rowStride * itemSize(dtype);
    this.buffers.push({ id, name: '', dtype, shape: [rows, columns], offset: address, bytes });
    return id;
  }

  readOutputs(outputs: readonly HarnessOperand[]): Float32Array[] {
    for (const operand of this.#placed.keys()) if (!operand.aliasOf) this.#checkSurroundings(operand);
    return outputs.filter((operand) => operand.kind === 'matrix').map((operand) => this.#read(operand));
  }

  #place(operand: HarnessOperand): Operand {
    switch (operand.kind) {
      case 'matrix': {
        const { columnStart, columns, rowStride } = operand;
        return { kind: 'buffer', id: this.#placeMatrix(operand), columnStart, columns, rowStride };
      }
      case 'weight':
        return { kind: 'weight', id: this.#placeWeight(operand) };
      case 'ropeTable': {
        const id = this.tables.length;
        const { values, rotaryDim } = operand;
        const numPositions = values.length / rotaryDim;
        const shared = { inverseFrequencies: [], attentionFactor: 1, bytes: values.byteLength };
        this.tables.push({ id, numPositions, rotaryDim, ...shared });
        this.tableAddresses.push(this.#copyIn(values));
        return { kind: 'ropeTable', id };
      }
      case 'input':
        return { ...operand, group: 0 };
      case 'kvCache':
      case 'none':
        return operand;
    }
  }

  #copyIn(values: Float32Array): Address {
    const address = this.#allocate(values.byteLength);
    new Float32Array(this.#library.view(address, values.byteLength)).set(values);
    return address;
  }

  #placeMatrix(operand: Matrix): number {
    const known = this.#placed.get(operand.aliasOf ?? operand);
    if (known) return known.id;
    const { dtype, rows, columns, columnStart, rowStride, values } = operand;
    const start = this.#allocate(bytesAround(operand));
    const bytes = new Uint8Array(this.#library.view(start, bytesAround(operand)));
    bytes.forEach((_, i) => (bytes[i] = CANARY[i % 4]));
    for (let row = 0; row < rows && values; row++) {
      const elements = encodeElements(dtype, values.subarray(row * columns, (row + 1) * columns));
      bytes.set(elements, CANARY_BYTES + (row * rowStride + columnStart) * itemSize(dtype));
    }
    const id = this.addBuffer(dtype, rows, columns, rowStride, start + CANARY_BYTES);
    this.#placed.set(operand, { id, address: start });
    return id;
  }

  #placeWeight(operand: HarnessOperand & { kind: 'weight' }): number {
    const known = this.#placedWeights.get(operand);
    if (known !== undefined) return known;
    const { shape, dtype, layout } = operand;
    const [rows, columns] = shape.length === 1 ? [shape[0], 1] : shape;
    const id = this.weights.length;
    const bytes = layoutBytes(layout, rows, columns, itemSize(dtype));
    const address = this.#allocate(bytes);
    packValues(operand, this.#library.view(address, bytes));
    this.weights.push({ id, name: `w${id}`, dtype, shape, layout, parts: [], quantization: null, bytes });
    this.weightAddresses.push(address);
    this.#placedWeights.set(operand, id);
    return id;
  }

  #bytes(operand: Matrix): Uint8Array {
    const { address } = this.#placed.get(operand.aliasOf ?? operand)!;
    return new Uint8Array(this.#library.view(address, bytesAround(operand)));
  }

  #read(operand: Matrix): Float32Array {
    const { dtype, rows, columns, columnStart, rowStride } = operand;
    const bytes = this.#bytes(operand);
    const result = new Float32Array(rows * columns);
    for (let row = 0; row < rows; row++) {
      const from = CANARY_BYTES + (row * rowStride + columnStart) * itemSize(dtype);
      const elements = bytes.subarray(from, from + columns * itemSize(dtype));
      result.set(decodeTensor({ dtype, shape: [columns], bytes: elements }), row * columns);
    }
    return result;
  }

  #checkSurroundings(operand: Matrix): void {
    const { dtype, rows, columns, columnStart, rowStride } = operand;
    this.#bytes(operand).forEach((byte, i) => {
      const at = Math.floor((i - CANARY_BYTES) / itemSize(dtype));
      const column = at % rowStride;
      const isInside =
        at >= 0 && at < rows * rowStride && column >= columnStart && column < columnStart + columns;
      if (!isInside && byte !== CANARY[i % 4])
        throw new Error(`a kernel wrote outside of its operand, at element ${at}`);
    });
  }
}

/** Those of an operand and the free ones on each side. */
function bytesAround({ dtype, rows, rowStride }: Matrix): number {
  return rows * rowStride * itemSize(dtype) + 2 * CANARY_BYTES;
}

function encodeElements(dtype: MatrixDType, values: Float32Array | Int32Array): Uint8Array {
  if (dtype !== 'float32') return encodeCodes(dtype, Float32Array.from(values));
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** The layouts' definition in src/kernels/kernel.ts, element by element. */
function packValues(operand: HarnessOperand & { kind: 'weight' }, memory: ArrayBuffer): void {
  const { values, shape, dtype, layout } = operand;
  const [rows, columns] = shape.length === 1 ? [shape[0], 1] : shape;
  if (isCodeDType(dtype)) return packCodes(operand, columns, new Uint8Array(memory));
  const bits = dtype === 'float32' ? null : new Uint16Array(memory);
  const floats = dtype === 'float32' ? new Float32Array(memory) : null;
  const place = (row: number, column: number): number => {
    if (layout === 'rowMajor') return row * columns + column;
    if (layout === 'panel16') return (Math.floor(row / 16) * columns + column) * 16 + (row % 16);
    const pair = Math.floor(row / 16) * Math.ceil(columns / 2) + Math.floor(column / 2);
    return (pair * 16 + (row % 16)) * 2 + (column % 2);
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = values[row * columns + column];
      if (floats) floats[place(row, column)] = value;
      else bits![place(row, column)] = dtype === 'bfloat16' ? toBfloat16Bits(value) : toFloat16Bits(value);
    }
  }
}

/** The layout panel16words. */
function packCodes(
  { values, dtype }: HarnessOperand & { kind: 'weight' },
  columns: number,
  bytes: Uint8Array,
): void {
  const isNibbles = dtype === 'uint4';
  const wordCodes = isNibbles ? 8 : 4;
  const numWords = Math.ceil(columns / wordCodes);
  const codes = isNibbles ? Uint8Array.from(values) : encodeCodes(dtype as CodeDType, values);
  codes.forEach((bits, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const word = (Math.floor(row / 16) * numWords + Math.floor(column / wordCodes)) * 16 + (row % 16);
    const code = column % wordCodes;
    bytes[4 * word + (code % 4)] |= bits << (code < 4 ? 0 : 4);
  });
}
