// A plan loaded on the reference device: its buffers in one arena, its launches run one by one through the ops.
import { setImmediate } from 'node:timers/promises';
import type { BufferOperand, Launch, Plan } from '../../compiler/plan.ts';
import { floatsOf, type HostTensor } from '../../ir/host-tensor.ts';
import { PagedKVCaches } from '../../ir/paged-kv-cache.ts';
import { itemSize, type DType } from '../../tensor/dtype.ts';
import { fromFloat8E4M3Bits, toFloat8E4M3Bits } from '../../tensor/float8.ts';
import { DeviceError, type DeviceMemory, type Executable } from '../device.ts';
import { rowsOf, type StepBatch, type StepResult } from '../step.ts';
import { interpretLaunch } from './interpret-launch.ts';
import { sampleLogits } from './sample.ts';

type Arena = Float32Array | Int32Array | Int8Array | Uint8Array;

export class ReferenceExecutable implements Executable {
  readonly plan: Plan;
  readonly memory: DeviceMemory;
  readonly maxStepsInFlight = 1;
  readonly #weights: readonly HostTensor[];
  readonly #caches: PagedKVCaches;
  readonly #arena: Float32Array;
  /** The same memory, for buffers of each type. */
  readonly #views: ReadonlyMap<DType, Arena>;
  #failure: DeviceError | null = null;

  constructor(plan: Plan, weights: readonly Float32Array[], numBlocks: readonly number[]) {
    this.plan = plan;
    this.memory = plannedMemory(plan, numBlocks);
    this.#weights = plan.weights.map(({ shape }, i) => ({ shape, data: weights[i] }));
    const groups = plan.kvCacheGroups.map((group) => group.layers);
    this.#caches = new PagedKVCaches(groups, plan.blockSize, numBlocks);
    // Of whole words, whatever its last buffer holds.
    this.#arena = new Float32Array(Math.ceil(plan.arenaBytes / 4));
    this.#views = new Map<DType, Arena>([
      ['float32', this.#arena],
      ['int32', new Int32Array(this.#arena.buffer)],
      ['int8', new Int8Array(this.#arena.buffer)],
      ['float8_e4m3fn', new Uint8Array(this.#arena.buffer)],
    ]);
  }

  async run(step: StepBatch): Promise<StepResult> {
    await setImmediate();
    if (this.#failure) throw this.#failure;
    try {
      return this.#runStep(step);
    } catch (error) {
      this.#failure = new DeviceError(`the reference device failed: ${String(error)}`, { cause: error });
      throw this.#failure;
    }
  }

  async dispose(): Promise<void> {
    this.#failure = new DeviceError('this executable was disposed of');
  }

  #runStep(step: StepBatch): StepResult {
    this.#caches.copyBlocks(step.blockCopies);
    // What a launch reads before anyone wrote it must not look like a number.
    this.#arena.fill(NaN);
    for (const launch of this.plan.launches) this.#launch(launch, step);
    const logits = floatsOf(this.#readBuffer(this.plan.logits, step)).slice();
    const sampled = sampleLogits(logits, this.plan.model.vocabSize, step.sampling);
    const result = { ...sampled, logits: step.returnLogits ? logits : null };
    const { outputs } = this.plan;
    if (outputs.length === 0) return result;
    const values = outputs.map(
      ({ name, operand }) => [name, floatsOf(this.#readBuffer(operand, step))] as const,
    );
    return { ...result, outputs: new Map(values) };
  }

  #launch(launch: Launch, step: StepBatch): void {
    const outputs = interpretLaunch(launch, {
      step,
      weights: this.#weights,
      caches: this.#caches,
      readBuffer: (operand) => this.#readBuffer(operand, step),
    });
    launch.outputs.forEach((operand, i) => {
      if (operand.kind === 'buffer') this.#writeBuffer(operand, outputs[i]);
    });
  }

  #readBuffer(operand: BufferOperand, step: StepBatch): HostTensor {
    const { columnStart, columns, rowStride } = operand;
    const { shape, dtype } = this.plan.buffers[operand.id];
    const numRows = rowsOf(shape[0], step);
    const { memory, start } = this.#placeOf(operand);
    const size = numRows * columns;
    const data = dtype === 'int32' ? new Int32Array(size) : new Float32Array(size);
    for (let row = 0; row < numRows; row++) {
      const from = start + row * rowStride + columnStart;
      const stored = memory.subarray(from, from + columns);
      data.set(dtype === 'float8_e4m3fn' ? Array.from(stored, fromFloat8E4M3Bits) : stored, row * columns);
    }
    return { shape: [numRows, columns], data };
  }

  #writeBuffer(operand: BufferOperand, { shape, data }: HostTensor): void {
    const { columnStart, columns, rowStride } = operand;
    const { dtype } = this.plan.buffers[operand.id];
    const { memory, start } = this.#placeOf(operand);
    for (let row = 0; row < shape[0]; row++) {
      const values = data.subarray(row * columns, (row + 1) * columns);
      const stored = dtype === 'float8_e4m3fn' ? Array.from(values, toFloat8E4M3Bits) : values;
      memory.set(stored, start + row * rowStride + columnStart);
    }
  }

  /** The arena as the buffer's type, and the element at which the buffer starts. */
  #placeOf(operand: BufferOperand): { readonly memory: Arena; readonly start: number } {
    const { dtype, offset, name } = this.plan.buffers[operand.id];
    const memory = this.#views.get(dtype);
    if (!memory) throw new Error(`buffer ${name} is ${dtype}; the reference device computes in float32`);
    return { memory, start: offset / itemSize(dtype) };
  }
}

/** Counted as the plan counts them: 16-bit weights and caches are kept as the float32 values that they hold. */
function plannedMemory(plan: Plan, numBlocks: readonly number[]): DeviceMemory {
  const bytesOf = (items: readonly { readonly bytes: number }[]): number =>
    items.reduce((sum, item) => sum + item.bytes, 0);
  return {
    weights: bytesOf(plan.weights) + bytesOf(plan.ropeTables),
    kvCache: plan.kvCacheGroups.reduce(
      (sum, group) => sum + numBlocks[group.index] * plan.blockSize * group.bytesPerToken,
      0,
    ),
    activations: plan.arenaBytes,
    workspace: plan.workspaceBytes,
    steps: 0,
  };
}
