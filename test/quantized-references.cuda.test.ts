// Every recipe of smaller numbers with every type of KV cache on reference checkpoints, on the GPU.
import { afterAll, beforeAll } from 'vitest';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { CUDA_KERNELS } from '../src/kernels/cuda/index.ts';
import { describeCuda } from './support/cuda.ts';
import { describeQuantizedReferences, runPlanOn } from './support/quantized-references.ts';

describeCuda('cuda', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  describeQuantizedReferences(
    'cuda device',
    { target: { kind: 'cuda', arch: 'sm_90' }, kernels: CUDA_KERNELS },
    runPlanOn(() => device),
  );
});
