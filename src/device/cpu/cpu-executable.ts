// A plan loaded on the CPU device: each step is written into native memory and run by one call.
import type { BufferOperand, Plan } from '../../compiler/plan.ts';
import { Status } from '../../ffi/cpu-library.ts';
import type { Address } from '../../ffi/native-memory.ts';
import { DeviceError, type DeviceMemory, type Executable } from '../device.ts';
import { rowsOf, type StepBatch, type StepResult } from '../step.ts';
import type { CpuRuntime } from './cpu-runtime.ts';
import type { LoadedPlan } from './load-plan.ts';
import { encodeProgram } from './program-blob.ts';
import { StepMemory } from './step-memory.ts';

export class CpuExecutable implements Executable {
  readonly plan: Plan;
  readonly memory: DeviceMemory;
  readonly maxStepsInFlight = 1;
  readonly #runtime: CpuRuntime;
  readonly #loaded: LoadedPlan;
  readonly #program: Address;
  readonly #step: StepMemory;
  readonly #onDispose: () => void;
  #running: Promise<unknown> | null = null;
  #isDisposed = false;

  /** Takes over `loaded`, whose memory `dispose` frees; `onDispose` is called then. */
  constructor(plan: Plan, loaded: LoadedPlan, runtime: CpuRuntime, onDispose: () => void) {
    this.plan = plan;
    this.memory = loaded.memory;
    this.#runtime = runtime;
    this.#loaded = loaded;
    this.#onDispose = onDispose;
    const blob = encodeProgram(plan, loaded.placement, (name) => runtime.library.findKernel(name));
    this.#program = runtime.library.createProgram(runtime.address, blob);
    this.#step = new StepMemory(runtime.library, plan);
  }

  /** A step with a number out of range is refused with a `DeviceError` and harms nothing; others may follow. */
  async run(step: StepBatch): Promise<StepResult> {
    if (this.#isDisposed) throw new DeviceError('the executable was disposed of');
    if (this.#running) throw new DeviceError('a step is running already');
    this.#step.write(step);
    const { library } = this.#runtime;
    const running = this.#runtime.run((job) => library.submitStep(this.#program, this.#step.address, job));
    this.#running = running;
    const status = await running;
    this.#running = null;
    if (status === Status.invalidStep)
      throw new DeviceError(`the step was refused: ${this.#step.readMessage()}`);
    if (status !== Status.ok) throw new DeviceError('the device was closed during a step');
    const result = this.#step.readResult(step.returnLogits ? this.#readFloats(this.plan.logits, step) : null);
    const { outputs } = this.plan;
    if (outputs.length === 0) return result;
    const values = outputs.map(({ name, operand }) => [name, this.#readFloats(operand, step)] as const);
    return { ...result, outputs: new Map(values) };
  }

  async dispose(): Promise<void> {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    await this.#running;
    this.#runtime.library.destroyProgram(this.#program);
    this.#step.free();
    this.#loaded.free();
    this.#onDispose();
  }

  #readFloats({ id, columnStart, columns, rowStride }: BufferOperand, step: StepBatch): Float32Array {
    const { shape, offset } = this.plan.buffers[id];
    const numRows = rowsOf(shape[0], step);
    const start = this.#loaded.placement.arena + offset + columnStart * 4;
    const values = new Float32Array(numRows * columns);
    // Rows that lie one behind the other are one piece: a view costs more than the copy.
    const [numPieces, length] = rowStride === columns ? [1, numRows * columns] : [numRows, columns];
    for (let piece = 0; piece < numPieces; piece++) {
      const view = this.#runtime.library.view(start + piece * rowStride * 4, length * 4);
      values.set(new Float32Array(view), piece * length);
    }
    return values;
  }
}
