// The CPU device against what transformers computes, for every build of the library that this processor can run.
import { afterAll, beforeAll, describe } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import { compileRequest } from './support/compile.ts';
import { describeReferenceParity, PARITY_NUM_BLOCKS, PARITY_PLAN } from './support/reference-parity.ts';

describe.each(CpuLibrary.available())('%s', (arch) => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2, arch });
  });
  afterAll(() => device.dispose());

  // The references' weights are bfloat16 values: stored as such they lose nothing.
  describe.each(['float32', 'bfloat16'] as const)('%s weights', (weightDType) => {
    describeReferenceParity('cpu device', async ({ config, catalog, source }) => {
      const plan = compile(
        compileRequest(config, {
          tensors: catalog,
          target: device.target,
          recipe: { weightDType, quantization: null, kvDType: 'float32', activationPrecision: 'float32' },
          ...PARITY_PLAN,
          kernels: CPU_KERNELS,
        }),
      );
      const executable = await device.load(plan, source, {
        numBlocks: plan.kvCacheGroups.map(() => PARITY_NUM_BLOCKS),
      });
      return async (step) => (await executable.run(step)).logits!;
    });
  });
});
