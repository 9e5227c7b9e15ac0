// Brings weights to the device. What the checkpoint stores otherwise than the plan (transposed, of another type, one tensor for
// several weights, not quantized yet) is sorted out there.
import { isDeepStrictEqual } from 'node:util';
import type { Plan, RopeTable, WeightSpec } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { WeightPart } from '../../ir/graph.ts';
import { int, pointer } from '../../kernels/cuda/cuda-kernel.ts';
import { itemSize } from '../../tensor/dtype.ts';
import { asMatrix } from '../../tensor/shape.ts';
import type { PackedWeightSource, TensorSource, TensorView } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { LoadOptions } from '../device.ts';
import { readPart } from '../read-part.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import { DeviceMemoryPool } from './device-memory.ts';
import { KernelLauncher } from './kernel-launcher.ts';
import { packingLaunch, quantizingLaunches, type Launch, type PlacedPart } from './pack-launches.ts';
import { inPieces, tensorRows } from './part-pieces.ts';
import { slice, Uploader, type UploadSource } from './uploader.ts';

const NUM_SCRATCHES = 2;
const SCRATCH_BYTES = 64 * 2 ** 20;
const NO_COUNTS = { numTokens: 0, numSeqs: 0, numLogitRows: 0, numDecodeSeqs: 0, numQueryTiles: 0 };

