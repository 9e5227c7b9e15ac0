// The CPU device against what transformers computes, for every build of the library that this processor can run.
import { afterAll, beforeAll, describe } from 'vitest';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import { describeReferenceParity, PARITY_NUM_BLOCKS, parityPlan } from './support/reference-parity.ts';

describe.each(CpuLibrary.available())('%s', (arch) => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2, arch });
  });
  afterAll(() => device.dispose());

  // The references' weights are bfloat16 values: stored as such they lose nothing.
  describe.each(['float32', 'bfloat16'] as const)('%s weights', (weightDType) => {
    describeReferenceParity('cpu device', async (reference) => {
      const plan = parityPlan(reference, device.target, {
        weightDType,
        quantization: null,
        kvDType: 'float32',
        activationPrecision: 'float32',
      });
      const executable = await device.load(plan, reference.source, {
        numBlocks: plan.kvCacheGroups.map(() => PARITY_NUM_BLOCKS),
      });
      return async (step) => (await executable.run(step)).logits!;
    });
  });
});
