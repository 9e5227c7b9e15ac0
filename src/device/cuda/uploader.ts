// Brings bytes from files and from memory to the device: threads fill page-locked buffers, several at once, while the bus
// empties others. Files are read, not mapped: page tables cost time, and a file that is cut short ends a process that maps it.
import { open, type FileHandle } from 'node:fs/promises';
import { copyMemory } from '../../ffi/copy-memory.ts';
import type { Address } from '../../ffi/cuda/driver.ts';
import type { FileRange } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import { DeviceMemoryPool, type PinnedBuffer } from './device-memory.ts';

/** Together they stay in the processor's cache: memory is then read once, and not written and read again for the bus. */
const STAGE_BYTES = 2 * 2 ** 20;
const NUM_STAGES = 24;
/** One thread alone reads memory more slowly than the bus carries it. The other stages are on their way meanwhile. */
const MAX_FILLING = 12;

/** Bytes that lie in memory, or in a file. */
export type UploadSource = Uint8Array | FileRange;

interface Stage {
  readonly buffer: PinnedBuffer;
  /** The event after the copy of what it was filled with last. */
  readonly copied: Address;
}

export class Uploader {
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #files = new Map<string, Promise<FileHandle>>();
  readonly #stages: readonly Stage[];
  readonly #unused: Stage[];
  readonly #filling = new Set<Promise<void>>();
  /** In the order in which the bus empties them. */
  readonly #copying: Stage[] = [];

  constructor(runtime: CudaRuntime) {
    this.#runtime = runtime;
    this.#pool = new DeviceMemoryPool(runtime);
    // One allocation: page-locking takes long, many small ones longer.
    const { address, bytes } = this.#pool.allocatePinned(NUM_STAGES * STAGE_BYTES);
    this.#stages = Array.from({ length: NUM_STAGES }, (_, i) => ({
      buffer: {
        address: address + i * STAGE_BYTES,
        bytes: bytes.subarray(i * STAGE_BYTES, (i + 1) * STAGE_BYTES),
      },
      copied: runtime.driver.createEvent(),
    }));
    this.#unused = [...this.#stages];
  }

  /**
   * Resolves when the last piece is being read; memory stays as it is until `drain`. Throws `bad_checkpoint` for a file that
   * ends too early.
   */
  async send(source: UploadSource, target: Address, signal?: AbortSignal): Promise<void> {
    for (let start = 0; start < source.byteLength; start += STAGE_BYTES) {
      signal?.throwIfAborted();
      const stage = await this.#takeStage();
      const piece = slice(source, start, Math.min(source.byteLength, start + STAGE_BYTES));
      const filling = this.#sendPiece(stage, piece, target + start);
      this.#filling.add(filling);
      // A failure stays among them, for whoever waits next.
      void filling.then(
        () => this.#filling.delete(filling),
        () => undefined,
      );
    }
  }

  /** Waits until all that was sent is on the stream. */
  async drain(): Promise<void> {
    await Promise.all(this.#filling);
    this.#runtime.makeCurrent();
  }

  async close(): Promise<void> {
    await Promise.allSettled(this.#filling);
    const files = await Promise.allSettled(this.#files.values());
    for (const file of files) if (file.status === 'fulfilled') await file.value.close();
    this.#runtime.makeCurrent();
    const { driver, stream } = this.#runtime;
    driver.synchronize(stream);
    for (const { copied } of this.#stages) driver.destroyEvent(copied);
    this.#pool.freeAll();
  }

  async #takeStage(): Promise<Stage> {
    while (this.#filling.size >= MAX_FILLING) await Promise.race(this.#filling);
    const unused = this.#unused.pop();
    if (unused) return unused;
    const oldest = this.#copying.shift()!;
    // Not for long: those behind it keep the bus busy, and most often it is done.
    this.#runtime.makeCurrent();
    this.#runtime.driver.synchronizeEvent(oldest.copied);
    return oldest;
  }

  async #sendPiece(stage: Stage, piece: UploadSource, target: Address): Promise<void> {
    const { buffer, copied } = stage;
    if (piece instanceof Uint8Array) await copyMemory(buffer.address, piece);
    else await this.#read(piece, buffer.bytes);
    const { driver, stream } = this.#runtime;
    // Others have the event loop in between; they may have used another GPU.
    this.#runtime.makeCurrent();
    driver.copyToDevice(target, buffer.address, piece.byteLength, stream);
    driver.recordEvent(copied, stream);
    this.#copying.push(stage);
  }

  async #read({ path, start, byteLength }: FileRange, into: Uint8Array): Promise<void> {
    const file = await this.#open(path);
    for (let done = 0; done < byteLength;) {
      const reading = file.read(into, done, byteLength - done, start + done);
      const { bytesRead } = await reading.catch((error: unknown) =>
        refuse(path, `cannot be read (${codeOf(error)})`),
      );
      if (bytesRead === 0) refuse(path, 'became shorter since it was opened');
      done += bytesRead;
    }
  }

  #open(path: string): Promise<FileHandle> {
    const opening =
      this.#files.get(path) ??
      open(path).catch((error: unknown) => refuse(path, `cannot be opened (${codeOf(error)})`));
    this.#files.set(path, opening);
    return opening;
  }
}

function codeOf(error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? String(error);
}

function refuse(path: string, problem: string): never {
  throw new NeedletailError('bad_checkpoint', `${path}: ${problem}; fetch it again`);
}

/** The bytes `[start, end)` of a source. */
export function slice(source: UploadSource, start: number, end: number): UploadSource {
  if (source instanceof Uint8Array) return source.subarray(start, end);
  return { path: source.path, start: source.start + start, byteLength: end - start };
}
