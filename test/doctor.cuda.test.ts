// The self-test of `needletail doctor` on this GPU.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { SELF_TESTS, selfTest } from '../src/cli/self-test.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { describeCuda } from './support/cuda.ts';

describeCuda('the self-test', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  it.each(SELF_TESTS)('finds every kernel right in $name', async (test) => {
    const checks = await selfTest(device, test);
    const wrong = checks.filter(({ error }) => !(error <= test.tolerance));
    expect(checks.length).toBeGreaterThan(0);
    expect(wrong).toEqual([]);
  });
});
