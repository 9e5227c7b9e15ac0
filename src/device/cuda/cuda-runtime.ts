// One GPU opened: its context, a stream, compiled kernels, and what must be given back at the end.
import type { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { CudaDriver, GpuProperties } from '../../ffi/cuda/driver.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { CublasLt } from '../../ffi/cuda/cublaslt.ts';
import type { Defines } from '../../kernels/cuda/cuda-kernel.ts';
import type { KernelCache } from './kernel-cache.ts';
import type { StepTimer } from './step-timer.ts';
import { MatmulTuner } from './matmul-tuner.ts';

export class CudaRuntime {
  readonly driver: CudaDriver;
  readonly cublasLt: CublasLt;
  /** Has the threads that read weights. */
  readonly library: CpuLibrary;
  readonly cache: KernelCache;
  readonly gpu: GpuProperties;
  readonly stream: Address;
  /** Work on it does no more than tell the host how far `stream` is. */
  readonly signalStream: Address;
  /** Set by measurements. */
  timer: StepTimer | null = null;
  readonly tuner: MatmulTuner;
  readonly context: Address;
  readonly #modules = new Map<string, Address>();
  /** Dynamic shared memory that kernels are allowed: what the greediest of their launches takes. */
  readonly #sharedBytes = new Map<Address, number>();

  constructor(
    driver: CudaDriver,
    cublasLt: CublasLt,
    library: CpuLibrary,
    cache: KernelCache,
    gpu: GpuProperties,
  ) {
    this.driver = driver;
    this.cublasLt = cublasLt;
    this.library = library;
    this.cache = cache;
    this.gpu = gpu;
    this.context = driver.openContext(gpu.ordinal);
    this.stream = driver.createStream();
    this.signalStream = driver.createStream();
    this.tuner = new MatmulTuner(this, cache.directory, gpu.name);
  }

  /** Must come before calls of the driver on a thread where another GPU may have been used. */
  makeCurrent(): void {
    this.driver.setContext(this.context);
  }

  /** A kernel, compiled or from the cache, allowed at least `sharedBytes` of dynamic shared memory. */
  kernel(source: string, entry: string, defines: Defines, sharedBytes = 0): Address {
    const key = `${source} ${JSON.stringify(defines)}`;
    const module = this.#modules.get(key) ?? this.driver.loadModule(this.cache.load(source, defines));
    this.#modules.set(key, module);
    const kernel = this.driver.findFunction(module, entry);
    if (sharedBytes > (this.#sharedBytes.get(kernel) ?? 0)) {
      this.driver.allowSharedBytes(kernel, sharedBytes);
      this.#sharedBytes.set(kernel, sharedBytes);
    }
    return kernel;
  }

  close(): void {
    this.makeCurrent();
    for (const module of this.#modules.values()) this.driver.unloadModule(module);
    this.driver.destroyStream(this.stream);
    this.driver.destroyStream(this.signalStream);
    if (!this.driver.isLost) this.cublasLt.dispose();
    this.driver.closeContext(this.gpu.ordinal);
  }
}
