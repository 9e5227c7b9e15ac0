// NVIDIA's driver API, as much of it as we call: addresses and handles are numbers, every result is checked by name.
import { NeedletailError, type ErrorCode } from '../../util/errors.ts';
import { nativeView, type Address } from '../native-memory.ts';
import { driverFunctions } from './driver-functions.ts';
import { tryLoad } from './find-library.ts';
import { TENSOR_MAP, TENSOR_MAP_BYTES, type TensorMapLayout } from './tensor-map.ts';

const CUDA_SUCCESS = 0;
const CUDA_ERROR_OUT_OF_MEMORY = 2;
const CUDA_ERROR_NO_DEVICE = 100;
/** After these nothing works any more in this process: illegal accesses and instructions, time-outs, hardware errors. */
const FATAL_ERRORS: readonly number[] = [214, 220, 226, 700, 702, 710, 714, 715, 716, 717, 718, 719, 999];

const ATTRIBUTES = {
  maxSharedMemoryPerBlock: 97, // opt-in
  numMultiprocessors: 16,
  computeCapabilityMajor: 75,
  computeCapabilityMinor: 76,
} as const;

const MAX_DYNAMIC_SHARED_BYTES = 8;

export interface GpuProperties {
  readonly ordinal: number;
  readonly name: string;
  /** 90 for 9.0. */
  readonly computeCapability: number;
  readonly numMultiprocessors: number;
  readonly maxSharedMemoryPerBlock: number;
  readonly totalBytes: number;
}

export class CudaDriver {
  /** Newest CUDA version that the driver runs: 13000 for 13.0. */
  readonly version: number;
  readonly #functions: ReturnType<typeof driverFunctions>;
  #isLost = false;
  /** Bytes of each allocation on the device. */
  readonly #allocations = new Map<Address, number>();

  private constructor(functions: ReturnType<typeof driverFunctions>) {
    this.#functions = functions;
    const status = functions.cuInit(0);
    if (status === CUDA_ERROR_NO_DEVICE) throw noGpu();
    this.check('cuInit', status);
    this.version = this.#readInt('cuDriverGetVersion', (out) => functions.cuDriverGetVersion(out));
  }

  /** Throws `unsupported_platform` if there is no driver or no GPU that it can use. */
  static load(): CudaDriver {
    const library = tryLoad('libcuda.so.1');
    if (!library) {
      const message =
        'there is no NVIDIA driver (libcuda.so.1): install one for your GPU, or use --device cpu';
      throw new NeedletailError('unsupported_platform', message);
    }
    const driver = new CudaDriver(driverFunctions(library));
    if (driver.numGpus() > 0) return driver;
    throw noGpu();
  }

  /** Addresses of the driver's functions, for threads that are not Node's: in the order of `NtCopyFunctions`. */
  get copyFunctions(): readonly Address[] {
    return this.#functions.copyFunctions;
  }

  /** Major versions of libraries that it runs, newest first. */
  get libraryMajors(): readonly number[] {
    const newest = Math.floor(this.version / 1000);
    return [newest, newest - 1].filter((major) => major >= 12);
  }

  numGpus(): number {
    return this.#readInt('cuDeviceGetCount', (out) => this.#functions.cuDeviceGetCount(out));
  }

  gpu(ordinal: number): GpuProperties {
    const f = this.#functions;
    const device = this.#readInt('cuDeviceGet', (out) => f.cuDeviceGet(out, ordinal));
    const attribute = (name: keyof typeof ATTRIBUTES): number =>
      this.#readInt('cuDeviceGetAttribute', (out) => f.cuDeviceGetAttribute(out, ATTRIBUTES[name], device));
    const name = Buffer.alloc(256);
    this.check('cuDeviceGetName', f.cuDeviceGetName(name, name.length, device));
    return {
      ordinal,
      name: name.toString('utf8', 0, name.indexOf(0)),
      computeCapability: attribute('computeCapabilityMajor') * 10 + attribute('computeCapabilityMinor'),
      numMultiprocessors: attribute('numMultiprocessors'),
      maxSharedMemoryPerBlock: attribute('maxSharedMemoryPerBlock'),
      totalBytes: this.#readAddress('cuDeviceTotalMem', (out) => f.cuDeviceTotalMem_v2(out, device)),
    };
  }

