// The CPU library: finding the build for this processor, and its C functions (native/needletail.h) with checked results.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import { NeedletailError, type ErrorCode } from '../util/errors.ts';
import { nativeView, type Address } from './native-memory.ts';

/** Best first. */
const INSTRUCTION_SETS: Readonly<Record<string, readonly string[]>> = {
  x64: ['avx512-bf16', 'avx512', 'x86-64-v3'],
  arm64: ['neon'],
};

/** Results of calls and jobs, as `NtStatus` numbers them. */
export const Status = {
  ok: 0,
  invalidArgument: 1,
  outOfMemory: 2,
  threadsUnavailable: 3,
  pipeUnavailable: 4,
  invalidStep: 5,
  stopped: 6,
} as const;

const STATUS_TEXT: Readonly<Record<number, string>> = {
  [Status.invalidArgument]: 'an argument is out of range',
  [Status.outOfMemory]: 'out of memory',
  [Status.threadsUnavailable]: 'the system gives no more threads',
  [Status.pipeUnavailable]: 'the system gives no more pipes',
  [Status.invalidStep]: 'the step was refused',
  [Status.stopped]: 'the device was closed',
};

export class CpuLibrary {
  /** `x86-64-v3`, `avx512`, `avx512-bf16` or `neon`. */
  readonly arch: string;
  readonly #functions: ReturnType<typeof bind>;

  private constructor(arch: string, functions: ReturnType<typeof bind>) {
    this.arch = arch;
    this.#functions = functions;
  }

  /** Instruction sets that this processor has and the build contains, best first. */
  static available(): readonly string[] {
    const known = INSTRUCTION_SETS[process.arch] ?? [];
    return known.filter((arch) => existsSync(libraryPath(arch)) && bind(arch).nt_is_supported() === 1);
  }

  /** The library for `arch`, or for the best available one. Throws `unsupported_platform` if there is none. */
  static load(arch: string | null): CpuLibrary {
    const available = CpuLibrary.available();
    const chosen = arch ?? available[0];
    if (chosen !== undefined && available.includes(chosen)) return new CpuLibrary(chosen, bind(chosen));
    const problem = arch === null ? 'was not found' : `for ${arch} was not found or cannot run here`;
    const choice = available.length > 0 ? `; this machine has ${available.join(', ')}` : '';
    throw new NeedletailError(
      'unsupported_platform',
      `the CPU library ${problem} (${process.platform}-${process.arch})${choice}: run npm run build`,
    );
  }

  /** Of the file. */
  get path(): string {
    return libraryPath(this.arch);
  }

