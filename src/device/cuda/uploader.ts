// Brings bytes from files and from memory to the device: native threads fill page-locked stages while the bus empties others, and
// the event loop has no part in it. Files are read, not mapped: page tables cost time, and a file that is cut short ends a process that maps it.
import { closeSync, openSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { getSystemErrorName } from 'node:util';
import type { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { CudaDriver } from '../../ffi/cuda/driver.ts';
import type { Address } from '../../ffi/native-memory.ts';
import { UploadThreads, type UploadFailure } from '../../ffi/uploads.ts';
import type { FileRange } from '../../tensor/tensor-source.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { CudaRuntime } from './cuda-runtime.ts';

/** Larger pieces suit the bus, but all stages together should stay in the processor's cache. */
const STAGE_BYTES = 4 * 2 ** 20;
/** One is filled while the other is emptied. */
const STAGES_PER_THREAD = 2;
/** One thread alone reads memory more slowly than the bus carries it, twelve faster. */
const MAX_THREADS = 12;

/** Of memory that is being read: tensors that are made while they load should not all be there at once. */
const MAX_HELD_BYTES = 256 * 2 ** 20;

/** Bytes that lie in memory, or in a file. */
export type UploadSource = Uint8Array | FileRange;

/** What an uploader asks of a GPU. */
export interface UploadMachine extends Pick<CudaRuntime, 'context' | 'stream' | 'makeCurrent'> {
  readonly library: Pick<CpuLibrary, 'path' | 'addressOf' | 'allocate' | 'free'>;
  readonly driver: Pick<
    CudaDriver,
    | 'copyFunctions'
    | 'createQuietEvent'
    | 'destroyEvent'
    | 'lockPages'
    | 'unlockPages'
    | 'synchronize'
    | 'check'
  >;
}

export class Uploader {
  readonly #runtime: UploadMachine;
  readonly #signal: AbortSignal | null;
  readonly #threads: UploadThreads;
  /** What gives back all that was taken, in this order. */
  readonly #releases: (() => void)[] = [];
  /** Descriptors of open files, by path. */
  readonly #files = new Map<string, number>();
  /** Of each upload its file; null for memory. */
  readonly #paths: (string | null)[] = [];
  /** Memory that is being read, and how many uploads there were with it. */
  readonly #held: { readonly bytes: Uint8Array; readonly numUploads: number }[] = [];
  readonly #stop = (): void => this.#threads.stop();

  constructor(runtime: UploadMachine, signal: AbortSignal | null = null) {
    this.#runtime = runtime;
    this.#signal = signal;
    try {
      this.#threads = this.#start();
    } catch (error) {
      this.#release();
      throw error;
    }
    signal?.addEventListener('abort', this.#stop);
  }

  /** Threads with page-locked stages. */
  #start(): UploadThreads {
    const { driver, library, context, stream } = this.#runtime;
    const numThreads = Math.min(MAX_THREADS, availableParallelism());
    const numStages = numThreads * STAGES_PER_THREAD;
    const events = Array.from({ length: numStages }, () => this.#createEvent());
    // Huge pages are locked in a tenth of the time that the driver takes to allocate locked ones.
    const numStageBytes = numStages * STAGE_BYTES;
    const stages = library.allocate(numStageBytes);
    this.#releases.unshift(() => library.free(stages, numStageBytes));
    const functions = driver.copyFunctions;
    const settings = { functions, context, stream, stages, events, stageBytes: STAGE_BYTES, numThreads };
    const threads = new UploadThreads(library, settings);
    const endThreads = (): void => {
      threads.destroy();
      for (const fd of this.#files.values()) closeSync(fd);
      this.#runtime.makeCurrent();
      driver.synchronize(stream);
    };
    this.#releases.unshift(endThreads);
    driver.lockPages(stages, numStageBytes);
    // Threads touch the stages before they are locked, and use them until they end.
    this.#releases.splice(1, 0, () => driver.unlockPages(stages));
    return threads;
  }

  #createEvent(): Address {
    const { driver } = this.#runtime;
    const event = driver.createQuietEvent();
    this.#releases.unshift(() => driver.destroyEvent(event));
    return event;
  }

  #release(): void {
    for (const release of this.#releases) release();
  }

  get numSent(): number {
    return this.#paths.length;
  }

  /** How many of the first that were sent are on the stream. */
  get numDone(): number {
    return this.#threads.numDone;
  }

  /** Resolves when more may be sent. Memory stays as it is until it is on the stream. Throws as `reach` does. */
  async send(source: UploadSource, target: Address): Promise<void> {
    this.#signal?.throwIfAborted();
    if (source instanceof Uint8Array) {
      this.#threads.submitMemory(source, target);
      this.#paths.push(null);
      this.#held.push({ bytes: source, numUploads: this.numSent });
      return this.#releaseHeld();
    }
    this.#threads.submitFile({ ...source, fd: this.#open(source.path) }, target);
    this.#paths.push(source.path);
  }

  /**
   * Waits until the first `numUploads` are on the stream. Throws `bad_checkpoint` for a file that ends too early or cannot be
   * read, and the signal's reason.
   */
  async reach(numUploads: number): Promise<void> {
    if (this.numDone < numUploads) {
      const failure = await this.#threads.wait(numUploads);
      if (failure) this.#refuse(failure);
    }
    this.#signal?.throwIfAborted();
    // Others have the event loop in between; they may have used another GPU.
    this.#runtime.makeCurrent();
  }

  async #releaseHeld(): Promise<void> {
    const heldBytes = (): number => this.#held.reduce((sum, { bytes }) => sum + bytes.byteLength, 0);
    while (this.#held.length > 1 && heldBytes() > MAX_HELD_BYTES) {
      await this.reach(this.#held[0].numUploads);
      this.#held.shift();
    }
  }

  close(): void {
    this.#signal?.removeEventListener('abort', this.#stop);
    this.#release();
  }

  #open(path: string): number {
    const known = this.#files.get(path);
    if (known !== undefined) return known;
    try {
      const fd = openSync(path, 'r');
      this.#files.set(path, fd);
      return fd;
    } catch (error) {
      throw badFile(path, `cannot be opened (${(error as NodeJS.ErrnoException).code})`);
    }
  }

  #refuse({ problem, code, upload }: UploadFailure): never {
    const path = this.#paths[upload]!;
    if (problem === 'cutShort') throw badFile(path, 'became shorter since it was opened');
    if (problem === 'unreadable') throw badFile(path, `cannot be read (${getSystemErrorName(-code)})`);
    if (problem === 'driver') this.#runtime.driver.check('copying to the device', code);
    this.#signal?.throwIfAborted();
    throw new Error('the uploader was stopped by nobody');
  }
}

function badFile(path: string, problem: string): NeedletailError {
  return new NeedletailError('bad_checkpoint', `${path}: ${problem}; fetch it again`);
}

/** The bytes `[start, end)` of a source. */
export function slice(source: UploadSource, start: number, end: number): UploadSource {
  if (source instanceof Uint8Array) return source.subarray(start, end);
  return { path: source.path, start: source.start + start, byteLength: end - start };
}
