// Launches made ready: a kernel's parameters are packed once; a step changes only grids and the few numbers that follow it.
import type { Address } from '../../ffi/native-memory.ts';
import { TENSOR_MAP_BYTES } from '../../ffi/cuda/tensor-map.ts';
import type { KernelLaunch, Parameter, StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool } from './device-memory.ts';
import { layoutOf } from './tensor-map-layout.ts';

/** `CUlaunchConfig`: grid, block, shared memory, stream, attributes and their number; then one `CUlaunchAttribute`. */
const CONFIG = {
  grid: 0,
  block: 12,
  sharedBytes: 24,
  stream: 32,
  attributes: 40,
  numAttributes: 48,
} as const;
const ATTRIBUTE = { at: 56, value: 64 } as const;
const PROGRAMMATIC_STREAM_SERIALIZATION = 6;
/** After them: the address of each parameter, then the parameters. */
const ADDRESSES_AT = 128;
/** Griddepcontrol came with Hopper; older chips start a launch when the previous one is done. */
const MIN_COMPUTE_CAPABILITY_TO_OVERLAP = 90;

export class KernelLauncher {
  readonly #runtime: CudaRuntime;
  readonly #launch: KernelLaunch;
  readonly #kernel: Address;
  readonly #address: Address;
  /** Parameters that follow the step, and how to write them. */
  readonly #changing: readonly { readonly at: number; readonly of: (counts: StepCounts) => number }[];
  readonly #data: DataView;
  readonly #bytes: Uint8Array;

  constructor(runtime: CudaRuntime, pool: DeviceMemoryPool, launch: KernelLaunch) {
    this.#runtime = runtime;
    this.#launch = launch;
    this.#kernel = runtime.kernel(launch.source, launch.entry, launch.defines, launch.sharedBytes);
    const { offsets, end } = layOut(launch.parameters);
    const { address, bytes } = pool.allocatePinned(end);
    this.#address = address;
    this.#bytes = bytes;
    this.#data = new DataView(bytes.buffer);
    this.#writeConfig();
    launch.parameters.forEach((parameter, i) => {
      this.#data.setBigUint64(ADDRESSES_AT + 8 * i, BigInt(address + offsets[i]), true);
      this.#write(offsets[i], parameter);
    });
    this.#changing = launch.parameters.flatMap((parameter, i) =>
      'count' in parameter ? [{ at: offsets[i], of: parameter.count }] : [],
    );
  }

  run(counts: StepCounts): void {
    const grid = this.#launch.grid(counts);
    if (grid.includes(0)) return;
    grid.forEach((size, i) => this.#data.setUint32(CONFIG.grid + 4 * i, size, true));
    for (const { at, of } of this.#changing) this.#data.setInt32(at, of(counts), true);
    this.#runtime.driver.launch(this.#kernel, this.#address, this.#address + ADDRESSES_AT);
  }

  #writeConfig(): void {
    const { block, sharedBytes, overlaps = false } = this.#launch;
    const { stream, gpu } = this.#runtime;
    const numAttributes = overlaps && gpu.computeCapability >= MIN_COMPUTE_CAPABILITY_TO_OVERLAP ? 1 : 0;
    const data = this.#data;
    [block, 1, 1].forEach((size, i) => data.setUint32(CONFIG.block + 4 * i, size, true));
    data.setUint32(CONFIG.sharedBytes, sharedBytes, true);
    data.setBigUint64(CONFIG.stream, BigInt(stream), true);
    data.setBigUint64(CONFIG.attributes, BigInt(this.#address + ATTRIBUTE.at), true);
    data.setUint32(CONFIG.numAttributes, numAttributes, true);
    data.setUint32(ATTRIBUTE.at, PROGRAMMATIC_STREAM_SERIALIZATION, true);
    data.setInt32(ATTRIBUTE.value, 1, true);
  }

  #write(at: number, parameter: Parameter): void {
    if ('pointer' in parameter) this.#data.setBigUint64(at, BigInt(parameter.pointer), true);
    else if ('int64' in parameter) this.#data.setBigInt64(at, BigInt(parameter.int64), true);
    else if ('int32' in parameter) this.#data.setInt32(at, parameter.int32, true);
    else if ('float32' in parameter) this.#data.setFloat32(at, parameter.float32, true);
    else if ('float64' in parameter) this.#data.setFloat64(at, parameter.float64, true);
    else if ('tensorMap' in parameter)
      this.#bytes.set(this.#runtime.driver.encodeTensorMap(layoutOf(parameter.tensorMap)), at);
  }
}

/** Where each parameter is kept, and where the last ends. */
function layOut(parameters: readonly Parameter[]): { offsets: readonly number[]; end: number } {
  const offsets: number[] = [];
  let end = ADDRESSES_AT + 8 * parameters.length;
  for (const parameter of parameters) {
    offsets.push(end);
    end += 'tensorMap' in parameter ? TENSOR_MAP_BYTES : 8;
  }
  return { offsets, end };
}
