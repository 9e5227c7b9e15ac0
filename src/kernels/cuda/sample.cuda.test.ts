// Sampling on the GPU against its definition.
import { afterAll, beforeAll } from 'vitest';
import { CudaHarness } from '../../../test/support/cuda-harness.ts';
import { describeCuda } from '../../../test/support/cuda.ts';
import { describeSampling } from '../../../test/support/describe-sampling.ts';

describeCuda('sampling', () => {
  let harness: CudaHarness;
  beforeAll(async () => {
    harness = await CudaHarness.open();
  });
  afterAll(() => harness.close());

  describeSampling((logits, vocabSize, sampling) => harness.sample(logits, vocabSize, sampling));
});
