// Runs a plan on the GPU one launch at a time and holds what each wrote against its op's definition, applied to the same
// inputs: `needletail doctor` knows by it whether kernels compute what they should on the GPU at hand.
import type { BufferOperand, Launch, Plan } from '../../compiler/plan.ts';
import { assembleWeight } from '../../ir/assemble-weight.ts';
import type { HostTensor } from '../../ir/host-tensor.ts';
import { PagedKVCaches } from '../../ir/paged-kv-cache.ts';
import type { KernelVariant } from '../../kernels/kernel.ts';
import { decodeTensor } from '../../tensor/codes.ts';
import { isFloatDType, itemSize, roundTo, type DType } from '../../tensor/dtype.ts';
import { toFloat8E4M3Bits } from '../../tensor/float8.ts';
import type { TensorSource } from '../../tensor/tensor-source.ts';
import { interpretLaunch } from '../reference/interpret-launch.ts';
import { sampleLogits } from '../reference/sample.ts';
import { rowsOf, type StepBatch } from '../step.ts';
import { CudaProgram } from './cuda-program.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import { DeviceMemoryPool, type PinnedBuffer } from './device-memory.ts';
import { loadWeights } from './load-weights.ts';
import { placePlan, type Placement } from './place-plan.ts';
import { StepMemory } from './step-memory.ts';

export interface LaunchCheck {
  readonly op: string;
  readonly kernel: string;
  /**
   * Largest difference of an element, as a share of the largest that the definition yields. NaN if there was one. A code may
   * be the next to the right one: what is rounded to it may differ in its last bit.
   */
  readonly error: number;
}

/** `steps` follow each other: what one leaves in the KV cache, the next may read. `numBlocks`: of each cache group. */
export async function checkLaunches(
  runtime: CudaRuntime,
  plan: Plan,
  source: TensorSource,
  steps: readonly StepBatch[],
  numBlocks: number,
): Promise<LaunchCheck[]> {
  const pool = new DeviceMemoryPool(runtime);
  try {
    const blocks = plan.kvCacheGroups.map(() => numBlocks);
    const placement = placePlan(plan, blocks, pool);
    await loadWeights(plan, placement, source, { numBlocks: blocks }, runtime);
    const walk = new PlanWalk(runtime, pool, plan, placement, blocks, readWeights(plan, source));
    const checks: LaunchCheck[] = [];
    try {
      for (const step of steps) checks.push(...walk.run(step), await walk.checkSampling(step));
    } finally {
      walk.release();
    }
    return checks;
  } finally {
    pool.freeAll();
  }
}

/** As kernels see them: rounded to their type. */
function readWeights({ weights }: Plan, source: TensorSource): HostTensor[] {
  return weights.map((spec) => {
    const { shape, dtype } = spec;
    const values = assembleWeight(spec, (name) => decodeTensor(source.read(name)));
    return { shape, data: isFloatDType(dtype) ? values.map((value) => roundTo(dtype, value)) : values };
  });
}

class PlanWalk {
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #plan: Plan;
  readonly #placement: Placement;
  readonly #memory: StepMemory;
  readonly #weights: readonly HostTensor[];
  readonly #caches: PagedKVCaches;
  readonly #arena: PinnedBuffer;

  constructor(
    runtime: CudaRuntime,
    pool: DeviceMemoryPool,
    plan: Plan,
    placement: Placement,
    numBlocks: readonly number[],
    weights: readonly HostTensor[],
  ) {
    this.#runtime = runtime;
    this.#pool = pool;
    this.#plan = plan;
    this.#placement = placement;
    this.#memory = new StepMemory(runtime, pool, plan);
    this.#weights = weights;
    const groups = plan.kvCacheGroups.map(({ layers }) => layers);
    this.#caches = new PagedKVCaches(groups, plan.blockSize, numBlocks);
    this.#arena = pool.allocatePinned(plan.arenaBytes);
  }

  run(step: StepBatch): LaunchCheck[] {
    return this.#plan.launches.flatMap((launch) => this.#check(launch, step));
  }

