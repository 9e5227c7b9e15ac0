// Launches made ready: a kernel's parameters are packed once; a step changes only grids and the few numbers that follow it.
import type { Address, LaunchShape } from '../../ffi/cuda/driver.ts';
import type { KernelLaunch, Parameter, StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool } from './device-memory.ts';

/** `CU_LAUNCH_PARAM_BUFFER_POINTER` and `…_SIZE`, with their arguments and the end mark: five words. */
const EXTRA_BYTES = 40;
const BUFFER_POINTER = 1n;
const BUFFER_SIZE = 2n;

export class KernelLauncher {
  readonly #runtime: CudaRuntime;
  readonly #launch: KernelLaunch;
  readonly #kernel: Address;
  readonly #extra: Address;
  /** Parameters that follow the step, and how to write them. */
  readonly #changing: readonly { readonly at: number; readonly of: (counts: StepCounts) => number }[];
  readonly #data: DataView;

  constructor(runtime: CudaRuntime, pool: DeviceMemoryPool, launch: KernelLaunch) {
    this.#runtime = runtime;
    this.#launch = launch;
    this.#kernel = runtime.kernel(launch.source, launch.entry, launch.defines, launch.sharedBytes);
    const { offsets, size } = parameterOffsets(launch.parameters);
    const { address, bytes } = pool.allocatePinned(EXTRA_BYTES + 8 + size);
    this.#extra = address;
    this.#data = new DataView(bytes.buffer);
    const sizeAt = EXTRA_BYTES;
    const parametersAt = EXTRA_BYTES + 8;
    const words = [
      BUFFER_POINTER,
      BigInt(address + parametersAt),
      BUFFER_SIZE,
      BigInt(address + sizeAt),
      0n,
      BigInt(size),
    ];
    words.forEach((word, i) => this.#data.setBigUint64(8 * i, word, true));
    launch.parameters.forEach((parameter, i) => this.#write(parametersAt + offsets[i], parameter));
    this.#changing = launch.parameters.flatMap((parameter, i) =>
      'count' in parameter ? [{ at: parametersAt + offsets[i], of: parameter.count }] : [],
    );
  }

  run(counts: StepCounts): void {
    const { grid, block, sharedBytes } = this.#launch;
    const shape: LaunchShape = { grid: grid(counts), block, sharedBytes };
    if (shape.grid.includes(0)) return;
    for (const { at, of } of this.#changing) this.#data.setInt32(at, of(counts), true);
    this.#runtime.driver.launch(this.#kernel, shape, this.#extra, this.#runtime.stream);
  }

  #write(at: number, parameter: Parameter): void {
    if ('pointer' in parameter) this.#data.setBigUint64(at, BigInt(parameter.pointer), true);
    else if ('int64' in parameter) this.#data.setBigInt64(at, BigInt(parameter.int64), true);
    else if ('int32' in parameter) this.#data.setInt32(at, parameter.int32, true);
    else if ('float32' in parameter) this.#data.setFloat32(at, parameter.float32, true);
    else if ('float64' in parameter) this.#data.setFloat64(at, parameter.float64, true);
  }
}

/** Each parameter at a multiple of its size, as C lays them out. */
function parameterOffsets(parameters: readonly Parameter[]): { offsets: readonly number[]; size: number } {
  const offsets: number[] = [];
  let size = 0;
  for (const parameter of parameters) {
    const bytes = ['pointer', 'int64', 'float64'].some((name) => name in parameter) ? 8 : 4;
    size = Math.ceil(size / bytes) * bytes;
    offsets.push(size);
    size += bytes;
  }
  return { offsets, size };
}
