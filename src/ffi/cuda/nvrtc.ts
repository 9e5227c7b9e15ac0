// NVRTC: NVIDIA's compiler as a library. Sources and headers go in as text, machine code comes out.
import type { LibraryHandle } from 'koffi';
import { NeedletailError } from '../../util/errors.ts';
import { findCudaLibrary } from './find-library.ts';

export interface CompileJob {
  /** For messages: the path of the source. */
  readonly name: string;
  readonly source: string;
  /** Text of each header by the name that `#include` gives it. */
  readonly headers: ReadonlyMap<string, string>;
  readonly options: readonly string[];
}

export class Nvrtc {
  /** `13.0`. */
  readonly version: string;
  readonly path: string;
  readonly #functions: ReturnType<typeof bind>;

  private constructor(library: LibraryHandle, path: string) {
    this.#functions = bind(library);
    this.path = path;
    const [major, minor] = [new Int32Array(1), new Int32Array(1)];
    this.#check('nvrtcVersion', this.#functions.nvrtcVersion(major, minor));
    this.version = `${major[0]}.${minor[0]}`;
  }

  /** Throws `unsupported_platform` if there is none of these major versions. */
  static load(majors: readonly number[]): Nvrtc {
    const remedy = `install the CUDA toolkit ${majors[0]} or: pip install nvidia-cuda-nvrtc`;
    const { library, path } = findCudaLibrary({ name: 'nvrtc', remedy }, majors);
    return new Nvrtc(library, path);
  }

  /** A cubin for `--gpu-architecture=sm_…`. Throws `device_failed` with the compiler's log. */
  compile(job: CompileJob): Uint8Array {
    const program = this.#createProgram(job);
    try {
      const status = this.#functions.nvrtcCompileProgram(program, job.options.length, [...job.options]);
      if (status !== 0) {
        throw new NeedletailError(
          'device_failed',
          `${job.name} does not compile:\n${this.#readLog(program)}`,
        );
      }
      return this.#readCubin(program);
    } finally {
      this.#functions.nvrtcDestroyProgram(BigUint64Array.of(BigInt(program)));
    }
  }

  #createProgram({ name, source, headers }: CompileJob): number {
    const out = new BigUint64Array(1);
    const [names, texts] = [[...headers.keys()], [...headers.values()]];
    const status = this.#functions.nvrtcCreateProgram(out, source, name, headers.size, texts, names);
    this.#check('nvrtcCreateProgram', status);
    return Number(out[0]);
  }

  #readCubin(program: number): Uint8Array {
    const size = new BigUint64Array(1);
    this.#check('nvrtcGetCUBINSize', this.#functions.nvrtcGetCUBINSize(program, size));
    const cubin = new Uint8Array(Number(size[0]));
    this.#check('nvrtcGetCUBIN', this.#functions.nvrtcGetCUBIN(program, cubin));
    return cubin;
  }

  #readLog(program: number): string {
    const size = new BigUint64Array(1);
    this.#check('nvrtcGetProgramLogSize', this.#functions.nvrtcGetProgramLogSize(program, size));
    const log = Buffer.alloc(Number(size[0]));
    this.#check('nvrtcGetProgramLog', this.#functions.nvrtcGetProgramLog(program, log));
    return log.toString('utf8', 0, Math.max(0, log.length - 1)).trim();
  }

  #check(what: string, status: number): void {
    if (status === 0) return;
    const text = this.#functions.nvrtcGetErrorString(status);
    throw new NeedletailError('device_failed', `${what} failed: ${text}`);
  }
}

type Call = (...args: readonly unknown[]) => number;

function bind(library: LibraryHandle) {
  const call = (signature: string): Call => library.func(`int ${signature}`) as Call;
  return {
    nvrtcVersion: call('nvrtcVersion(void *major, void *minor)'),
    nvrtcGetErrorString: library.func('const char *nvrtcGetErrorString(int status)') as (
      status: number,
    ) => string,
    nvrtcCreateProgram: call(
      'nvrtcCreateProgram(void *program, const char *source, const char *name, int count, const char **headers, const char **names)',
    ),
    nvrtcDestroyProgram: call('nvrtcDestroyProgram(void *program)'),
    nvrtcCompileProgram: call('nvrtcCompileProgram(uintptr_t program, int count, const char **options)'),
    nvrtcGetCUBINSize: call('nvrtcGetCUBINSize(uintptr_t program, void *size)'),
    nvrtcGetCUBIN: call('nvrtcGetCUBIN(uintptr_t program, void *cubin)'),
    nvrtcGetProgramLogSize: call('nvrtcGetProgramLogSize(uintptr_t program, void *size)'),
    nvrtcGetProgramLog: call('nvrtcGetProgramLog(uintptr_t program, void *log)'),
  };
}