  /** The GPU's primary context, made current. */
  openContext(ordinal: number): Address {
    const f = this.#functions;
    const context = this.#readAddress('cuDevicePrimaryCtxRetain', (out) =>
      f.cuDevicePrimaryCtxRetain(out, ordinal),
    );
    this.setContext(context);
    return context;
  }

  setContext(context: Address): void {
    this.check('cuCtxSetCurrent', this.#functions.cuCtxSetCurrent(context));
  }

  closeContext(ordinal: number): void {
    this.#checkRelease('cuDevicePrimaryCtxRelease', this.#functions.cuDevicePrimaryCtxRelease_v2(ordinal));
  }

  /** Free and total bytes of the current context's GPU. */
  memoryInfo(): { freeBytes: number; totalBytes: number } {
    const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
    this.check('cuMemGetInfo', this.#functions.cuMemGetInfo_v2(free, total));
    return { freeBytes: Number(free[0]), totalBytes: Number(total[0]) };
  }

  /** Throws `out_of_memory` if the GPU has not so much left. */
  allocate(bytes: number): Address {
    const address = this.#readAddress(`cuMemAlloc of ${bytes} bytes`, (out) =>
      this.#functions.cuMemAlloc_v2(out, bytes),
    );
    this.#allocations.set(address, bytes);
    return address;
  }

  /** Bytes allocated and not freed. */
  get heldBytes(): number {
    return [...this.#allocations.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  free(address: Address): void {
    this.#allocations.delete(address);
    this.#checkRelease('cuMemFree', this.#functions.cuMemFree_v2(address));
  }

  /** Page-locked host memory, which the GPU reads and writes at full speed. */
  allocatePinned(bytes: number): Address {
    return this.#readAddress(`cuMemHostAlloc of ${bytes} bytes`, (out) =>
      this.#functions.cuMemHostAlloc(out, bytes, 0),
    );
  }

  freePinned(address: Address): void {
    this.#checkRelease('cuMemFreeHost', this.#functions.cuMemFreeHost(address));
  }

  /** Page-locks memory that is there already. */
  lockPages(address: Address, bytes: number): void {
    this.check(
      `cuMemHostRegister of ${bytes} bytes`,
      this.#functions.cuMemHostRegister_v2(address, bytes, 0),
    );
  }

  unlockPages(address: Address): void {
    this.#checkRelease('cuMemHostUnregister', this.#functions.cuMemHostUnregister(address));
  }

  /** Host memory as an ArrayBuffer, valid until it is freed. */
  view(address: Address, bytes: number): ArrayBuffer {
    return nativeView(address, bytes);
  }

  copyToDevice(target: Address, source: Address, bytes: number, stream: Address): void {
    this.check('cuMemcpyHtoDAsync', this.#functions.cuMemcpyHtoDAsync_v2(target, source, bytes, stream));
  }

  copyToHost(target: Address, source: Address, bytes: number, stream: Address): void {
    this.check('cuMemcpyDtoHAsync', this.#functions.cuMemcpyDtoHAsync_v2(target, source, bytes, stream));
  }

  copyOnDevice(target: Address, source: Address, bytes: number, stream: Address): void {
    this.check('cuMemcpyDtoDAsync', this.#functions.cuMemcpyDtoDAsync_v2(target, source, bytes, stream));
  }

  fill(target: Address, byte: number, bytes: number, stream: Address): void {
    this.check('cuMemsetD8Async', this.#functions.cuMemsetD8Async(target, byte, bytes, stream));
  }

  createStream(): Address {
    const NON_BLOCKING = 1;
    return this.#readAddress('cuStreamCreate', (out) => this.#functions.cuStreamCreate(out, NON_BLOCKING));
  }

  destroyStream(stream: Address): void {
    this.#checkRelease('cuStreamDestroy', this.#functions.cuStreamDestroy_v2(stream));
  }

  /** Blocks this thread until all that was put on the stream is done. Throws `device_failed` if any of it failed. */
  synchronize(stream: Address): void {
    this.check('cuStreamSynchronize', this.#functions.cuStreamSynchronize(stream));
  }

  /** Whether all is done; throws `device_failed` if the GPU failed. */
  isStreamDone(stream: Address): boolean {
    const CUDA_ERROR_NOT_READY = 600;
    const status = this.#functions.cuStreamQuery(stream);
    if (status === CUDA_ERROR_NOT_READY) return false;
    this.check('cuStreamQuery', status);
    return true;
  }

  /** The driver calls the C function at `callback` with `argument` once the stream gets there. */
  launchHostFunction(stream: Address, callback: Address, argument: Address): void {
    this.check('cuLaunchHostFunc', this.#functions.cuLaunchHostFunc(stream, callback, argument));
  }

  /** What is put on the stream from here on waits for the event. */
  waitForEvent(stream: Address, event: Address): void {
    this.check('cuStreamWaitEvent', this.#functions.cuStreamWaitEvent(stream, event, 0));
  }

  createEvent(): Address {
    return this.#readAddress('cuEventCreate', (out) => this.#functions.cuEventCreate(out, 0));
  }

  /** One that times nothing; who waits for it sleeps. */
  createQuietEvent(): Address {
    const BLOCKING_SYNC = 1;
    const DISABLE_TIMING = 2;
    return this.#readAddress('cuEventCreate', (out) =>
      this.#functions.cuEventCreate(out, BLOCKING_SYNC | DISABLE_TIMING),
    );
  }

  destroyEvent(event: Address): void {
    this.#checkRelease('cuEventDestroy', this.#functions.cuEventDestroy_v2(event));
  }

  recordEvent(event: Address, stream: Address): void {
    this.check('cuEventRecord', this.#functions.cuEventRecord(event, stream));
  }

  /** Milliseconds between two events that the GPU has passed. */
  elapsedMs(start: Address, end: Address): number {
    const out = new Float32Array(1);
    this.check('cuEventElapsedTime', this.#functions.cuEventElapsedTime(out, start, end));
    return out[0];
  }

  /** Loads a cubin, or PTX that the driver compiles. Throws `device_failed` if it does not suit the GPU. */
  loadModule(image: Uint8Array): Address {
    return this.#readAddress('cuModuleLoadData', (out) => this.#functions.cuModuleLoadData(out, image));
  }

  unloadModule(module: Address): void {
    this.#checkRelease('cuModuleUnload', this.#functions.cuModuleUnload(module));
  }

  findFunction(module: Address, name: string): Address {
    return this.#readAddress(`cuModuleGetFunction of ${name}`, (out) =>
      this.#functions.cuModuleGetFunction(out, module, name),
    );
  }

  /** A block gets more than 48 KB of shared memory only after this. */
  allowSharedBytes(kernel: Address, bytes: number): void {
    const status = this.#functions.cuFuncSetAttribute(kernel, MAX_DYNAMIC_SHARED_BYTES, bytes);
    this.check(`cuFuncSetAttribute of ${bytes} bytes of shared memory`, status);
  }

  /** `config`: the address of a `CUlaunchConfig`; `parameters`: of the list of the parameters' addresses. */
  launch(kernel: Address, config: Address, parameters: Address): void {
    this.check('cuLaunchKernelEx', this.#functions.cuLaunchKernelEx(config, kernel, parameters, 0));
  }

  /** A `CUtensorMap` (Hopper and newer). */
  encodeTensorMap({ address, itemBytes, sizes, strides, box }: TensorMapLayout): Uint8Array {
    const map = new Uint8Array(TENSOR_MAP_BYTES);
    const status = this.#functions.cuTensorMapEncodeTiled(
      map,
      itemBytes === 1 ? TENSOR_MAP.unsigned8 : TENSOR_MAP.unsigned16,
      sizes.length,
      address,
      BigUint64Array.from(sizes, BigInt),
      BigUint64Array.from(strides, BigInt),
      Uint32Array.from(box),
      new Uint32Array(sizes.length).fill(1),
      TENSOR_MAP.plain,
      TENSOR_MAP.swizzle128,
      TENSOR_MAP.plain, // Fetching more of a row at once than a box asks for slows streams of weights down.
      TENSOR_MAP.fillZeros,
    );
    this.check('cuTensorMapEncodeTiled', status);
    return map;
  }

  /** What is put on the stream from here on is recorded instead of run. */
  beginCapture(stream: Address): void {
    const THREAD_LOCAL = 1;
    this.check('cuStreamBeginCapture', this.#functions.cuStreamBeginCapture_v2(stream, THREAD_LOCAL));
  }

  /** Ends the capture and makes the record launchable. */
  endCapture(stream: Address): Address {
    const f = this.#functions;
    const graph = this.#readAddress('cuStreamEndCapture', (out) => f.cuStreamEndCapture(stream, out));
    try {
      return this.#readAddress('cuGraphInstantiate', (out) => f.cuGraphInstantiateWithFlags(out, graph, 0));
    } finally {
      this.check('cuGraphDestroy', f.cuGraphDestroy(graph));
    }
  }

  launchGraph(graph: Address, stream: Address): void {
    this.check('cuGraphLaunch', this.#functions.cuGraphLaunch(graph, stream));
  }

  destroyGraph(graph: Address): void {
    this.#checkRelease('cuGraphExecDestroy', this.#functions.cuGraphExecDestroy(graph));
  }

  #readInt(what: string, call: (out: Int32Array) => number): number {
    const out = new Int32Array(1);
    this.check(what, call(out));
    return out[0];
  }

  #readAddress(what: string, call: (out: BigUint64Array) => number): Address {
    const out = new BigUint64Array(1);
    this.check(what, call(out));
    return Number(out[0]);
  }

  /** The GPU failed for good: nothing can be computed, nor given back before the process ends. */
  get isLost(): boolean {
    return this.#isLost;
  }

  /** Of what gives something back: a lost GPU's complaints say nothing new. */
  #checkRelease(what: string, status: number): void {
    if (!this.#isLost) this.check(what, status);
  }

  /** Throws `device_failed` (or `out_of_memory`) if the driver's `status` says that `what` failed. */
  check(what: string, status: number): void {
    if (status === CUDA_SUCCESS) return;
    this.#isLost ||= FATAL_ERRORS.includes(status);
    const code: ErrorCode = status === CUDA_ERROR_OUT_OF_MEMORY ? 'out_of_memory' : 'device_failed';
    throw new NeedletailError(code, `${what} failed: ${this.#describe(status)}`);
  }

  #describe(status: number): string {
    const name: [string | null] = [null];
    const text: [string | null] = [null];
    this.#functions.cuGetErrorName(status, name);
    this.#functions.cuGetErrorString(status, text);
    return name[0] === null ? `error ${status}` : `${name[0]} (${text[0]})`;
  }
}

function noGpu(): NeedletailError {
  const message = 'the NVIDIA driver sees no GPU (check CUDA_VISIBLE_DEVICES)';
  return new NeedletailError('unsupported_platform', message);
}
