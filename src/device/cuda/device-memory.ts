// Memory that an executable owns, on the device and page-locked on the host; freed all at once.
import type { Address } from '../../ffi/native-memory.ts';
import type { CudaRuntime } from './cuda-runtime.ts';

/** Page-locked memory with its bytes at hand. */
export interface PinnedBuffer {
  readonly address: Address;
  readonly bytes: Uint8Array;
}

export class DeviceMemoryPool {
  readonly #runtime: CudaRuntime;
  /** Bytes by address. */
  readonly #onDevice = new Map<Address, number>();
  readonly #pinned = new Set<Address>();

  constructor(runtime: CudaRuntime) {
    this.#runtime = runtime;
  }

  allocate(bytes: number): Address {
    const address = this.#runtime.driver.allocate(Math.max(1, bytes));
    this.#onDevice.set(address, bytes);
    return address;
  }

  allocatePinned(bytes: number): PinnedBuffer {
    const size = Math.max(8, bytes);
    const address = this.#runtime.driver.allocatePinned(size);
    this.#pinned.add(address);
    return { address, bytes: new Uint8Array(this.#runtime.driver.view(address, size)) };
  }

  /** Bytes on the device. */
  get numDeviceBytes(): number {
    let sum = 0;
    for (const bytes of this.#onDevice.values()) sum += bytes;
    return sum;
  }

  /** Device memory that holds `bytes`. */
  upload(bytes: Uint8Array): Address {
    const address = this.allocate(bytes.byteLength);
    const staging = this.allocatePinned(bytes.byteLength);
    staging.bytes.set(bytes);
    this.#runtime.driver.copyToDevice(address, staging.address, bytes.byteLength, this.#runtime.stream);
    this.#runtime.driver.synchronize(this.#runtime.stream);
    this.freePinned(staging);
    return address;
  }

  free(address: Address): void {
    if (this.#onDevice.delete(address)) this.#runtime.driver.free(address);
  }

  freePinned({ address }: PinnedBuffer): void {
    if (this.#pinned.delete(address)) this.#runtime.driver.freePinned(address);
  }

  /** Nothing on the stream may use it any more. */
  freeAll(): void {
    for (const address of [...this.#onDevice.keys()]) this.free(address);
    for (const address of [...this.#pinned]) this.freePinned({ address, bytes: new Uint8Array(0) });
  }
}
