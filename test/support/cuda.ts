// Suites that need a GPU: they run where there is one and say why they do not elsewhere.
import { afterAll, beforeAll, describe } from 'vitest';
import { CudaDevice } from '../../src/device/cuda/cuda-device.ts';

const problem = await findProblem();

async function findProblem(): Promise<string | null> {
  try {
    await (await CudaDevice.open()).dispose();
    return null;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** A suite on the GPU; without one it is skipped and its title has the reason. */
export function describeCuda(title: string, suite: () => void): void {
  if (problem === null) describe(title, suite);
  else describe.skip(`${title} (skipped: ${problem})`, suite);
}

/** The same for a suite that shares one device, which is there when a test runs. */
export function describeCudaDevice(title: string, suite: (device: () => CudaDevice) => void): void {
  describeCuda(title, () => {
    let device: CudaDevice;
    beforeAll(async () => {
      device = await CudaDevice.open();
    });
    afterAll(() => device.dispose());

    suite(() => device);
  });
}
