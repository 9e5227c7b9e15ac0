// A GPU newer than its compiler: kernels go to the driver as PTX of an older chip.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { CudaHarness } from '../../../test/support/cuda-harness.ts';
import { describeCuda } from '../../../test/support/cuda.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { CublasLt } from '../../ffi/cuda/cublaslt.ts';
import { CudaDriver } from '../../ffi/cuda/driver.ts';
import { Nvrtc } from '../../ffi/cuda/nvrtc.ts';
import { CudaRuntime } from './cuda-runtime.ts';
import { KernelCache } from './kernel-cache.ts';

describeCuda('a GPU that the compiler does not know', () => {
  it('runs the kernels of the newest chip that it does know', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'needletail-'));
    const driver = CudaDriver.load();
    const gpu = driver.gpu(0);
    const nvrtc = Nvrtc.load(driver.libraryMajors);
    const older = {
      version: nvrtc.version,
      knownCapabilities: nvrtc.knownCapabilities.filter((capability) => capability < gpu.computeCapability),
      compile: nvrtc.compile.bind(nvrtc),
    };
    const cache = new KernelCache(older, gpu.computeCapability, directory);
    expect(cache.target).toMatch(/^compute_/);
    const cublasLt = CublasLt.load(driver.libraryMajors);
    const harness = new CudaHarness(new CudaRuntime(driver, cublasLt, CpuLibrary.load(null), cache, gpu));
    const x = matrix(5, 64, randomValues(5 * 64, 1));
    const weight = {
      kind: 'weight',
      values: randomValues(64, 2),
      shape: [64],
      dtype: 'float32',
      layout: 'rowMajor',
    } as const;
    const launch = {
      op: 'rmsNorm',
      attributes: { eps: 1e-5, groupSize: 64, weightOffset: 0 },
      inputs: [x, weight],
      outputs: [matrix(5, 64)],
    };
    await harness.check({ launch, step: plainStep(5), dtype: 'float32' }, 1e-5);
    harness.close();
    rmSync(directory, { recursive: true });
  });
});
