// Suites that need a GPU: they run where there is one and say why they do not elsewhere.
import { describe } from 'vitest';
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
