// Entry of an engine's process as the product's own, but for a GPU that breaks in a step that reads a certain token.
import type { Plan, Target } from '../../src/compiler/plan.ts';
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';
import type { Device, DeviceMemory, Executable, LoadOptions } from '../../src/device/device.ts';
import type { StepBatch, StepResult } from '../../src/device/step.ts';
import { loadEngine } from '../../src/engine/load-engine.ts';
import { runEngineProcess } from '../../src/engine/process/run-engine-process.ts';
import type { PackedWeightSource, TensorSource } from '../../src/tensor/tensor-source.ts';
import { launchWildKernel } from './wild-kernel.ts';

/** The token after which nothing works any more. */
export const FAULT_TOKEN = 13;

class FaultyDevice implements Device {
  readonly target: Target;
  readonly description: string;
  readonly #device: CudaDevice;

  constructor(device: CudaDevice) {
    this.target = device.target;
    this.description = device.description;
    this.#device = device;
  }

  availableMemory(): number {
    return this.#device.availableMemory();
  }

  async load(
    plan: Plan,
    source: TensorSource | PackedWeightSource,
    options: LoadOptions,
  ): Promise<Executable> {
    return new FaultyExecutable(this.#device, await this.#device.load(plan, source, options));
  }

  dispose(): Promise<void> {
    return this.#device.dispose();
  }
}

class FaultyExecutable implements Executable {
  readonly plan: Plan;
  readonly memory: DeviceMemory;
  readonly maxStepsInFlight: number;
  readonly #device: CudaDevice;
  readonly #executable: Executable;

  constructor(device: CudaDevice, executable: Executable) {
    this.plan = executable.plan;
    this.memory = executable.memory;
    this.maxStepsInFlight = executable.maxStepsInFlight;
    this.#device = device;
    this.#executable = executable;
  }

  run(step: StepBatch): Promise<StepResult> {
    if (step.tokenIds.includes(FAULT_TOKEN)) launchWildKernel(this.#device.runtime);
    return this.#executable.run(step);
  }

  dispose(): Promise<void> {
    return this.#executable.dispose();
  }
}

await runEngineProcess(async (config, { onProgress }) =>
  loadEngine(config, { onProgress, device: new FaultyDevice(await CudaDevice.open()) }),
);
