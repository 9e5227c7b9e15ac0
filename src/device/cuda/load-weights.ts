// Brings weights to the device. What the checkpoint stores otherwise than the plan (transposed, of another type, one tensor for
// several weights, not quantized yet) is sorted out there.
import { isDeepStrictEqual } from 'node:util';
import type { Plan, RopeTable, WeightSpec } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/cuda/driver.ts';
import type { WeightPart } from '../../ir/graph.ts';
import { int, pointer, type KernelLaunch } from '../../kernels/cuda/cuda-kernel.ts';
import { itemSize } from '../../tensor/dtype.ts';
import { asMatrix } from '../../tensor/shape.ts';
import type { PackedWeightSource, TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { LoadOptions } from '../device.ts';
import { readPart } from '../read-part.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import { DeviceMemoryPool } from './device-memory.ts';
import { KernelLauncher } from './kernel-launcher.ts';
import { packingLaunch, quantizingLaunches, type PlacedPart } from './pack-launches.ts';
import { slice, Uploader, type UploadSource } from './uploader.ts';

const NO_COUNTS = { numTokens: 0, numSeqs: 0, numLogitRows: 0, numDecodeSeqs: 0, numQueryTiles: 0 };

/** Where a plan's weights and tables of angles go, by id. */
export interface WeightPlaces {
  readonly weights: readonly Address[];
  readonly ropeTables: readonly Address[];
}

/** Throws `bad_checkpoint` for a tensor that is missing or of another shape, and for a file that is cut short meanwhile. */
export async function loadWeights(
  plan: Plan,
  places: WeightPlaces,
  source: TensorSource | PackedWeightSource,
  options: LoadOptions,
  runtime: CudaRuntime,
): Promise<void> {
  const loader = new WeightLoader(plan, places, options, runtime);
  try {
    for (const table of plan.ropeTables) await loader.fillTable(table, places.ropeTables[table.id]);
    for (const weight of plan.weights) await loader.load(weight, source);
    await loader.finish();
  } finally {
    await loader.close();
  }
}

class WeightLoader {
  readonly #runtime: CudaRuntime;
  readonly #plan: Plan;
  readonly #places: WeightPlaces;
  readonly #options: LoadOptions;
  readonly #totalBytes: number;
  readonly #pool: DeviceMemoryPool;
  readonly #uploader: Uploader;
  /** Where a tensor lies until it is packed; what packs it and what brings the next one follow each other on the stream. */
  #scratch = { address: 0, bytes: 0 };
  /** Names of tensors that were quantized, and for each the device's count of groups without a finite scale. */
  readonly #quantized: string[] = [];
  readonly #numBad: Address;
  #loadedBytes = 0;

  constructor(plan: Plan, places: WeightPlaces, options: LoadOptions, runtime: CudaRuntime) {
    this.#runtime = runtime;
    this.#plan = plan;
    this.#places = places;
    this.#options = options;
    this.#totalBytes = [...plan.weights, ...plan.ropeTables].reduce((sum, { bytes }) => sum + bytes, 0);
    this.#pool = new DeviceMemoryPool(runtime);
    this.#uploader = new Uploader(runtime);
    const numCounts = plan.weights.reduce((sum, { parts }) => sum + parts.length, 0);
    this.#numBad = this.#pool.allocate(4 * numCounts);
    runtime.driver.fill(this.#numBad, 0, 4 * numCounts, runtime.stream);
  }

  async finish(): Promise<void> {
    await this.#uploader.drain();
    if (this.#quantized.length === 0) return;
    const counts = new Uint32Array(this.#download(this.#numBad, 4 * this.#quantized.length).buffer);
    const bad = this.#quantized.find((_, i) => counts[i] > 0);
    if (bad === undefined) return;
    throw new NeedletailError(
      'bad_checkpoint',
      `tensor ${bad} holds NaN or infinite values, which cannot be quantized`,
    );
  }

  async close(): Promise<void> {
    await this.#uploader.close();
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

  async load(weight: WeightSpec, source: TensorSource | PackedWeightSource): Promise<void> {
    const target = this.#places.weights[weight.id];
    if ('readPacked' in source) await this.#send(packedRange(weight, source), target);
    else if (!isMadeWithCodes(weight)) await this.#loadParts(weight, target, source);
    this.#count(weight.bytes);
  }

  async #loadParts(weight: WeightSpec, target: Address, source: TensorSource): Promise<void> {
    const columns = weight.shape[1] ?? 1;
    let row = 0;
    for (const part of weight.parts) {
      const view = readPart(part, weight, source);
      const to = target + row * columns * itemSize(weight.dtype);
      if (isAsStored(weight, part, view)) await this.#sendRows(part, to, view);
      else await this.#packPart(weight, part, to, row, view);
      row += part.rowCount;
    }
  }

  async #sendRows(part: WeightPart, target: Address, view: TensorView): Promise<void> {
    const rowBytes = asMatrix(part.tensorShape)[1] * itemSize(view.dtype);
    const start = part.rowStart * rowBytes;
    await this.#send(slice(view.file ?? view.bytes, start, start + part.rowCount * rowBytes), target);
  }

  /** Sends the tensor's rows as they are and has the GPU cut, transpose, convert or quantize them. */
  async #packPart(
    weight: WeightSpec,
    part: WeightPart,
    target: Address,
    firstRow: number,
    view: TensorView,
  ): Promise<void> {
    const rowBytes = asMatrix(part.tensorShape)[1] * itemSize(view.dtype);
    const [start, end] = tensorRows(part).map((row) => row * rowBytes);
    const address = this.#scratchFor(end - start);
    await this.#send(slice(view.file ?? view.bytes, start, end), address);
    await this.#uploader.drain();
    const placed: PlacedPart = { part, tensor: address - start, from: view.dtype, weight, target };
    if (weight.quantization?.origin === 'quantize') this.#quantize(placed, firstRow);
    else this.#launch(packingLaunch(placed));
  }

  #scratchFor(bytes: number): Address {
    if (this.#scratch.bytes < bytes) {
      this.#runtime.driver.synchronize(this.#runtime.stream);
      this.#pool.free(this.#scratch.address);
      this.#scratch = { address: this.#pool.allocate(bytes), bytes };
    }
    return this.#scratch.address;
  }

  #quantize(placed: PlacedPart, firstRow: number): void {
    const scales = scalesFor(placed.weight, this.#plan);
    const firstScale = this.#places.weights[scales.id] + firstRow * scales.shape[1] * itemSize('float32');
    const numBad = this.#numBad + 4 * this.#quantized.length;
    this.#quantized.push(placed.part.tensor);
    for (const launch of quantizingLaunches(placed, firstScale, numBad)) this.#launch(launch);
  }

  #download(address: Address, numBytes: number): Uint8Array {
    const { driver, stream } = this.#runtime;
    const buffer = this.#pool.allocatePinned(numBytes);
    driver.copyToHost(buffer.address, address, numBytes, stream);
    driver.synchronize(stream);
    const bytes = buffer.bytes.slice(0, numBytes);
    this.#pool.freePinned(buffer);
    return bytes;
  }

  #send(source: UploadSource, target: Address): Promise<void> {
    return this.#uploader.send(source, target, this.#options.signal);
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

function packedRange({ id, bytes }: WeightSpec, source: PackedWeightSource): UploadSource {
  return { path: source.path, start: source.offsetOf(id), byteLength: bytes };
}

/** Of the tensor as a matrix, the rows [start, end) that the part is cut from. */
function tensorRows(part: WeightPart): readonly [start: number, end: number] {
  const { rowStart, rowCount, rowStep, columnStart, columnCount, transpose } = part;
  return transpose
    ? [columnStart, columnStart + columnCount]
    : [rowStart, rowStart + (rowCount - 1) * rowStep + 1];
}

/** Scales that are made of floats are made together with their codes. */
function isMadeWithCodes({ quantization }: WeightSpec): boolean {
  return quantization?.holds === 'scales' && quantization.origin === 'quantize';
}

/** The weight of scales with the same parts. */
function scalesFor({ name, parts }: WeightSpec, { weights }: Plan): WeightSpec {
  const scales = weights.find((weight) => isMadeWithCodes(weight) && isDeepStrictEqual(weight.parts, parts));
  if (scales) return scales;
  throw new NeedletailError('bad_plan', `the plan has no scales for weight ${name}`);
}

/** The part is whole rows of a tensor that stores them as the device does. */
function isAsStored(
  { dtype, layout }: WeightSpec,
  { transpose, rowStep, columnCount, tensorShape }: WeightPart,
  view: TensorView,
): boolean {
  const isWhole = !transpose && rowStep === 1 && columnCount === asMatrix(tensorShape)[1];
  return isWhole && view.dtype === dtype && layout === 'rowMajor';
}
