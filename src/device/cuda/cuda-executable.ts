// A plan loaded on a GPU: a step is one kernel that brings its arrays, then its launches or one recorded graph. Two may be in
// flight: the second waits on the GPU for the first, not for the host.
import { setImmediate } from 'node:timers/promises';
import type { BufferOperand, Plan } from '../../compiler/plan.ts';
import { pointer } from '../../kernels/cuda/cuda-kernel.ts';
import type { PackedWeightSource, TensorSource } from '../../tensor/tensor-source.ts';
import { isNeedletailError, NeedletailError } from '../../util/errors.ts';
import { formatBytes } from '../../util/format-bytes.ts';
import { DeviceError, type DeviceMemory, type Executable, type LoadOptions } from '../device.ts';
import { rowsOf, type StepBatch, type StepResult } from '../step.ts';
import { checkStep, tokenIdLimit } from './check-step.ts';
import { CudaProgram } from './cuda-program.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import { DeviceMemoryPool } from './device-memory.ts';
import { KernelLauncher } from './kernel-launcher.ts';
import { loadWeights } from './load-weights.ts';
import { OutputReader } from './output-reader.ts';
import { placePlan, type Placement } from './place-plan.ts';
import { MAX_STEPS_IN_FLIGHT, StepMemory } from './step-memory.ts';

const COPY_THREADS = 256;
/** Kernels' constants, and gaps that align weights. */
const MAX_UNCOUNTED_BYTES = 2 ** 20;

export class CudaExecutable implements Executable {
  readonly plan: Plan;
  readonly memory: DeviceMemory;
  readonly maxStepsInFlight = MAX_STEPS_IN_FLIGHT;
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #placement: Placement;
  readonly #numBlocks: readonly number[];
  readonly #tokenIdLimit: number;
  readonly #step: StepMemory;
  readonly #program: CudaProgram;
  readonly #copyBlocks: KernelLauncher;
  readonly #outputs: OutputReader;
  /** Of the step being started, for the grid of `#copyBlocks`. */
  #numBlockCopies = 0;
  readonly #onDispose: (executable: CudaExecutable) => void;
  readonly #running = new Set<Promise<unknown>>();
  /** Tokens that the last step drew, and the next may start from. */
  #numDrawn = 0;
  #failure: DeviceError | null = null;
  #isDisposed = false;

  private constructor(
    runtime: CudaRuntime,
    pool: DeviceMemoryPool,
    plan: Plan,
    placement: Placement,
    numBlocks: readonly number[],
    onDispose: (executable: CudaExecutable) => void,
  ) {
    this.plan = plan;
    this.memory = placement.memory;
    this.#runtime = runtime;
    this.#pool = pool;
    this.#placement = placement;
    this.#numBlocks = numBlocks;
    this.#tokenIdLimit = tokenIdLimit(plan);
    this.#onDispose = onDispose;
    this.#step = new StepMemory(runtime, pool, plan);
    this.#program = new CudaProgram(runtime, pool, plan, placement, this.#step);
    this.#copyBlocks = this.#prepareCopies();
    this.#outputs = new OutputReader(runtime, pool, plan, placement);
    this.#checkMemory();
  }

  static async load(
    runtime: CudaRuntime,
    plan: Plan,
    source: TensorSource | PackedWeightSource,
    options: LoadOptions,
    onDispose: (executable: CudaExecutable) => void,
  ): Promise<CudaExecutable> {
    const pool = new DeviceMemoryPool(runtime);
    const failed = new AbortController();
    const signal = AbortSignal.any([failed.signal, ...(options.signal ? [options.signal] : [])]);
    let loading = Promise.resolve();
    let executable: CudaExecutable | null = null;
    try {
      const placement = placePlan(plan, options.numBlocks, pool);
      loading = loadWeights(plan, placement, source, { ...options, signal }, runtime);
      // Once under way it goes on by itself, while this thread makes the kernels ready.
      await Promise.race([loading, setImmediate()]);
      runtime.makeCurrent();
      executable = new CudaExecutable(runtime, pool, plan, placement, options.numBlocks, onDispose);
      await loading;
      return executable;
    } catch (error) {
      failed.abort();
      await Promise.allSettled([loading]);
      await executable?.dispose();
      pool.freeAll();
      throw isNeedletailError(error) && error.code === 'out_of_memory' ? outOfMemory(runtime, error) : error;
    }
  }

