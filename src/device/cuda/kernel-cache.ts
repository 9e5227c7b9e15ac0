// Compiled kernels on disk, found by a hash of all that goes into them: compiler, chip, flags, source and headers.
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Nvrtc } from '../../ffi/cuda/nvrtc.ts';
import type { Defines } from '../../kernels/cuda/cuda-kernel.ts';
import { NeedletailError } from '../../util/errors.ts';

/** The same from src/device/cuda and from dist/device/cuda: the sources are part of the package. */
export const KERNEL_SOURCES = fileURLToPath(new URL('../../../src/kernels/cuda/', import.meta.url));
const FLAGS = ['--std=c++17'];
const HASH = /^[0-9a-f]{32}$/;
const INCLUDE = /^#include "(.+)"$/gm;

/** What the cache asks of NVRTC. */
export type KernelCompiler = Pick<Nvrtc, 'version' | 'knownCapabilities' | 'compile'>;

export function defaultCacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return (
    env['NEEDLETAIL_KERNEL_CACHE'] ??
    join(env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'needletail/kernels')
  );
}

/**
 * What to compile for: the chip's own machine code (Hopper's own instructions need the `a`), or for a chip that the compiler
 * does not know yet the PTX of the newest that it does know, from which the driver makes machine code.
 */
export function compilerTarget(computeCapability: number, known: readonly number[]): string {
  if (known.includes(computeCapability))
    return computeCapability === 90 ? 'sm_90a' : `sm_${computeCapability}`;
  const older = known.filter((capability) => capability < computeCapability);
  if (older.length > 0) return `compute_${Math.max(...older)}`;
  throw new NeedletailError(
    'unsupported_platform',
    `NVRTC compiles for compute capability ${known.join(', ')}, not for ${computeCapability}: install an older one`,
  );
}

/** A source in the kernels' folder with its headers, and how it is to be compiled. */
export interface KernelSource {
  readonly path: string;
  readonly text: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly options: readonly string[];
}

export function readKernelSource(file: string, defines: Defines, target: string): KernelSource {
  const path = join(KERNEL_SOURCES, file);
  const text = readFileSync(path, 'utf8');
  const headers = new Map<string, string>();
  collectHeaders(text, headers);
  const macros = Object.entries(defines).map(([name, value]) => `-D${name}=${value}`);
  return { path, text, headers, options: [`--gpu-architecture=${target}`, ...FLAGS, ...macros.sort()] };
}

export class KernelCache {
  readonly directory: string;
  readonly target: string;
  readonly #compiler: KernelCompiler;

  constructor(compiler: KernelCompiler, computeCapability: number, directory = defaultCacheDirectory()) {
    this.#compiler = compiler;
    this.directory = directory;
    this.target = compilerTarget(computeCapability, compiler.knownCapabilities);
  }

  /** What the driver loads of a source in the kernels' folder. Throws `device_failed` with the source's path and the compiler's log. */
  load(file: string, defines: Defines): Uint8Array {
    const source = readKernelSource(file, defines, this.target);
    const entry = join(this.directory, this.#hash(source));
    return readEntry(entry) ?? this.#compile(source, entry);
  }

  #hash({ text, headers, options }: KernelSource): string {
    const hash = createHash('sha256');
    for (const part of [this.#compiler.version, ...options, text, ...headers.values()])
      hash.update(part).update('\0');
    return hash.digest('hex').slice(0, 32);
  }

  #compile(source: KernelSource, entry: string): Uint8Array {
    const { path, text, headers, options } = source;
    const { image } = this.#compiler.compile({ name: path, source: text, headers, options });
    writeEntry(entry, source, image);
    return image;
  }
}

function collectHeaders(text: string, headers: Map<string, string>): void {
  for (const [, name] of text.matchAll(INCLUDE)) {
    if (headers.has(name)) continue;
    const header = readFileSync(join(KERNEL_SOURCES, name), 'utf8');
    headers.set(name, header);
    collectHeaders(header, headers);
  }
}

/** What is in a cache. */
export function inspectCache(directory: string): { numKernels: number; numDamaged: number; bytes: number } {
  const entries = existsSync(directory) ? readdirSync(directory) : [];
  const images = entries
    .filter((entry) => HASH.test(entry))
    .map((entry) => readEntry(join(directory, entry)));
  const whole = images.filter((image) => image !== null);
  return {
    numKernels: whole.length,
    numDamaged: images.length - whole.length,
    bytes: whole.reduce((sum, { byteLength }) => sum + byteLength, 0),
  };
}

/** Null if there is none, or one that is damaged. */
function readEntry(entry: string): Uint8Array | null {
  try {
    const image = readFileSync(join(entry, 'kernel.image'));
    return readFileSync(join(entry, 'sha256'), 'utf8') === checksum(image) ? image : null;
  } catch {
    return null;
  }
}

/** Made aside and moved into place whole: processes may compile the same kernel at once. A cache that cannot be written is no loss. */
function writeEntry(entry: string, { text, options }: KernelSource, image: Uint8Array): void {
  const temporary = `${entry}.${randomUUID()}`;
  try {
    mkdirSync(temporary, { recursive: true });
    writeFileSync(join(temporary, 'kernel.image'), image);
    writeFileSync(join(temporary, 'sha256'), checksum(image));
    writeFileSync(join(temporary, 'kernel.cu'), `// ${options.join(' ')}\n${text}`);
    if (readEntry(entry) === null) rmSync(entry, { recursive: true, force: true });
    renameSync(temporary, entry);
  } catch {
    if (existsSync(temporary)) rmSync(temporary, { recursive: true });
  }
}

function checksum(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
