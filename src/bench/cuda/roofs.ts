// The ceilings of one GPU, measured: what copying, reading, a matrix product and the bus to the host reach at best.
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { DeviceMemoryPool } from '../../device/cuda/device-memory.ts';
import { KernelLauncher } from '../../device/cuda/kernel-launcher.ts';
import { pointer } from '../../kernels/cuda/cuda-kernel.ts';
import { toBfloat16Bits } from '../../tensor/dtype.ts';
import { median } from '../metrics.ts';
import { Random } from '../random.ts';

export interface Roofs {
  /** Bytes read plus bytes written, per second. */
  readonly copyBytesPerSecond: number;
  readonly readBytesPerSecond: number;
  /** bf16 with float32 accumulation, random data. */
  readonly matmulFlops: number;
  /** From page-locked host memory to the device. */
  readonly pinnedBytesPerSecond: number;
}

/** Far beyond the second-level cache. */
const BUFFER_BYTES = 4 * 2 ** 30;
const PINNED_BYTES = 256 * 2 ** 20;
const MATRIX_SIZE = 8192;
const WORKSPACE_BYTES = 32 * 2 ** 20;
const NUM_RUNS = 10;
const NO_COUNTS = { numTokens: 0, numSeqs: 0, numLogitRows: 0, numDecodeSeqs: 0, numQueryTiles: 0 };

/** What decoding can reach: it only reads, and whichever of the two ways to measure is faster counts. */
export function memoryRoof({ copyBytesPerSecond, readBytesPerSecond }: Roofs): number {
  return Math.max(copyBytesPerSecond, readBytesPerSecond);
}

export function measureRoofs(device: CudaDevice): Roofs {
  const bench = new RoofBench(device);
  try {
    return bench.run();
  } finally {
    bench.close();
  }
}

class RoofBench {
  readonly #device: CudaDevice;
  readonly #pool: DeviceMemoryPool;

  constructor(device: CudaDevice) {
    this.#device = device;
    this.#pool = new DeviceMemoryPool(device.runtime);
  }

  run(): Roofs {
    const [source, target] = [this.#pool.allocate(BUFFER_BYTES), this.#pool.allocate(BUFFER_BYTES)];
    const { driver, stream } = this.#device.runtime;
    this.#fillRandomly(source, BUFFER_BYTES);
    this.#fillRandomly(target, BUFFER_BYTES);
    const copySeconds = this.#time(() => driver.copyOnDevice(target, source, BUFFER_BYTES, stream));
    return {
      copyBytesPerSecond: (2 * BUFFER_BYTES) / copySeconds,
      readBytesPerSecond: BUFFER_BYTES / this.#timeReading(source),
      matmulFlops: (2 * MATRIX_SIZE ** 3) / this.#timeMatmul(source, target),
      pinnedBytesPerSecond: PINNED_BYTES / this.#timePinned(target),
    };
  }

  close(): void {
    this.#pool.freeAll();
  }

  /** Median seconds by device events. */
  #time(launch: () => void): number {
    const { driver, stream } = this.#device.runtime;
    const [start, end] = [driver.createEvent(), driver.createEvent()];
    const seconds: number[] = [];
    launch();
    for (let i = 0; i < NUM_RUNS; i++) {
      driver.recordEvent(start, stream);
      launch();
      driver.recordEvent(end, stream);
      driver.synchronize(stream);
      seconds.push(driver.elapsedMs(start, end) / 1000);
    }
    driver.destroyEvent(start);
    driver.destroyEvent(end);
    return median(seconds);
  }

  #timeReading(source: number): number {
    const { runtime } = this.#device;
    const launcher = new KernelLauncher(runtime, this.#pool, {
      kind: 'kernel',
      source: 'read-memory.cu',
      entry: 'read_memory',
      defines: {},
      block: 512,
      sharedBytes: 0,
      grid: () => [runtime.gpu.numMultiprocessors * 4, 1, 1],
      parameters: [pointer(source), { int64: BUFFER_BYTES / 16 }, pointer(source)],
    });
    return this.#time(() => launcher.run(NO_COUNTS));
  }

  #timeMatmul(x: number, y: number): number {
    const { cublasLt, stream } = this.#device.runtime;
    const workspace = this.#pool.allocate(WORKSPACE_BYTES);
    const size = MATRIX_SIZE;
    const shape = { rows: size, outputs: size, inputs: size, xStride: size, yStride: size } as const;
    const types = { dtype: 'bfloat16', outputDType: 'bfloat16', bias: 0, alignment: 256 } as const;
    const product = cublasLt.describe({ ...shape, ...types });
    const [algorithm] = cublasLt.propose(product, { ...shape, ...types }, WORKSPACE_BYTES, 1);
    if (!algorithm) throw new Error('cuBLASLt has no algorithm for the product that is the roof');
    const places = { x, weight: x + size * size * 2, y, workspace };
    const seconds = this.#time(() => cublasLt.run(product, algorithm, places, stream));
    cublasLt.release(product);
    return seconds;
  }

  #timePinned(target: number): number {
    const { driver, stream } = this.#device.runtime;
    const { address } = this.#pool.allocatePinned(PINNED_BYTES);
    return this.#time(() => driver.copyToDevice(target, address, PINNED_BYTES, stream));
  }

  /** bf16 numbers around 0, a tile of them over and over: zeros would be faster than any real data. */
  #fillRandomly(target: number, bytes: number): void {
    const { driver, stream } = this.#device.runtime;
    const random = new Random(1);
    const tile = Uint16Array.from({ length: 2 ** 22 }, () => toBfloat16Bits(random.next() - 0.5));
    const place = this.#pool.upload(new Uint8Array(tile.buffer));
    for (let at = 0; at < bytes; at += tile.byteLength)
      driver.copyOnDevice(target + at, place, Math.min(tile.byteLength, bytes - at), stream);
  }
}
