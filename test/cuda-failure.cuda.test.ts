// What goes wrong on a GPU, and what is told: too little memory, then a kernel that writes where it must not.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import type { Plan } from '../src/compiler/plan.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { DeviceError, type Executable } from '../src/device/device.ts';
import { CUDA_KERNELS } from '../src/kernels/cuda/index.ts';
import { findModel } from '../src/models/registry.ts';
import type { TensorSource } from '../src/tensor/tensor-source.ts';
import { compileRequest } from './support/compile.ts';
import { describeCuda } from './support/cuda.ts';
import { loadReference } from './support/reference-checkpoint.ts';
import { stepBatch } from './support/step-batch.ts';
import { launchWildKernel } from './support/wild-kernel.ts';

describeCuda('failures', () => {
  const { config, catalog, source } = loadReference('llama2');
  let device: CudaDevice;
  let plan: Plan;
  beforeAll(async () => {
    device = await CudaDevice.open();
    const definition = findModel(config);
    plan = compile(
      compileRequest(config, { definition, tensors: catalog, target: device.target, kernels: CUDA_KERNELS }),
    );
  });
  afterAll(() => device.dispose());

  const step = stepBatch([{ tokenIds: [1, 2, 3], numCached: 0, blocks: [0] }], 16);
  const load = (numBlocks: number): Promise<Executable> =>
    device.load(plan, source, { numBlocks: [numBlocks] });

  it('a cache that does not fit is refused with what to change, and leaves nothing behind', async () => {
    const { heldBytes } = device.runtime.driver;
    const loading = load(2 ** 30);
    await expect(loading).rejects.toMatchObject({ code: 'out_of_memory' });
    await expect(loading).rejects.toThrow(/cuMemAlloc of \d+ bytes failed.*lower --memory-utilization/);
    expect(device.runtime.driver.heldBytes).toBe(heldBytes);
    const executable = await load(4);
    await executable.run(step);
    await executable.dispose();
  });

  it('a load that fails or is given up on the way leaves nothing behind', async () => {
    const { heldBytes } = device.runtime.driver;
    const last = plan.weights.at(-1)!.parts[0].tensor;
    const broken: TensorSource = {
      read(name) {
        if (name === last) throw new Error('the last tensor is damaged');
        return source.read(name);
      },
      close: () => undefined,
    };
    await expect(device.load(plan, broken, { numBlocks: [4] })).rejects.toThrow('the last tensor is damaged');
    const giveUp = new AbortController();
    const options = {
      numBlocks: [4],
      signal: giveUp.signal,
      onProgress: () => giveUp.abort(new Error('enough')),
    };
    await expect(device.load(plan, source, options)).rejects.toThrow('enough');
    expect(device.runtime.driver.heldBytes).toBe(heldBytes);
  });

  // The last test: a context does not recover from it.
  it('a kernel that writes where it must not fails the step, and every later one', async () => {
    const executable = await load(4);
    await executable.run(step);
    launchWildKernel(device.runtime);
    await expect(executable.run(step)).rejects.toThrow(DeviceError);
    await expect(executable.run(step)).rejects.toThrow(/the GPU failed: .*CUDA_ERROR_ILLEGAL_ADDRESS/);
  });
});
