// Brings a plan into memory: allocates weights, cache and arena, and has the thread pool pack weights and fill tables.
import { closeSync, fstatSync, openSync } from 'node:fs';
import type { Plan, RopeTable, WeightSpec } from '../../compiler/plan.ts';
import type { ParameterQuantization, WeightPart } from '../../ir/graph.ts';
import { kvBytesPerToken } from '../../ir/kv-cache-groups.ts';
import { Status, check } from '../../ffi/cpu-library.ts';
import type { Address } from '../../ffi/native-memory.ts';
import { FileMapping } from '../../ffi/mmap.ts';
import { itemSize } from '../../tensor/dtype.ts';
import { asMatrix } from '../../tensor/shape.ts';
import type { PackedWeightSource, TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { DeviceMemory, LoadOptions } from '../device.ts';
import { readPart } from '../read-part.ts';
import type { CpuRuntime } from './cpu-runtime.ts';
import { cachesOf, dtypeNumber, layoutNumber, type Placement } from './program-blob.ts';
import { StructWriter } from './struct-writer.ts';

const TASK_BYTES = 120;
/** Where a task says that it met a scale which nothing can be multiplied by. */
const BAD_SCALE_BYTE = 40;
const KIND_PART = 0;
const KIND_COPY = 1;
const KIND_ROPE_TABLE = 2;
/** What a part's elements become, as `NtLoadHolds` numbers it. */
const HOLDS_NUMBERS = 0;
const HOLDS = {
  checkpoint: { codes: 1, scales: 2 },
  quantize: { codes: 3, scales: 4 },
} as const;
const NO_QUANTIZATION = [HOLDS_NUMBERS, 0, 0, 0, 0, 0] as const;

/** Weights start at cache lines. */
const ALIGNMENT = 64;
/** Bytes that one job packs at most before progress is told and an abort is noticed. */
const JOB_BYTES = 64 * 2 ** 20;

interface Region {
  readonly address: Address;
  readonly bytes: number;
}

/** A plan in memory. */
export interface LoadedPlan {
  readonly placement: Placement;
  readonly memory: DeviceMemory;
  free(): void;
}

export async function loadPlan(
  plan: Plan,
  source: TensorSource | PackedWeightSource,
  options: LoadOptions,
  runtime: CpuRuntime,
): Promise<LoadedPlan> {
  const regions: Region[] = [];
  const free = (): void => regions.forEach(({ address, bytes }) => runtime.library.free(address, bytes));
  try {
    const { placement, memory } = allocate(plan, options.numBlocks, (bytes) => {
      const region = { address: runtime.library.allocate(bytes), bytes };
      regions.push(region);
      return region.address;
    });
    await new Loader(plan, placement, runtime, options).load(source);
    return { placement, memory, free };
  } catch (error) {
    free();
    throw error;
  }
}

function allocate(
  plan: Plan,
  numBlocks: readonly number[],
  allocateRegion: (bytes: number) => Address,
): { placement: Placement; memory: DeviceMemory } {
  const fixed = [...plan.weights, ...plan.ropeTables].map(({ bytes }) => bytes);
  const caches = cachesOf(plan.kvCacheGroups).map((cache) => {
    const { keys, values } = kvBytesPerToken(cache);
    return numBlocks[cache.group] * plan.blockSize * (keys + values);
  });
  const place = (sizes: readonly number[], alignment: number): Address[] => {
    const offsets = offsetsOf(sizes, alignment);
    const start = allocateRegion(Math.max(1, offsets.at(-1)!));
    return offsets.slice(0, -1).map((offset) => start + offset);
  };
  const addresses = place(fixed, ALIGNMENT);
  const [arena, workspace] = place([plan.arenaBytes, plan.workspaceBytes], ALIGNMENT);
  const placement = {
    weights: addresses.slice(0, plan.weights.length),
    ropeTables: addresses.slice(plan.weights.length),
    kvCaches: place(caches, 1),
    arena,
    workspace,
    numBlocks,
  };
  const memory = {
    weights: sum(fixed),
    kvCache: sum(caches),
    activations: plan.arenaBytes,
    workspace: plan.workspaceBytes,
    steps: 0,
  };
  return { placement, memory };
}

/** Where each of `sizes` starts, and where the last ends. */
function offsetsOf(sizes: readonly number[], alignment: number): number[] {
  const offsets = [0];
  for (const size of sizes) offsets.push(Math.ceil((offsets.at(-1)! + size) / alignment) * alignment);
  return offsets;
}

function sum(sizes: readonly number[]): number {
  return sizes.reduce((total, size) => total + size, 0);
}

/** A native task; `keepAlive` is what its addresses point to. */
interface Task {
  write(writer: StructWriter): void;
  /** What it means if a scale is 0 or not finite. */
  readonly badScaleProblem?: string;
  readonly keepAlive: NodeJS.TypedArray;
  readonly bytes: number;
}

class Loader {
  readonly #plan: Plan;
  readonly #placement: Placement;
  readonly #runtime: CpuRuntime;
  readonly #options: LoadOptions;
  readonly #totalBytes: number;
  #loadedBytes = 0;
  #tasks: Task[] = [];

  constructor(plan: Plan, placement: Placement, runtime: CpuRuntime, options: LoadOptions) {
    this.#plan = plan;
    this.#placement = placement;
    this.#runtime = runtime;
    this.#options = options;
    this.#totalBytes = sum([...plan.weights, ...plan.ropeTables].map(({ bytes }) => bytes));
  }

  async load(source: TensorSource | PackedWeightSource): Promise<void> {
    for (const table of this.#plan.ropeTables) await this.#add(this.#tableTask(table));
    if ('readPacked' in source) return this.#loadPacked(source);
    for (const weight of this.#plan.weights) await this.#addParts(weight, source);
    await this.#flush();
  }

  /** The threads read the mapped file, so that the event loop never waits for the disk. */
  async #loadPacked(source: PackedWeightSource): Promise<void> {
    const file = openMapping(source.path);
    try {
      for (const weight of this.#plan.weights) {
        await this.#add(this.#copyTask(weight, file.view(source.offsetOf(weight.id), weight.bytes)));
      }
      await this.#flush();
    } finally {
      file.close();
    }
  }

  async #addParts(weight: WeightSpec, source: TensorSource): Promise<void> {
    let row = 0;
    for (const part of weight.parts) {
      await this.#add(this.#partTask(weight, part, row, readPart(part, weight, source)));
      row += part.rowCount;
    }
  }

  async #add(task: Task): Promise<void> {
    this.#tasks.push(task);
    if (sum(this.#tasks.map(({ bytes }) => bytes)) >= JOB_BYTES) await this.#flush();
  }

  async #flush(): Promise<void> {
    this.#options.signal?.throwIfAborted();
    const tasks = this.#tasks;
    this.#tasks = [];
    const writer = new StructWriter(tasks.length * TASK_BYTES);
    for (const task of tasks) task.write(writer);
    const status = await this.#runtime.run((job) =>
      this.#runtime.library.submitLoad(this.#runtime.address, writer.bytes, tasks.length, job),
    );
    if (status === Status.stopped)
      throw new NeedletailError('aborted', 'the device was closed while it loaded');
    check('packing weights', status);
    tasks.forEach((task, i) => checkScales(task, writer.bytes.subarray(i * TASK_BYTES)));
    this.#loadedBytes += sum(tasks.map(({ bytes }) => bytes));
    this.#options.onProgress?.(this.#loadedBytes, this.#totalBytes);
  }

  #partTask(weight: WeightSpec, part: WeightPart, row: number, view: TensorView): Task {
    const columns = weight.shape[1] ?? 1;
    return {
      keepAlive: view.bytes,
      badScaleProblem: `tensor ${part.tensor} ${badScaleProblem(weight.quantization)}`,
      bytes: part.rowCount * columns * itemSize(weight.dtype),
      write: (writer) => {
        writer.int32(KIND_PART, dtypeNumber(view.dtype), dtypeNumber(weight.dtype));
        writer.int32(layoutNumber(weight.layout), part.transpose ? 1 : 0, part.rowStep);
        writer.int32(...quantizationNumbers(weight.quantization, part.columnCount));
        writer.int64(this.#addressOf(view.bytes), this.#placement.weights[weight.id]);
        writer.int64(asMatrix(part.tensorShape)[1]);
        writer.int64(part.rowStart, part.rowCount, part.columnStart, part.columnCount, row);
        writer.float64(0);
      },
    };
  }

  #copyTask(weight: WeightSpec, bytes: Uint8Array): Task {
    return {
      keepAlive: bytes,
      bytes: weight.bytes,
      write: (writer) => {
        writer.int32(KIND_COPY, 0, 0, 0, 0, 0, ...NO_QUANTIZATION);
        writer.int64(this.#addressOf(bytes), this.#placement.weights[weight.id], weight.bytes, 0, 0, 0, 0, 0);
        writer.float64(0);
      },
    };
  }

  #tableTask(table: RopeTable): Task {
    const frequencies = Float64Array.from(table.inverseFrequencies);
    return {
      keepAlive: frequencies,
      bytes: table.bytes,
      write: (writer) => {
        writer.int32(KIND_ROPE_TABLE, 0, 0, 0, 0, 0, ...NO_QUANTIZATION);
        writer.int64(this.#addressOf(frequencies), this.#placement.ropeTables[table.id]);
        writer.int64(table.rotaryDim, 0, table.numPositions, 0, 0, 0);
        writer.float64(table.attentionFactor);
      },
    };
  }

  #addressOf(array: NodeJS.TypedArray): Address {
    return this.#runtime.library.addressOf(array);
  }
}

