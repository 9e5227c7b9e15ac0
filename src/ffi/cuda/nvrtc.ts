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

export interface CompiledKernel {
  /** A cubin, or PTX text with the zero at its end. */
  readonly image: Uint8Array;
  readonly log: string;
}

export class Nvrtc {
  /** `13.0`. */
  readonly version: string;
  /** Compute capabilities that it compiles for: 90 for 9.0. */
  readonly knownCapabilities: readonly number[];
  readonly path: string;
  readonly #functions: ReturnType<typeof bind>;

  private constructor(library: LibraryHandle, path: string) {
    this.#functions = bind(library);
    this.path = path;
    const [major, minor] = [new Int32Array(1), new Int32Array(1)];
    this.#check('nvrtcVersion', this.#functions.nvrtcVersion(major, minor));
    this.version = `${major[0]}.${minor[0]}`;
    this.knownCapabilities = this.#readCapabilities();
  }

  /** Throws `unsupported_platform` if there is none of these major versions. */
  static load(majors: readonly number[]): Nvrtc {
    const remedy = `install the CUDA toolkit ${majors[0]} or: pip install nvidia-cuda-nvrtc`;
    const { library, path } = findCudaLibrary({ name: 'nvrtc', remedy }, majors);
    return new Nvrtc(library, path);
  }

  /** A cubin for `--gpu-architecture=sm_…`, PTX for `compute_…`. Throws `device_failed` with the compiler's log. */
  compile(job: CompileJob): CompiledKernel {
    const program = this.#createProgram(job);
    try {
      const status = this.#functions.nvrtcCompileProgram(program, job.options.length, [...job.options]);
      if (status !== 0) {
        throw new NeedletailError(
          'device_failed',
          `${job.name} does not compile:\n${this.#readLog(program)}`,
        );
      }
      const isPtx = job.options.some((option) => option.startsWith('--gpu-architecture=compute_'));
      return { image: this.#readImage(program, isPtx ? 'PTX' : 'CUBIN'), log: this.#readLog(program) };
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

  #readImage(program: number, kind: 'CUBIN' | 'PTX'): Uint8Array {
    const [sizeCall, call] = [`nvrtcGet${kind}Size`, `nvrtcGet${kind}`] as const;
    const size = new BigUint64Array(1);
    this.#check(sizeCall, this.#functions[sizeCall](program, size));
    const image = new Uint8Array(Number(size[0]));
    this.#check(call, this.#functions[call](program, image));
    return image;
  }

  #readCapabilities(): number[] {
    const count = new Int32Array(1);
    this.#check('nvrtcGetNumSupportedArchs', this.#functions.nvrtcGetNumSupportedArchs(count));
    const capabilities = new Int32Array(count[0]);
    this.#check('nvrtcGetSupportedArchs', this.#functions.nvrtcGetSupportedArchs(capabilities));
    return [...capabilities];
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
    nvrtcGetNumSupportedArchs: call('nvrtcGetNumSupportedArchs(void *count)'),
    nvrtcGetSupportedArchs: call('nvrtcGetSupportedArchs(void *archs)'),
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
    nvrtcGetPTXSize: call('nvrtcGetPTXSize(uintptr_t program, void *size)'),
    nvrtcGetPTX: call('nvrtcGetPTX(uintptr_t program, void *ptx)'),
    nvrtcGetProgramLogSize: call('nvrtcGetProgramLogSize(uintptr_t program, void *size)'),
    nvrtcGetProgramLog: call('nvrtcGetProgramLog(uintptr_t program, void *log)'),
  };
}