  /** Draws from the logits that the last launch left; a wrong token is an error of 1. */
  async checkSampling(step: StepBatch): Promise<LaunchCheck> {
    const { data } = this.#read(this.#plan.logits, step, this.#readArena());
    const { tokenIds } = sampleLogits(data as Float32Array, this.#plan.logits.columns, step.sampling);
    const program = this.#program([]);
    const staged = this.#memory.write(step);
    program.run(staged.counts);
    await staged.end();
    program.release();
    const drawn = staged.readResults(null).tokenIds;
    const isRight = tokenIds.every((token, row) => token === drawn[row]);
    return { op: 'sampling', kernel: 'sample', error: isRight ? 0 : 1 };
  }

  release(): void {
    this.#memory.release();
  }

  #check(launch: Launch, step: StepBatch): LaunchCheck[] {
    const before = this.#readArena();
    const expected = this.#interpret(launch, step, before);
    const numRows = rowsOf(launch.rows, step);
    return launch.variants
      .filter(({ maxRows }) => maxRows === null || maxRows >= numRows)
      .map((variant) => {
        this.#writeArena(before);
        this.#launch(launch, variant, step);
        const after = this.#readArena();
        const errors = launch.outputs.map((operand, i) =>
          operand.kind === 'buffer' ? this.#errorOf(operand, step, after, expected[i]) : 0,
        );
        return { op: launch.op, kernel: variant.kernel, error: largest(errors) };
      });
  }

  #errorOf(operand: BufferOperand, step: StepBatch, arena: Uint8Array, expected: HostTensor): number {
    const { dtype } = this.#plan.buffers[operand.id];
    return relativeError(this.#read(operand, step, arena), expected, dtype);
  }

  #launch(launch: Launch, variant: KernelVariant, step: StepBatch): void {
    const program = this.#program([{ ...launch, variants: [{ ...variant, maxRows: null }] }]);
    program.run(this.#memory.write(step).counts);
    this.#runtime.driver.synchronize(this.#runtime.stream);
    program.release();
  }

  #program(launches: readonly Launch[]): CudaProgram {
    const plan = { ...this.#plan, launches };
    return new CudaProgram(this.#runtime, this.#pool, plan, this.#placement, this.#memory);
  }

  #interpret(launch: Launch, step: StepBatch, arena: Uint8Array): readonly HostTensor[] {
    const readBuffer = (operand: BufferOperand): HostTensor => this.#read(operand, step, arena);
    return interpretLaunch(launch, { step, weights: this.#weights, caches: this.#caches, readBuffer });
  }

  #read(
    { id, columnStart, columns, rowStride }: BufferOperand,
    step: StepBatch,
    arena: Uint8Array,
  ): HostTensor {
    const buffer = this.#plan.buffers[id];
    const { dtype, offset } = buffer;
    const shape = [rowsOf(buffer.shape[0], step), columns];
    const size = itemSize(dtype);
    const bytes = new Uint8Array(shape[0] * columns * size);
    for (let row = 0; row < shape[0]; row++) {
      const start = offset + (row * rowStride + columnStart) * size;
      bytes.set(arena.subarray(start, start + columns * size), row * columns * size);
    }
    const data = dtype === 'int32' ? new Int32Array(bytes.buffer) : decodeTensor({ dtype, shape, bytes });
    return { shape, data };
  }

  #readArena(): Uint8Array {
    const { driver, stream } = this.#runtime;
    const { address, bytes } = this.#arena;
    driver.copyToHost(address, this.#placement.arena, bytes.byteLength, stream);
    driver.synchronize(stream);
    return bytes.slice();
  }

  #writeArena(image: Uint8Array): void {
    const { driver, stream } = this.#runtime;
    const { address, bytes } = this.#arena;
    bytes.set(image);
    driver.copyToDevice(this.#placement.arena, address, bytes.byteLength, stream);
    driver.synchronize(stream);
  }
}

function relativeError(actual: HostTensor, expected: HostTensor, dtype: DType): number {
  const scale = Math.max(1e-3, largest(Array.from(expected.data, Math.abs)));
  const differences = Array.from(expected.data, (value, i) =>
    isNextCode(dtype, value, actual.data[i]) ? 0 : Math.abs(value - actual.data[i]),
  );
  return largest(differences) / scale;
}

function isNextCode(dtype: DType, a: number, b: number): boolean {
  if (dtype === 'float8_e4m3fn') return Math.abs(orderOfFloat8(a) - orderOfFloat8(b)) <= 1;
  return dtype === 'int8' && Math.abs(a - b) <= 1;
}

/** The number's place among all of its type; NaN's for NaN. */
function orderOfFloat8(value: number): number {
  if (Number.isNaN(value)) return NaN;
  const bits = toFloat8E4M3Bits(value);
  return bits < 0x80 ? bits : 0x80 - bits;
}

/** NaN wins. */
function largest(values: readonly number[]): number {
  return values.reduce((most, value) => (value <= most ? most : value), 0);
}