  /** A pool of threads, and the pipe from which (job, status) pairs of 32-bit words can be read. */
  createRuntime(numThreads: number): { runtime: Address; completionFd: number } {
    const [runtime, fd] = [new BigUint64Array(1), new Int32Array(1)];
    check('nt_runtime_create', this.#functions.nt_runtime_create(numThreads, runtime, fd));
    return { runtime: Number(runtime[0]), completionFd: fd[0] };
  }

  /** Abandons a running job and joins the threads. */
  destroyRuntime(runtime: Address): void {
    this.#functions.nt_runtime_destroy(runtime);
  }

  /** Zeroed memory. */
  allocate(bytes: number): Address {
    const memory = new BigUint64Array(1);
    const status = this.#functions.nt_memory_allocate(bytes, memory);
    check(`nt_memory_allocate of ${bytes} bytes`, status, 'out_of_memory');
    return Number(memory[0]);
  }

  free(memory: Address, bytes: number): void {
    this.#functions.nt_memory_free(memory, bytes);
  }

  /** Where an array's elements lie. They stay there; the caller keeps the array alive. */
  addressOf(array: NodeJS.TypedArray): Address {
    return Number(this.#functions.nt_address(array));
  }

  /** Native memory as an ArrayBuffer. Valid until it is freed. */
  view(memory: Address, bytes: number): ArrayBuffer {
    return nativeView(memory, bytes);
  }

  /** Throws `bad_plan` if there is none of that name. */
  findKernel(name: string): number {
    const kernel = this.#functions.nt_find_kernel(name);
    if (kernel >= 0) return kernel;
    throw new NeedletailError(
      'bad_plan',
      `the ${this.arch} build has no kernel ${name}: compile the plan again`,
    );
  }

  submitLoad(runtime: Address, tasks: Uint8Array, numTasks: number, job: number): void {
    check('nt_load_submit', this.#functions.nt_load_submit(runtime, tasks, numTasks, job));
  }

  submitMatrixProduct(runtime: Address, product: Uint8Array, job: number): void {
    check('nt_matrix_product_submit', this.#functions.nt_matrix_product_submit(runtime, product, job));
  }

  submitRangeSearch(runtime: Address, search: Uint8Array, job: number): void {
    check('nt_range_search_submit', this.#functions.nt_range_search_submit(runtime, search, job));
  }

  submitColumnRounding(runtime: Address, rounding: Uint8Array, job: number): void {
    check('nt_column_rounding_submit', this.#functions.nt_column_rounding_submit(runtime, rounding, job));
  }

  createProgram(runtime: Address, blob: Uint8Array): Address {
    const program = new BigUint64Array(1);
    check('nt_program_create', this.#functions.nt_program_create(runtime, blob, program));
    return Number(program[0]);
  }

  destroyProgram(program: Address): void {
    this.#functions.nt_program_destroy(program);
  }

  submitStep(program: Address, step: Address, job: number): void {
    check('nt_step_submit', this.#functions.nt_step_submit(program, step, job));
  }
}

/** Throws if a call or a job named `what` did not succeed. */
export function check(what: string, status: number, code: ErrorCode = 'device_failed'): void {
  if (status === Status.ok) return;
  throw new NeedletailError(code, `${what} failed: ${STATUS_TEXT[status] ?? `status ${status}`}`);
}

/** The same from src/ffi and from dist/ffi. */
function libraryPath(arch: string): string {
  const folder = `../../native/build/${process.platform}-${process.arch}`;
  return fileURLToPath(new URL(`${folder}/needletail-cpu-${arch}.so`, import.meta.url));
}

/** The C functions, as native/needletail.h declares them; addresses pass as numbers, arrays by reference. */
function bind(arch: string) {
  const library = koffi.load(libraryPath(arch));
  return {
    nt_is_supported: library.func('int nt_is_supported()') as () => number,
    nt_runtime_create: library.func('int nt_runtime_create(int threads, void *runtime, void *fd)') as (
      numThreads: number,
      runtime: BigUint64Array,
      fd: Int32Array,
    ) => number,
    nt_runtime_destroy: library.func('void nt_runtime_destroy(uintptr_t runtime)') as (
      runtime: Address,
    ) => void,
    nt_memory_allocate: library.func('int nt_memory_allocate(uint64_t bytes, void *memory)') as (
      bytes: number,
      memory: BigUint64Array,
    ) => number,
    nt_memory_free: library.func('void nt_memory_free(uintptr_t memory, uint64_t bytes)') as (
      memory: Address,
      bytes: number,
    ) => void,
    nt_address: library.func('uint64_t nt_address(const void *memory)') as (
      array: NodeJS.TypedArray,
    ) => number | bigint,
    nt_find_kernel: library.func('int nt_find_kernel(const char *name)') as (name: string) => number,
    nt_load_submit: library.func(
      'int nt_load_submit(uintptr_t runtime, const void *tasks, int count, int job)',
    ) as (runtime: Address, tasks: Uint8Array, numTasks: number, job: number) => number,
    nt_matrix_product_submit: library.func(
      'int nt_matrix_product_submit(uintptr_t runtime, const void *product, int job)',
    ) as (runtime: Address, product: Uint8Array, job: number) => number,
    nt_range_search_submit: library.func(
      'int nt_range_search_submit(uintptr_t runtime, const void *search, int job)',
    ) as (runtime: Address, search: Uint8Array, job: number) => number,
    nt_column_rounding_submit: library.func(
      'int nt_column_rounding_submit(uintptr_t runtime, const void *rounding, int job)',
    ) as (runtime: Address, rounding: Uint8Array, job: number) => number,
    nt_program_create: library.func(
      'int nt_program_create(uintptr_t runtime, const void *header, void *program)',
    ) as (runtime: Address, blob: Uint8Array, program: BigUint64Array) => number,
    nt_program_destroy: library.func('void nt_program_destroy(uintptr_t program)') as (
      program: Address,
    ) => void,
    nt_step_submit: library.func('int nt_step_submit(uintptr_t program, uintptr_t step, int job)') as (
      program: Address,
      step: Address,
      job: number,
    ) => number,
  };
}