interface Scratch {
  readonly address: Address;
  readonly bytes: number;
}

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
    for (const weight of plan.weights) await loader.load(weight, source);
    for (const table of plan.ropeTables) loader.fillTable(table, places.ropeTables[table.id]);
    await loader.finish();
  } finally {
    loader.close();
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
  /** Where rows of tensors lie until they are packed, in turns: the next ones are read while these arrive. */
  readonly #scratches: Scratch[] = [];
  /** What packs the rows that are arriving. */
  readonly #arriving: { readonly numUploads: number; readonly pack: () => void }[] = [];
  /** Names of tensors that are quantized, and for each the device's count of groups without a finite scale. */
  readonly #quantized: string[] = [];
  readonly #numBad: Address;
  /** Bytes of weights that were sent, and how many uploads then. */
  readonly #sent: { readonly bytes: number; readonly numUploads: number }[] = [];
  #loadedBytes = 0;

  constructor(plan: Plan, places: WeightPlaces, options: LoadOptions, runtime: CudaRuntime) {
    this.#runtime = runtime;
    this.#plan = plan;
    this.#places = places;
    this.#options = options;
    this.#totalBytes = [...plan.weights, ...plan.ropeTables].reduce((sum, { bytes }) => sum + bytes, 0);
    this.#pool = new DeviceMemoryPool(runtime);
    this.#uploader = new Uploader(runtime, options.signal);
    const numCounts = plan.weights.reduce((sum, { parts }) => sum + parts.length, 0);
    this.#numBad = this.#pool.allocate(4 * numCounts);
    runtime.driver.fill(this.#numBad, 0, 4 * numCounts, runtime.stream);
  }

  async finish(): Promise<void> {
    await this.#packArrived(0);
    for (const { numUploads } of [...this.#sent]) {
      await this.#uploader.reach(numUploads);
      this.#countDone();
    }
    await this.#uploader.reach(this.#uploader.numSent);
    if (this.#quantized.length === 0) return;
    const counts = new Uint32Array(this.#download(this.#numBad, 4 * this.#quantized.length).buffer);
    const bad = this.#quantized.find((_, i) => counts[i] > 0);
    if (bad === undefined) return;
    throw new NeedletailError(
      'bad_checkpoint',
      `tensor ${bad} holds NaN or infinite values, which cannot be quantized`,
    );
  }

  close(): void {
    this.#uploader.close();
    this.#pool.freeAll();
  }

  fillTable(table: RopeTable, target: Address): void {
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
    if ('readPacked' in source) await this.#uploader.send(packedRange(weight, source), target);
    else if (!isMadeWithCodes(weight)) await this.#loadParts(weight, target, source);
    this.#sent.push({ bytes: weight.bytes, numUploads: this.#uploader.numSent });
    this.#countDone();
  }

  async #loadParts(weight: WeightSpec, target: Address, source: TensorSource): Promise<void> {
    let row = 0;
    for (const part of weight.parts) {
      const view = readPart(part, weight, source);
      if (isAsStored(weight, part, view)) await this.#sendRows(part, rowAddress(weight, target, row), view);
      else await this.#packPart(weight, part, target, row, view);
      row += part.rowCount;
    }
  }

  async #sendRows(part: WeightPart, target: Address, view: TensorView): Promise<void> {
    const rowBytes = asMatrix(part.tensorShape)[1] * itemSize(view.dtype);
    const start = part.rowStart * rowBytes;
    await this.#uploader.send(
      slice(view.file ?? view.bytes, start, start + part.rowCount * rowBytes),
      target,
    );
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
    const isQuantized = weight.quantization?.origin === 'quantize';
    if (isQuantized) this.#quantized.push(part.tensor);
    let row = firstRow;
    for (const piece of inPieces(part, rowBytes, SCRATCH_BYTES)) {
      const [start, end] = tensorRows(piece).map((tensorRow) => tensorRow * rowBytes);
      const address = await this.#nextScratch(end - start);
      await this.#uploader.send(slice(view.file ?? view.bytes, start, end), address);
      const to = rowAddress(weight, target, row);
      const placed: PlacedPart = {
        part: piece,
        tensor: address - start,
        from: view.dtype,
        weight,
        target: to,
      };
      const launches = isQuantized ? this.#quantizing(placed, row) : [packingLaunch(placed)];
      const pack = (): void => launches.forEach((launch) => this.#launch(launch));
      this.#arriving.push({ numUploads: this.#uploader.numSent, pack });
      row += piece.rowCount;
    }
  }

  /** The one whose rows were packed longest ago. What packs them and what brings the next ones follow each other on the stream. */
  async #nextScratch(bytes: number): Promise<Address> {
    await this.#packArrived(NUM_SCRATCHES - 1);
    let scratch =
      this.#scratches.length < NUM_SCRATCHES ? { address: 0, bytes: 0 } : this.#scratches.shift()!;
    if (scratch.bytes < bytes) {
      this.#runtime.driver.synchronize(this.#runtime.stream);
      this.#pool.free(scratch.address);
      scratch = { address: this.#pool.allocate(bytes), bytes };
    }
    this.#scratches.push(scratch);
    return scratch.address;
  }

  /** Packs rows that arrived, until no more than `maxLeft` times some are on their way. */
  async #packArrived(maxLeft: number): Promise<void> {
    while (this.#arriving.length > maxLeft) {
      const { numUploads, pack } = this.#arriving.shift()!;
      await this.#uploader.reach(numUploads);
      pack();
    }
  }

  #quantizing(placed: PlacedPart, firstRow: number): readonly Launch[] {
    const scales = scalesFor(placed.weight, this.#plan);
    const firstScale = this.#places.weights[scales.id] + firstRow * scales.shape[1] * itemSize('float32');
    return quantizingLaunches(placed, firstScale, this.#numBad + 4 * (this.#quantized.length - 1));
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

  #launch(launch: Launch): void {
    new KernelLauncher(this.#runtime, this.#pool, { kind: 'kernel', sharedBytes: 0, ...launch }).run(
      NO_COUNTS,
    );
  }

  #countDone(): void {
    const { numDone } = this.#uploader;
    while (this.#sent.length > 0 && this.#sent[0].numUploads <= numDone)
      this.#count(this.#sent.shift()!.bytes);
  }

  #count(bytes: number): void {
    this.#loadedBytes += bytes;
    this.#options.onProgress?.(this.#loadedBytes, this.#totalBytes);
  }
}

function packedRange({ id, bytes }: WeightSpec, source: PackedWeightSource): UploadSource {
  return { path: source.path, start: source.offsetOf(id), byteLength: bytes };
}

function rowAddress({ dtype, shape }: WeightSpec, target: Address, row: number): Address {
  return target + row * (shape[1] ?? 1) * itemSize(dtype);
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
