// The CPU device: one native library for this processor and one pool of threads that runs its plans.
import { availableParallelism, totalmem } from 'node:os';
import type { Plan, Target } from '../../compiler/plan.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { CalibrationMath } from '../../tensor/calibration-math.ts';
import type { PackedWeightSource, TensorSource } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { Device, Executable, LoadOptions } from '../device.ts';
import { calibrationMath } from './calibration-math.ts';
import { CpuExecutable } from './cpu-executable.ts';
import { CpuRuntime } from './cpu-runtime.ts';
import { loadPlan } from './load-plan.ts';

export interface CpuDeviceOptions {
  /** null: one per core that this process may use. */
  readonly numThreads: number | null;
  /** Instruction set; by default NEEDLETAIL_CPU_ARCH or the best that this processor has. */
  readonly arch?: string;
}

export class CpuDevice implements Device {
  readonly target: Target;
  readonly description: string;
  /** On all threads. */
  readonly calibrationMath: CalibrationMath;
  readonly #runtime: CpuRuntime;
  readonly #executables = new Set<Executable>();

  private constructor(runtime: CpuRuntime) {
    const { arch } = runtime.library;
    this.#runtime = runtime;
    this.target = { kind: 'cpu', arch };
    this.calibrationMath = calibrationMath(runtime);
    this.description = `${runtime.numThreads} ${runtime.numThreads === 1 ? 'thread' : 'threads'}, ${arch}`;
  }

  /** Throws `unsupported_platform` if no library fits this machine. */
  static async open(options: CpuDeviceOptions): Promise<CpuDevice> {
    const library = CpuLibrary.load(options.arch ?? (process.env['NEEDLETAIL_CPU_ARCH'] || null));
    return new CpuDevice(new CpuRuntime(library, options.numThreads ?? availableParallelism()));
  }

  availableMemory(): number {
    // A container's limit; 0 or absurdly large where there is none.
    const limit = process.constrainedMemory();
    return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
  }

  async load(
    plan: Plan,
    source: TensorSource | PackedWeightSource,
    options: LoadOptions,
  ): Promise<Executable> {
    this.#checkTarget(plan);
    const loaded = await loadPlan(plan, source, options, this.#runtime);
    try {
      const executable: CpuExecutable = new CpuExecutable(plan, loaded, this.#runtime, () =>
        this.#executables.delete(executable),
      );
      this.#executables.add(executable);
      return executable;
    } catch (error) {
      loaded.free();
      throw error;
    }
  }

  /** Waits for running steps and frees everything that was loaded. */
  async dispose(): Promise<void> {
    await Promise.all([...this.#executables].map((executable) => executable.dispose()));
    this.#runtime.close();
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
