// The kernel cache with a compiler that counts: what is compiled again, and what never is.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Nvrtc, type CompileJob } from '../../ffi/cuda/nvrtc.ts';
import { NeedletailError } from '../../util/errors.ts';
import { compilerTarget, inspectCache, KernelCache, type KernelCompiler } from './kernel-cache.ts';

const nvrtc = findNvrtc();

function findNvrtc(): Nvrtc | null {
  try {
    return Nvrtc.load([13, 12]);
  } catch {
    return null;
  }
}

class CountingCompiler implements KernelCompiler {
  readonly version: string;
  readonly knownCapabilities = [80, 90];
  readonly jobs: CompileJob[] = [];

  constructor(version = '13.0') {
    this.version = version;
  }

  compile(job: CompileJob) {
    this.jobs.push(job);
    return { image: new TextEncoder().encode(`machine code of ${job.options.join(' ')}`), log: '' };
  }
}

describe('KernelCache', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'needletail-'));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  const open = (compiler: KernelCompiler, capability = 90): KernelCache =>
    new KernelCache(compiler, capability, directory);
  const entries = (): string[] => readdirSync(directory);

  it('compiles once, and gives the same code ever after', () => {
    const compiler = new CountingCompiler();
    const first = open(compiler).load('norm.cu', { X: 'bf16' });
    expect(open(compiler).load('norm.cu', { X: 'bf16' })).toEqual(Buffer.from(first));
    expect(compiler.jobs).toHaveLength(1);
    expect([...compiler.jobs[0].headers.keys()]).toContain('common.cuh');
    expect(compiler.jobs[0].options).toEqual(['--gpu-architecture=sm_90a', '--std=c++17', '-DX=bf16']);
  });

  it('compiles anew for other macros, another chip and another compiler', () => {
    const compiler = new CountingCompiler();
    open(compiler).load('norm.cu', { X: 'bf16' });
    open(compiler).load('norm.cu', { X: 'fp16' });
    open(compiler, 80).load('norm.cu', { X: 'bf16' });
    const newer = new CountingCompiler('13.1');
    open(newer).load('norm.cu', { X: 'bf16' });
    expect(compiler.jobs).toHaveLength(3);
    expect(newer.jobs).toHaveLength(1);
    expect(entries()).toHaveLength(4);
  });

  it.each(['kernel.image', 'sha256'])('makes an entry again whose %s is damaged or gone', (file) => {
    const compiler = new CountingCompiler();
    const whole = open(compiler).load('norm.cu', {});
    const path = join(directory, entries()[0], file);
    writeFileSync(path, readFileSync(path).subarray(1));
    expect(open(compiler).load('norm.cu', {})).toEqual(whole);
    rmSync(path);
    expect(open(compiler).load('norm.cu', {})).toEqual(whole);
    expect(compiler.jobs).toHaveLength(3);
    open(compiler).load('norm.cu', {});
    expect(compiler.jobs).toHaveLength(3);
    expect(entries()).toHaveLength(1);
  });

  it('tells what is in it', () => {
    expect(inspectCache(join(directory, 'not there'))).toEqual({ numKernels: 0, numDamaged: 0, bytes: 0 });
    const { byteLength } = open(new CountingCompiler()).load('norm.cu', {});
    open(new CountingCompiler('13.1')).load('norm.cu', {});
    writeFileSync(join(directory, entries()[0], 'sha256'), '');
    expect(inspectCache(directory)).toEqual({ numKernels: 1, numDamaged: 1, bytes: byteLength });
  });

  it('works where it cannot write', () => {
    const file = join(directory, 'no folder');
    writeFileSync(file, '');
    const compiler = new CountingCompiler();
    const cache = new KernelCache(compiler, 90, join(file, 'kernels'));
    expect(cache.load('norm.cu', {})).toEqual(cache.load('norm.cu', {}));
    expect(compiler.jobs).toHaveLength(2);
  });
});

describe.skipIf(nvrtc === null)('a kernel that does not compile (skipped without NVRTC)', () => {
  it('is refused with the path of its source and what the compiler says', () => {
    const cache = new KernelCache(nvrtc!, 90, join(tmpdir(), 'needletail-never-written'));
    const load = (): unknown => cache.load('norm.cu', { X: 'no_such_type', W: 'float', VEC: 1, ADD: 0 });
    expect(load).toThrow(NeedletailError);
    expect(load).toThrow(/kernels\/cuda\/norm\.cu does not compile:[^]*no_such_type/);
  });
});

describe('compilerTarget', () => {
  it("is the chip's own code, on Hopper with its own instructions", () => {
    expect(compilerTarget(86, [75, 80, 86, 90])).toBe('sm_86');
    expect(compilerTarget(90, [75, 80, 86, 90])).toBe('sm_90a');
  });

  it('is PTX of the newest known chip for one that is newer', () => {
    expect(compilerTarget(121, [75, 80, 90, 100, 120])).toBe('compute_120');
    expect(compilerTarget(100, [120, 90, 80])).toBe('compute_90');
  });

  it('is refused for a chip that the compiler no longer knows', () => {
    expect(() => compilerTarget(80, [90, 100])).toThrow(NeedletailError);
    expect(() => compilerTarget(80, [90, 100])).toThrow('install an older one');
  });
});
