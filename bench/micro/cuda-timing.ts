// Times launches on a GPU as the product runs them: recorded once, replayed, between two events.
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';
import { DeviceMemoryPool } from '../../src/device/cuda/device-memory.ts';
import { KernelLauncher } from '../../src/device/cuda/kernel-launcher.ts';
import { LaunchConstants } from '../../src/device/cuda/launch-constants.ts';
import { MatmulLauncher, type MatmulWorkspace } from '../../src/device/cuda/matmul-launcher.ts';
import type {
  CudaKernelDescription,
  CudaLaunch,
  CudaMatrix,
  CudaOperand,
  PreparedLaunch,
  StepCounts,
} from '../../src/kernels/cuda/cuda-kernel.ts';
import type { DType } from '../../src/tensor/dtype.ts';

/** More than any L2 holds, so that weights come from memory. */
export const ROTATED_BYTES = 2 ** 31;
const MAX_COPIES = 40;
const NUM_REPLAYS = 5;

/** A product by one kernel, of weights that lie `ROTATED_BYTES` long at an address, copy after copy. */
export interface TimedProduct {
  readonly kernels: CudaKernelDescription;
  readonly kernel: string;
  readonly attributes: CudaLaunch['attributes'];
  readonly rows: number;
  /** Of one copy. */
  readonly weightBytes: number;
  /** Operands with the copy that begins so many bytes behind the first. */
  readonly inputs: (copyStart: number) => readonly CudaOperand[];
  readonly output: CudaMatrix;
}

export class GpuTimer {
  readonly device: CudaDevice;
  readonly pool: DeviceMemoryPool;
  readonly #constants: LaunchConstants;
  readonly #matmuls: MatmulLauncher[] = [];

  private constructor(device: CudaDevice) {
    this.device = device;
    this.pool = new DeviceMemoryPool(device.runtime);
    this.#constants = new LaunchConstants((bytes) => this.pool.upload(bytes));
  }

  static async open(): Promise<GpuTimer> {
    return new GpuTimer(await CudaDevice.open());
  }

  /** Random 16-bit numbers of small magnitude, of either type: time depends on what is multiplied. */
  randomNumbers(bytes: number): number {
    const piece = Uint16Array.from({ length: 2 ** 20 }, (_, i) => {
      const sign = (i * 7919) & 1 ? 0x8000 : 0;
      return sign | 0x3c00 | (Math.imul(i, 2654435761) >>> 22);
    });
    const { driver, stream } = this.device.runtime;
    const address = this.pool.allocate(bytes);
    const staging = this.pool.allocatePinned(piece.byteLength);
    staging.bytes.set(new Uint8Array(piece.buffer));
    for (let at = 0; at < bytes; at += piece.byteLength)
      driver.copyToDevice(address + at, staging.address, Math.min(piece.byteLength, bytes - at), stream);
    driver.synchronize(stream);
    return address;
  }

  /** Milliseconds of all launches together: the median replay. */
  time(launches: readonly PreparedLaunch[], counts: StepCounts, workspace: MatmulWorkspace): number {
    const { runtime } = this.device;
    const { driver, stream } = runtime;
    const launchers = launches.map((launch) => {
      if (launch.kind === 'kernel') return new KernelLauncher(runtime, this.pool, launch);
      const matmul = new MatmulLauncher(runtime, launch, workspace);
      this.#matmuls.push(matmul);
      return matmul;
    });
    for (const launcher of launchers) launcher.run(counts);
    driver.synchronize(stream);
    driver.beginCapture(stream);
    for (const launcher of launchers) launcher.run(counts);
    const graph = driver.endCapture(stream);
    const [start, end] = [driver.createEvent(), driver.createEvent()];
    const times = Array.from({ length: NUM_REPLAYS }, () => {
      driver.recordEvent(start, stream);
      driver.launchGraph(graph, stream);
      driver.recordEvent(end, stream);
      driver.synchronize(stream);
      return driver.elapsedMs(start, end);
    });
    for (const event of [start, end]) driver.destroyEvent(event);
    driver.destroyGraph(graph);
    return times.sort((a, b) => a - b)[NUM_REPLAYS >> 1];
  }

  /** Microseconds of one product, with weights that no cache holds: launches go through copies of them. */
  productUs(product: TimedProduct, workspace: MatmulWorkspace): number {
    const { kernels, kernel, attributes, rows, weightBytes, inputs, output } = product;
    const numCopies = Math.max(1, Math.min(MAX_COPIES, Math.floor(ROTATED_BYTES / weightBytes)));
    const count = this.pool.upload(new Uint8Array(Int32Array.of(rows, 0).buffer));
    const launches = Array.from({ length: numCopies }, (_, copy) =>
      kernels.prepare({
        op: kernels.op,
        kernel,
        attributes,
        inputs: inputs(copy * weightBytes),
        outputs: [output],
        rows: 'numTokens',
        addresses: { numTokens: count, numSeqs: 0, numLogitRows: 0, numQueryTiles: 0, queryTiles: 0 },
        workspace: workspace.address,
        blockSize: 16,
        gpu: this.device.runtime.gpu,
        constant: (values) => this.#constants.place(values),
      }),
    ).flat();
    return (1000 * this.time(launches, countsOf(rows), workspace)) / numCopies;
  }

  async close(): Promise<void> {
    for (const matmul of this.#matmuls) matmul.release();
    this.pool.freeAll();
    await this.device.dispose();
  }
}

/** Of each list the items that the command line names, or all where it names none. Throws for a word that is in no list. */
export function chosen<Lists extends readonly (readonly (string | number)[])[]>(
  words: readonly string[],
  ...lists: Lists
): Lists {
  const known = lists.flat().map(String);
  const unknown = words.find((word) => !known.includes(word));
  if (unknown !== undefined) throw new Error(`there is no ${unknown}, but ${known.join(', ')}`);
  return lists.map((list) => {
    const named = list.filter((item) => words.includes(String(item)));
    return named.length > 0 ? named : list;
  }) as unknown as Lists;
}

/** Rows that follow each other. */
export function matrixAt(
  address: number,
  rows: number,
  columns: number,
  dtype: DType = 'bfloat16',
): CudaMatrix {
  return { kind: 'matrix', address, dtype, rows, columns, rowStride: columns };
}

/** A step of `rows` tokens. */
function countsOf(rows: number): StepCounts {
  return { numTokens: rows, numSeqs: rows, numLogitRows: rows, numDecodeSeqs: rows, numQueryTiles: 0 };
}
