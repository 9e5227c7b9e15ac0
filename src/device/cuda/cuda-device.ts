// The CUDA device: one NVIDIA GPU, driven straight through its driver, with kernels compiled for the chip at hand.
import type { Plan, Target } from '../../compiler/plan.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { CublasLt } from '../../ffi/cuda/cublaslt.ts';
import { CudaDriver } from '../../ffi/cuda/driver.ts';
import { Nvrtc } from '../../ffi/cuda/nvrtc.ts';
import type { PackedWeightSource, TensorSource } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import { formatBytes } from '../../util/format-bytes.ts';
import type { Device, Executable, LoadOptions } from '../device.ts';
import { CudaExecutable } from './cuda-executable.ts';
import { CudaRuntime } from './cuda-runtime.ts';
import { KernelCache } from './kernel-cache.ts';

/** bf16 and asynchronous copies to shared memory came with Ampere. */
const MIN_COMPUTE_CAPABILITY = 80;

export class CudaDevice implements Device {
  readonly target: Target;
  readonly description: string;
  /** For tests and measurements of single kernels. */
  readonly runtime: CudaRuntime;
  readonly #executables = new Set<Executable>();

  private constructor(runtime: CudaRuntime) {
    const { name, computeCapability, totalBytes } = runtime.gpu;
    this.runtime = runtime;
    this.target = { kind: 'cuda', arch: `sm_${computeCapability}` };
    this.description = `${name}, ${formatBytes(totalBytes)}`;
  }

  /** Throws `unsupported_platform`, saying what is missing or too old. */
  static async open(driver = CudaDriver.load()): Promise<CudaDevice> {
    const gpu = driver.gpu(0);
    if (gpu.computeCapability < MIN_COMPUTE_CAPABILITY) {
      const capability = (gpu.computeCapability / 10).toFixed(1);
      throw new NeedletailError(
        'unsupported_platform',
        `${gpu.name} has compute capability ${capability}; 8.0 (Ampere) or newer is needed. Use --device cpu`,
      );
    }
    const nvrtc = Nvrtc.load(driver.libraryMajors);
    const cublasLt = CublasLt.load(driver.libraryMajors);
    const cache = new KernelCache(nvrtc, gpu.computeCapability);
    return new CudaDevice(new CudaRuntime(driver, cublasLt, CpuLibrary.load(null), cache, gpu));
  }

  /** What is free on the GPU now. */
  availableMemory(): number {
    this.runtime.makeCurrent();
    return this.runtime.driver.memoryInfo().freeBytes;
  }

  async load(
    plan: Plan,
    source: TensorSource | PackedWeightSource,
    options: LoadOptions,
  ): Promise<Executable> {
    this.#checkTarget(plan);
    this.runtime.makeCurrent();
    const forget = (executable: CudaExecutable): void => void this.#executables.delete(executable);
    const executable = await CudaExecutable.load(this.runtime, plan, source, options, forget);
    this.#executables.add(executable);
    return executable;
  }

  /** Waits for running steps and frees everything that was loaded. */
  async dispose(): Promise<void> {
    await Promise.all([...this.#executables].map((executable) => executable.dispose()));
    this.runtime.close();
  }

  #checkTarget({ header: { target } }: Plan): void {
    const { kind, arch } = this.target;
    if (target.kind === kind && target.arch === arch) return;
    throw new NeedletailError(
      'bad_plan',
      `the plan is for ${target.kind} ${target.arch}, this device is ${kind} ${arch}: build it again here`,
    );
  }
}
