// The native thread pool as promises: jobs go in by one call each, their ends come back through a pipe.
import { Socket } from 'node:net';
import { Status, type CpuLibrary } from '../../ffi/cpu-library.ts';
import type { Address } from '../../ffi/native-memory.ts';

const BYTES_PER_COMPLETION = 8;

interface PendingJob {
  readonly resolve: (status: number) => void;
  /** Held on to: the job's memory is theirs. */
  readonly arrays: readonly NodeJS.TypedArray[];
}

export class CpuRuntime {
  readonly library: CpuLibrary;
  readonly numThreads: number;
  readonly address: Address;
  readonly #completions: Socket;
  readonly #pending = new Map<number, PendingJob>();
  #nextJob = 0;
  #isClosed = false;

  constructor(library: CpuLibrary, numThreads: number) {
    this.library = library;
    this.numThreads = numThreads;
    const { runtime, completionFd } = library.createRuntime(numThreads);
    this.address = runtime;
    this.#completions = new Socket({ fd: completionFd, readable: true, writable: false });
    this.#completions.on('data', (bytes) => this.#complete(bytes));
    this.#completions.unref();
    // Native threads must be gone before Node takes down the memory that they read.
    process.on('exit', this.#stop);
  }

  /**
   * Start a job with the number that `start` is given, and wait for its status. While a job runs it keeps the event
   * loop alive, and the `arrays` that it works on.
   */
  run(start: (job: number) => void, arrays: readonly NodeJS.TypedArray[] = []): Promise<number> {
    if (this.#isClosed) return Promise.resolve(Status.stopped);
    const job = this.#nextJob;
    this.#nextJob = (this.#nextJob + 1) & 0x7fffffff;
    start(job);
    if (this.#pending.size === 0) this.#completions.ref();
    return new Promise((resolve) => this.#pending.set(job, { resolve, arrays }));
  }

  /** Abandons running jobs, which end with `Status.stopped`, and joins the threads. */
  close(): void {
    process.off('exit', this.#stop);
    this.#stop();
    this.#completions.destroy();
    for (const { resolve } of this.#pending.values()) resolve(Status.stopped);
    this.#pending.clear();
  }

  #stop = (): void => {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.library.destroyRuntime(this.address);
  };

  #complete(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += BYTES_PER_COMPLETION) {
      const job = bytes.readInt32LE(at);
      const pending = this.#pending.get(job);
      this.#pending.delete(job);
      pending?.resolve(bytes.readInt32LE(at + 4));
    }
    if (this.#pending.size === 0) this.#completions.unref();
  }
}
