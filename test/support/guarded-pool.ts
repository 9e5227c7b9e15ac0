// Device memory with a canary zone around every allocation, and NaN in it until it is written.
import { expect } from 'vitest';
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { DeviceMemoryPool } from '../../src/device/cuda/device-memory.ts';
import { readDevicePlaces } from './device-bytes.ts';

const CANARY_BYTES = 512;
/** NaN in every float type. */
export const POISON = 0xff;

export class GuardedPool extends DeviceMemoryPool {
  readonly #runtime: CudaRuntime;
  readonly #sizes = new Map<number, number>();

  constructor(runtime: CudaRuntime) {
    super(runtime);
    this.#runtime = runtime;
  }

  override allocate(bytes: number): number {
    const padded = Math.ceil(bytes / CANARY_BYTES) * CANARY_BYTES + 2 * CANARY_BYTES;
    const start = super.allocate(padded);
    this.#runtime.driver.fill(start, POISON, padded, this.#runtime.stream);
    this.#sizes.set(start + CANARY_BYTES, bytes);
    return start + CANARY_BYTES;
  }

  override free(address: number): void {
    super.free(this.#sizes.delete(address) ? address - CANARY_BYTES : address);
  }

  /** Fails if anything was written outside of what was asked for. */
  expectIntact(): void {
    const zones = [...this.#sizes].flatMap(([address, bytes]) => [
      { address: address - CANARY_BYTES, numBytes: CANARY_BYTES, title: `before ${bytes} bytes` },
      { address: address + bytes, numBytes: CANARY_BYTES, title: `after ${bytes} bytes` },
    ]);
    const found = readDevicePlaces(this.#runtime, zones);
    const broken = zones.filter((_, i) => found[i].some((byte) => byte !== POISON));
    expect(
      broken.map(({ title }) => title),
      'canaries written to',
    ).toEqual([]);
  }
}
