// Brings weights to the device through page-locked buffers that take turns: while one is copied, others are filled, several at
// once, for one thread reads memory more slowly than the bus carries it.
// What the checkpoint stores otherwise (transposed, of another type, one tensor for several weights) is sorted out there.
import type { Plan, RopeTable, WeightSpec } from '../../compiler/plan.ts';
import { copyMemory } from '../../ffi/copy-memory.ts';
import type { Address } from '../../ffi/cuda/driver.ts';
import type { WeightPart } from '../../ir/graph.ts';
import { cudaType, int, pointer, type KernelLaunch } from '../../kernels/cuda/cuda-kernel.ts';
import { isFloatDType, itemSize } from '../../tensor/dtype.ts';
import { asMatrix, formatShape, shapesEqual } from '../../tensor/shape.ts';
import type { PackedWeightSource, TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { LoadOptions } from '../device.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import { DeviceMemoryPool, type PinnedBuffer } from './device-memory.ts';
import { KernelLauncher } from './kernel-launcher.ts';

const NUM_STAGES = 16;
const STAGE_BYTES = 8 * 2 ** 20;
const NO_COUNTS = { numTokens: 0, numSeqs: 0, numLogitRows: 0, numDecodeSeqs: 0, numQueryTiles: 0 };

/** Where a plan's weights and tables of angles go, by id. */
export interface WeightPlaces {
  readonly weights: readonly Address[];
  readonly ropeTables: readonly Address[];
}

/** Throws `bad_checkpoint` for a tensor that is missing or of another shape, `bad_plan` for packed weights of another size. */
export async function loadWeights(
  plan: Plan,
  places: WeightPlaces,
  source: TensorSource | PackedWeightSource,
  options: LoadOptions,
  runtime: CudaRuntime,
): Promise<void> {
  const loader = new WeightLoader(plan, options, runtime);
  try {
    for (const table of plan.ropeTables) await loader.fillTable(table, places.ropeTables[table.id]);
    for (const weight of plan.weights) await loader.load(weight, places.weights[weight.id], source);
    await loader.drain();
  } finally {
    await loader.close();
  }
}

/** A staging buffer. */
interface Stage {
  readonly buffer: PinnedBuffer;
  /** Resolves when what it was filled with last is on its way to the device. */
  filled: Promise<void>;
  /** The event after that copy. */
  readonly copied: Address;
}

class WeightLoader {
  readonly #runtime: CudaRuntime;
  readonly #options: LoadOptions;
  readonly #totalBytes: number;
  readonly #pool: DeviceMemoryPool;
  readonly #stages: readonly Stage[];
  #nextStage = 0;
  #loadedBytes = 0;

  constructor(plan: Plan, options: LoadOptions, runtime: CudaRuntime) {
    this.#runtime = runtime;
    this.#options = options;
    this.#totalBytes = [...plan.weights, ...plan.ropeTables].reduce((sum, { bytes }) => sum + bytes, 0);
    this.#pool = new DeviceMemoryPool(runtime);
    this.#stages = Array.from({ length: NUM_STAGES }, () => ({
      buffer: this.#pool.allocatePinned(STAGE_BYTES),
      filled: Promise.resolve(),
      copied: runtime.driver.createEvent(),
    }));
  }

  /** Waits until all that was sent is on its way to the device. */
  async drain(): Promise<void> {
    for (const { filled } of this.#stages) await filled;
    this.#runtime.makeCurrent();
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#stages.map(({ filled }) => filled));
    this.#runtime.makeCurrent();
    this.#runtime.driver.synchronize(this.#runtime.stream);
    for (const { copied } of this.#stages) this.#runtime.driver.destroyEvent(copied);
    this.#pool.freeAll();
  }

  async fillTable(table: RopeTable, target: Address): Promise<void> {
    const frequencies = new Uint8Array(Float64Array.from(table.inverseFrequencies).buffer);
    this.#launch({
      source: 'rope-table.cu',
      entry: 'rope_table',
      defines: {},
      block: 64,
      grid: () => [table.numPositions, 1, 1],
      parameters: [
        pointer(this.#pool.upload(frequencies)),
        pointer(target),
        int(table.rotaryDim / 2),
        { float64: table.attentionFactor },
      ],
    });
    this.#count(table.bytes);
  }

  async load(weight: WeightSpec, target: Address, source: TensorSource | PackedWeightSource): Promise<void> {
    if ('readPacked' in source) {
      await this.#send(checkedPacked(weight, source), target);
      return this.#count(weight.bytes);
    }
    const columns = weight.shape[1] ?? 1;
    let at = target;
    for (const part of weight.parts) {
      const bytes = part.rowCount * columns * itemSize(weight.dtype);
      await this.#loadPart(weight, part, at, readChecked(part, source));
      this.#count(bytes);
      at += bytes;
    }
  }

  async #loadPart(weight: WeightSpec, part: WeightPart, target: Address, view: TensorView): Promise<void> {
    const [, stride] = asMatrix(part.tensorShape);
    const isWhole =
      !part.transpose && part.rowStep === 1 && part.columnCount === stride && view.dtype === weight.dtype;
    if (!isWhole) return this.#packPart(weight, part, target, view);
    const rowBytes = stride * itemSize(view.dtype);
    const start = part.rowStart * rowBytes;
    await this.#send(view.bytes.subarray(start, start + part.rowCount * rowBytes), target);
  }

  /** Sends the tensor as it is and has the GPU cut, transpose and convert it. */
  async #packPart(weight: WeightSpec, part: WeightPart, target: Address, view: TensorView): Promise<void> {
    const tensor = this.#pool.allocate(view.bytes.byteLength);
    await this.#send(view.bytes, tensor);
    await this.drain();
    const [, stride] = asMatrix(part.tensorShape);
    const [rowStep, columnStep] = part.transpose ? [1, stride] : [stride, 1];
    const first = part.rowStart * rowStep + part.columnStart * columnStep;
    const { rowCount, columnCount } = part;
    this.#launch({
      source: 'pack-weight.cu',
      entry: 'pack_weight',
      defines: { SOURCE: cudaType(view.dtype), TARGET: cudaType(weight.dtype) },
      block: 256,
      grid: () => [Math.ceil(rowCount / 32), Math.ceil(columnCount / 32), 1],
      parameters: [
        pointer(tensor + first * itemSize(view.dtype)),
        pointer(target),
        { int64: rowStep * part.rowStep },
        { int64: columnStep },
        int(rowCount),
        int(columnCount),
      ],
    });
    this.#runtime.driver.synchronize(this.#runtime.stream);
    this.#pool.free(tensor);
  }

  /** Resolves when the last piece has a stage; `bytes` stay as they are until `drain`. */
  async #send(bytes: Uint8Array, target: Address): Promise<void> {
    for (let start = 0; start < bytes.byteLength; start += STAGE_BYTES) {
      this.#options.signal?.throwIfAborted();
      const stage = this.#stages[this.#nextStage];
      this.#nextStage = (this.#nextStage + 1) % NUM_STAGES;
      await stage.filled;
      stage.filled = this.#sendPiece(stage, bytes.subarray(start, start + STAGE_BYTES), target + start);
      // Whoever takes the stage next, or drains, hears of a failure.
      stage.filled.catch(() => undefined);
    }
  }

  async #sendPiece({ buffer, copied }: Stage, piece: Uint8Array, target: Address): Promise<void> {
    const { driver, stream } = this.#runtime;
    // Others have the event loop in between; they may have used another GPU.
    this.#runtime.makeCurrent();
    driver.synchronizeEvent(copied);
    await copyMemory(buffer.address, piece);
    this.#runtime.makeCurrent();
    driver.copyToDevice(target, buffer.address, piece.byteLength, stream);
    driver.recordEvent(copied, stream);
  }

  #launch(launch: Omit<KernelLaunch, 'kind' | 'sharedBytes'>): void {
    new KernelLauncher(this.#runtime, this.#pool, { kind: 'kernel', sharedBytes: 0, ...launch }).run(
      NO_COUNTS,
    );
  }

  #count(bytes: number): void {
    this.#loadedBytes += bytes;
    this.#options.onProgress?.(this.#loadedBytes, this.#totalBytes);
  }
}

function checkedPacked(weight: WeightSpec, source: PackedWeightSource): Uint8Array {
  const bytes = source.readPacked(weight.id);
  if (bytes.byteLength === weight.bytes) return bytes;
  throw new NeedletailError(
    'bad_plan',
    `weight ${weight.name} has ${bytes.byteLength} bytes on disk instead of ${weight.bytes}: build the plan again`,
  );
}

function readChecked(part: WeightPart, source: TensorSource): TensorView {
  const view = source.read(part.tensor);
  const numElements = part.tensorShape.reduce((product, size) => product * size, 1);
  const isWhole = isFloatDType(view.dtype) && view.bytes.byteLength === numElements * itemSize(view.dtype);
  if (isWhole && shapesEqual(view.shape, part.tensorShape)) return view;
  throw new NeedletailError(
    'bad_checkpoint',
    `tensor ${part.tensor} is ${view.dtype} ${formatShape(view.shape)} in ${view.bytes.byteLength} bytes, ` +
      `but the plan was compiled for ${formatShape(part.tensorShape)}`,
  );
}