  /** A step with a number out of range is refused with a `DeviceError` and harms nothing; others may follow. */
  async run(step: StepBatch): Promise<StepResult> {
    if (this.#failure) throw this.#failure;
    if (this.#running.size === MAX_STEPS_IN_FLIGHT)
      throw new DeviceError(`${MAX_STEPS_IN_FLIGHT} steps are running already`);
    checkStep(step, this.plan, {
      tokenIdLimit: this.#tokenIdLimit,
      numBlocks: this.#numBlocks,
      numDrawn: this.#numDrawn,
    });
    this.#numDrawn = step.logitRows.length;
    const running = this.#runStep(step);
    this.#running.add(running);
    try {
      return await running;
    } catch (cause) {
      this.#failure ??= new DeviceError(`the GPU failed: ${String(cause)}`, { cause });
      throw this.#failure;
    } finally {
      this.#running.delete(running);
    }
  }

  async dispose(): Promise<void> {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    this.#failure = new DeviceError('the executable was disposed of');
    await Promise.allSettled(this.#running);
    this.#runtime.makeCurrent();
    this.#program.release();
    this.#step.release();
    this.#pool.freeAll();
    this.#onDispose(this);
  }

  async #runStep(step: StepBatch): Promise<StepResult> {
    this.#runtime.makeCurrent();
    const staged = this.#step.write(step);
    this.#numBlockCopies = step.blockCopies.length / 3;
    this.#copyBlocks.run(staged.counts);
    this.#runtime.timer?.begin();
    this.#program.run(staged.counts);
    this.#runtime.timer?.end();
    const { logits, outputs } = this.plan;
    const readLogits = step.returnLogits ? this.#fetch(logits, step) : null;
    const readOutputs = outputs.map(({ name, operand }) => [name, this.#fetch(operand, step)] as const);
    await staged.end();
    const result = staged.readResults(readLogits?.() ?? null);
    if (outputs.length === 0) return result;
    return { ...result, outputs: new Map(readOutputs.map(([name, read]) => [name, read()])) };
  }

  #fetch(operand: BufferOperand, step: StepBatch): () => Float32Array {
    const [rows] = this.plan.buffers[operand.id].shape;
    return this.#outputs.fetch(operand, rowsOf(rows, step));
  }

  /** The ledger said before loading what it would take. */
  #checkMemory(): void {
    const { weights, kvCache, activations, workspace, steps } = this.memory;
    const counted = weights + kvCache + activations + workspace + steps;
    const taken = this.#pool.numDeviceBytes;
    if (taken < counted || taken > counted + MAX_UNCOUNTED_BYTES)
      throw new Error(`the plan takes ${taken} bytes of the device, ${counted} were counted`);
  }

  #prepareCopies(): KernelLauncher {
    const { caches } = this.#placement;
    return new KernelLauncher(this.#runtime, this.#pool, {
      kind: 'kernel',
      source: 'copy-blocks.cu',
      entry: 'copy_blocks',
      defines: {},
      block: COPY_THREADS,
      sharedBytes: 0,
      grid: () => [2 * caches.length, this.#numBlockCopies, 1],
      parameters: [
        pointer(this.#pool.upload(cacheRegions(this.#placement))),
        pointer(this.#step.blockCopies),
      ],
    });
  }
}

/** The ledger said that it fits: something else took memory since. */
function outOfMemory({ driver }: CudaRuntime, cause: Error): NeedletailError {
  const free = formatBytes(driver.memoryInfo().freeBytes);
  return new NeedletailError(
    'out_of_memory',
    `${cause.message}; ${free} are free. End other programs on this GPU, or lower --memory-utilization or --kv-cache-memory-bytes`,
    { cause },
  );
}

/** (group, bytes of a block, address) of keys and values of every layer, as copy-blocks.cu reads them. */
function cacheRegions({ caches }: Placement): Uint8Array {
  const words = caches.flatMap(({ group, keys, keyBlockBytes, values, valueBlockBytes }) => [
    ...[group, keyBlockBytes, keys],
    ...[group, valueBlockBytes, values],
  ]);
  return new Uint8Array(BigInt64Array.from(words, BigInt).buffer);
}