function openMapping(path: string): FileMapping {
  const file = openSync(path, 'r');
  try {
    return new FileMapping(file, fstatSync(file).size);
  } finally {
    closeSync(file);
  }
}

/** A task's `holds`, `code_dtype`, `group_size`, `has_zeros` and the two fields behind them. */
function quantizationNumbers(quantization: ParameterQuantization | null, columns: number): readonly number[] {
  if (!quantization || quantization.holds === 'inputOrder') return NO_QUANTIZATION;
  const { format, holds, origin } = quantization;
  const { dtype, groupSize } = format;
  const number = HOLDS[origin][holds === 'codes' ? 'codes' : 'scales'];
  const hasZeros = format.hasZeros && holds !== 'inputScales';
  return [number, dtypeNumber(dtype), groupSize ?? columns, hasZeros ? 1 : 0, 0, 0];
}

function checkScales({ badScaleProblem = '' }: Task, task: Uint8Array): void {
  if (task[BAD_SCALE_BYTE] !== 0) throw new NeedletailError('bad_checkpoint', badScaleProblem);
}

function badScaleProblem(quantization: ParameterQuantization | null): string {
  return quantization?.origin === 'quantize'
    ? 'holds NaN or infinite values, which cannot be quantized'
    : 'holds a scale that is 0, NaN or infinite; the checkpoint is damaged, or was never calibrated';
}
