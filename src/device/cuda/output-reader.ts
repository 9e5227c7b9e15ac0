// Brings rows of a plan's buffers to the host behind a step: its logits, and whatever else a graph was asked to give.
import type { BufferOperand, Plan } from '../../compiler/plan.ts';
import { decodeFloats, itemSize, type FloatDType } from '../../tensor/dtype.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool, PinnedBuffer } from './device-memory.ts';
import type { Placement } from './place-plan.ts';

export class OutputReader {
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #plan: Plan;
  readonly #arena: Placement['arena'];
  /** Buffers that no copy is on its way to. */
  readonly #free: PinnedBuffer[] = [];

  constructor(runtime: CudaRuntime, pool: DeviceMemoryPool, plan: Plan, { arena }: Placement) {
    this.#runtime = runtime;
    this.#pool = pool;
    this.#plan = plan;
    this.#arena = arena;
  }

  /** Puts a copy of the first rows on the stream. Once the step has ended, the result gives them, `[numRows, columns]`. */
  fetch({ id, columnStart, columns, rowStride }: BufferOperand, numRows: number): () => Float32Array {
    const { dtype, offset } = this.#plan.buffers[id];
    const [rowBytes, strideBytes] = [columns, rowStride].map((count) => count * itemSize(dtype));
    const start = this.#arena + offset + columnStart * itemSize(dtype);
    const target = this.#take(numRows * rowBytes);
    const { driver, stream } = this.#runtime;
    const isWhole = rowBytes === strideBytes;
    const [numCopies, bytes] = isWhole ? [1, numRows * rowBytes] : [numRows, rowBytes];
    for (let i = 0; i < numCopies; i++)
      driver.copyToHost(target.address + i * rowBytes, start + i * strideBytes, bytes, stream);
    return () => {
      this.#free.push(target);
      return decodeFloats(dtype as FloatDType, target.bytes.subarray(0, numRows * rowBytes));
    };
  }

  #take(bytes: number): PinnedBuffer {
    const at = this.#free.findIndex((buffer) => buffer.bytes.byteLength >= bytes);
    return at === -1 ? this.#pool.allocatePinned(bytes) : this.#free.splice(at, 1)[0];
  }
}
