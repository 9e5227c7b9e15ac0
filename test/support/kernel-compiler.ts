// Compiles kernels for any chip without a GPU, through NVRTC or nvcc, and reports what they take of a chip. Reports are kept
// beside compiled kernels: hundreds of instances take a minute or two.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import {
  defaultCacheDirectory,
  readKernelSource,
  type KernelSource,
} from '../../src/device/cuda/kernel-cache.ts';
import { Nvrtc } from '../../src/ffi/cuda/nvrtc.ts';
import type { Defines } from '../../src/kernels/cuda/cuda-kernel.ts';
import type { FloatDType } from '../../src/tensor/dtype.ts';

const REPORTS = join(defaultCacheDirectory(), 'reports');
const VERBOSE = '--ptxas-options=-v';
const NVRTC_MAJORS = [13, 12];

/** What ptxas says of one kernel. */
export interface KernelUse {
  readonly registers: number;
  readonly staticSharedBytes: number;
  readonly spillBytes: number;
}

export interface KernelCompiler {
  readonly version: string;
  /** Types of plans worth compiling for: nvcc takes a second for each kernel, and the two 16-bit types need the same. */
  readonly dtypes: readonly FloatDType[];
  /** Of each kernel in the source, by name. Throws with the compiler's log. */
  report(file: string, defines: Defines, target: string): ReadonlyMap<string, KernelUse>;
}

/** Null where neither NVRTC nor nvcc is installed. */
export function findKernelCompiler(): KernelCompiler | null {
  const found = nvrtc() ?? nvcc();
  if (!found) return null;
  const { version, dtypes, compile } = found;
  return {
    version,
    dtypes,
    report: (file, defines, target) => {
      const source = readKernelSource(file, defines, target);
      return parseReport(remembered(version, source, () => compile(source)));
    },
  };
}

interface FoundCompiler extends Pick<KernelCompiler, 'version' | 'dtypes'> {
  /** Gives the log. */
  readonly compile: (source: KernelSource) => string;
}

function nvrtc(): FoundCompiler | null {
  try {
    const library = Nvrtc.load(NVRTC_MAJORS);
    const compile = ({ path, text, headers, options }: KernelSource): string =>
      library.compile({ name: path, source: text, headers, options: [...options, VERBOSE] }).log;
    return { version: `NVRTC ${library.version}`, dtypes: ['float32', 'bfloat16', 'float16'], compile };
  } catch {
    return null;
  }
}

function nvcc(): FoundCompiler | null {
  const path = nvccPath();
  if (path === null) return null;
  const run = (args: readonly string[]): string => {
    const { status, stdout, stderr } = spawnSync(path, args, { encoding: 'utf8' });
    if (status === 0) return stdout + stderr;
    throw new Error(`${path} ${args.join(' ')} failed:\n${stdout}${stderr}`);
  };
  const version = /release ([\d.]+)/.exec(run(['--version']))?.[1] ?? 'of unknown version';
  const compile = ({ path: file, options }: KernelSource): string =>
    run(['--cubin', '--output-file', '/dev/null', VERBOSE, ...options, file]);
  return { version: `nvcc ${version}`, dtypes: ['bfloat16'], compile };
}

function nvccPath(): string | null {
  const { PATH = '', CUDA_HOME, CUDA_PATH } = process.env;
  const homes = [CUDA_HOME, CUDA_PATH, '/usr/local/cuda'].filter((home) => home !== undefined);
  const folders = [...PATH.split(delimiter), ...homes.map((home) => join(home, 'bin'))];
  return folders.map((folder) => join(folder, 'nvcc')).find((path) => existsSync(path)) ?? null;
}

function remembered(
  version: string,
  { text, headers, options }: KernelSource,
  compile: () => string,
): string {
  const parts = JSON.stringify([version, text, ...headers.values(), ...options]);
  const path = join(REPORTS, createHash('sha256').update(parts).digest('hex'));
  if (existsSync(path)) return readFileSync(path, 'utf8');
  const report = compile();
  mkdirSync(REPORTS, { recursive: true });
  writeFileSync(path, report);
  return report;
}

const KERNEL = /Compiling entry function '(\w+)'/;
const SPILLS = /(\d+) bytes spill stores, (\d+) bytes spill loads/;
const REGISTERS = /Used (\d+) registers/;
const SHARED = /(\d+) bytes smem/;

function parseReport(log: string): ReadonlyMap<string, KernelUse> {
  const [, ...sections] = log.split(/(?=Compiling entry function)/);
  return new Map(
    sections.map((section) => {
      const number = (pattern: RegExp): number => Number(pattern.exec(section)?.[1] ?? 0);
      const use = {
        registers: number(REGISTERS),
        staticSharedBytes: number(SHARED),
        spillBytes: number(SPILLS),
      };
      return [KERNEL.exec(section)![1], use];
    }),
  );
}
