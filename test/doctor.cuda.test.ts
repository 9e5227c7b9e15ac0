// The self-test of `needletail doctor`: it covers what plans launch, and finds it right on this GPU.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { SELF_TEST_MODELS, SELF_TEST_TOLERANCE, selfTest } from '../src/cli/self-test.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { describeCuda } from './support/cuda.ts';
import { cudaPlan } from './support/cuda-launches.ts';
import { loadReference, REFERENCE_NAMES } from './support/reference-checkpoint.ts';

describeCuda('the self-test', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  it.each(['float32', 'bfloat16', 'float16'] as const)('finds every kernel right in %s', async (dtype) => {
    const checks = await selfTest(device, dtype);
    const wrong = checks.filter(({ error }) => !(error <= SELF_TEST_TOLERANCE[dtype]));
    expect(wrong).toEqual([]);
  });

  it('launches every op that plans of any family launch', () => {
    const { gpu } = device.runtime;
    const configs = REFERENCE_NAMES.map((name) => loadReference(name).config);
    const [tested, launched] = [SELF_TEST_MODELS, configs].map(
      (list) =>
        new Set(list.flatMap((config) => cudaPlan(config, 'bfloat16', gpu).launches.map(({ op }) => op))),
    );
    expect([...launched].filter((op) => !tested.has(op))).toEqual([]);
  });
});
