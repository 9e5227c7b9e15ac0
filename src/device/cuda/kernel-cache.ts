// Compiled kernels on disk, found by a hash of all that goes into them: compiler, chip, flags, source and headers.
import { createHash, randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Nvrtc } from '../../ffi/cuda/nvrtc.ts';
import type { Defines } from '../../kernels/cuda/cuda-kernel.ts';

/** The same from src/device/cuda and from dist/device/cuda: the sources are part of the package. */
const SOURCES = fileURLToPath(new URL('../../../src/kernels/cuda/', import.meta.url));
const FLAGS = ['--std=c++17'];
const INCLUDE = /^#include "(.+)"$/gm;

export function defaultCacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  return (
    env['NEEDLETAIL_KERNEL_CACHE'] ??
    join(env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'needletail/kernels')
  );
}

/** The compiler's name for a chip: Hopper's own instructions need the `a`. */
export function archName(computeCapability: number): string {
  return computeCapability === 90 ? 'sm_90a' : `sm_${computeCapability}`;
}

/** A source with its headers, and how it is to be compiled. */
interface KernelSource {
  readonly path: string;
  readonly text: string;
  readonly headers: ReadonlyMap<string, string>;
  readonly options: readonly string[];
}

export class KernelCache {
  readonly directory: string;
  readonly arch: string;
  readonly #nvrtc: Nvrtc;
  constructor(nvrtc: Nvrtc, computeCapability: number, directory = defaultCacheDirectory()) {
    this.#nvrtc = nvrtc;
    this.directory = directory;
    this.arch = archName(computeCapability);
  }

  /** Machine code of a source in the kernels' folder. Throws `device_failed` with the compiler's log. */
  load(file: string, defines: Defines): Uint8Array {
    const source = this.#read(file, defines);
    const entry = join(this.directory, this.#hash(source));
    return readEntry(entry) ?? this.#compile(source, entry);
  }

  #read(file: string, defines: Defines): KernelSource {
    const path = join(SOURCES, file);
    const text = readFileSync(path, 'utf8');
    const headers = new Map<string, string>();
    collectHeaders(text, headers);
    const macros = Object.entries(defines).map(([name, value]) => `-D${name}=${value}`);
    return { path, text, headers, options: [`--gpu-architecture=${this.arch}`, ...FLAGS, ...macros.sort()] };
  }

  #hash({ text, headers, options }: KernelSource): string {
    const hash = createHash('sha256');
    for (const part of [this.#nvrtc.version, ...options, text, ...headers.values()])
      hash.update(part).update('\0');
    return hash.digest('hex').slice(0, 32);
  }

  #compile(source: KernelSource, entry: string): Uint8Array {
    const { path, text, headers, options } = source;
    const cubin = this.#nvrtc.compile({ name: path, source: text, headers, options });
    writeEntry(entry, source, cubin);
    return cubin;
  }
}

function collectHeaders(text: string, headers: Map<string, string>): void {
  for (const [, name] of text.matchAll(INCLUDE)) {
    if (headers.has(name)) continue;
    const header = readFileSync(join(SOURCES, name), 'utf8');
    headers.set(name, header);
    collectHeaders(header, headers);
  }
}

/** Null if there is none, or one that is damaged. */
function readEntry(entry: string): Uint8Array | null {
  try {
    const cubin = readFileSync(join(entry, 'kernel.cubin'));
    return readFileSync(join(entry, 'sha256'), 'utf8') === checksum(cubin) ? cubin : null;
  } catch {
    return null;
  }
}

/** Made aside and moved into place whole: processes may compile the same kernel at once. A cache that cannot be written is no loss. */
function writeEntry(entry: string, { text, options }: KernelSource, cubin: Uint8Array): void {
  const temporary = `${entry}.${randomUUID()}`;
  try {
    mkdirSync(temporary, { recursive: true });
    writeFileSync(join(temporary, 'kernel.cubin'), cubin);
    writeFileSync(join(temporary, 'sha256'), checksum(cubin));
    writeFileSync(join(temporary, 'kernel.cu'), `// ${options.join(' ')}\n${text}`);
    if (readEntry(entry) === null) rmSync(entry, { recursive: true, force: true });
    renameSync(temporary, entry);
  } catch {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function checksum(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
