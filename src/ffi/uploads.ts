// Native threads that bring bytes to a GPU beside the event loop (native/upload.h).
import koffi from 'koffi';
import { check, Status, type CpuLibrary } from './cpu-library.ts';
import type { Address } from './native-memory.ts';

/** Bytes of an open file from `start` on. */
export interface OpenRange {
  readonly fd: number;
  readonly start: number;
  readonly byteLength: number;
}

/** As `NtUploaderConfig`. */
export interface UploaderConfig {
  /** Addresses of functions of the driver, in the order of `NtCopyFunctions`. */
  readonly functions: readonly Address[];
  readonly context: Address;
  readonly stream: Address;
  /** Memory of all stages; page-locked before anything is submitted. */
  readonly stages: Address;
  /** One of each stage. */
  readonly events: readonly Address[];
  readonly stageBytes: number;
  readonly numThreads: number;
}

/** As `NtUploadProblem` numbers them. */
const PROBLEMS = ['stopped', 'cutShort', 'unreadable', 'driver'] as const;

/** Why the threads stopped before their work was done. */
export interface UploadFailure {
  readonly problem: (typeof PROBLEMS)[number];
  /** `errno`, or the driver's status. */
  readonly code: number;
  /** Number of the upload that failed. */
  readonly upload: number;
}

export class UploadThreads {
  readonly #functions: ReturnType<typeof bind>;
  readonly #address: Address;

  /** The threads touch their stages at once. */
  constructor(library: Pick<CpuLibrary, 'path' | 'addressOf'>, config: UploaderConfig) {
    this.#functions = bind(library.path);
    const { functions, context, stream, stages, events, stageBytes, numThreads } = config;
    const eventWords = BigUint64Array.from(events, BigInt);
    const places = [context, stream, stages, library.addressOf(eventWords)];
    const sizes = [stageBytes, numThreads, events.length / numThreads];
    const words = BigUint64Array.from([...functions, ...places, ...sizes], BigInt);
    const uploader = new BigUint64Array(1);
    check('nt_uploader_create', this.#functions.nt_uploader_create(words, uploader));
    this.#address = Number(uploader[0]);
  }

  /** Of a file, which stays open until the upload is done. */
  submitFile({ fd, start, byteLength }: OpenRange, target: Address): void {
    this.#functions.nt_upload_submit(this.#address, fd, null, start, byteLength, target);
  }

  /** Of memory, which stays as it is until the upload is done. */
  submitMemory(bytes: Uint8Array, target: Address): void {
    this.#functions.nt_upload_submit(this.#address, -1, bytes, 0, bytes.byteLength, target);
  }

  /** How many of the first uploads are on the stream. */
  get numDone(): number {
    return Number(this.#functions.nt_upload_num_done(this.#address));
  }

  /** Waits, beside the event loop, until the first `numUploads` are on the stream. Resolves to why they never will be, or null. */
  wait(numUploads: number): Promise<UploadFailure | null> {
    const failure = new Int32Array(4);
    return new Promise((resolve, reject) => {
      const settle = (error: Error | null, status: number): void => {
        if (error) reject(error);
        else resolve(status === Status.ok ? null : readFailure(failure));
      };
      this.#functions.nt_upload_wait.async(this.#address, numUploads, failure, settle);
    });
  }

  /** Nothing more is begun; whoever waits is told. */
  stop(): void {
    this.#functions.nt_uploader_stop(this.#address);
  }

  /** Lets the threads end what they are at, and joins them. Nobody may be waiting. */
  destroy(): void {
    this.#functions.nt_uploader_destroy(this.#address);
  }
}

/** As `NtUploadFailure`. */
function readFailure([problem, code, upload]: Int32Array): UploadFailure {
  return { problem: PROBLEMS[problem], code, upload };
}

function bind(path: string) {
  const library = koffi.load(path);
  return {
    nt_uploader_create: library.func('int nt_uploader_create(const void *config, void *uploader)') as (
      config: BigUint64Array,
      uploader: BigUint64Array,
    ) => number,
    nt_uploader_destroy: library.func('void nt_uploader_destroy(uintptr_t uploader)') as (
      uploader: Address,
    ) => void,
    nt_uploader_stop: library.func('void nt_uploader_stop(uintptr_t uploader)') as (
      uploader: Address,
    ) => void,
    nt_upload_submit: library.func(
      'void nt_upload_submit(uintptr_t uploader, int fd, const void *memory, int64_t start, int64_t bytes, uint64_t target)',
    ) as (
      uploader: Address,
      fd: number,
      memory: Uint8Array | null,
      start: number,
      numBytes: number,
      target: Address,
    ) => void,
    nt_upload_num_done: library.func('int64_t nt_upload_num_done(uintptr_t uploader)') as (
      uploader: Address,
    ) => number | bigint,
    nt_upload_wait: library.func(
      'int nt_upload_wait(uintptr_t uploader, int64_t num_uploads, void *failure)',
    ),
  };
}
