// Every recipe of smaller numbers with every type of KV cache on reference checkpoints, on the GPU.
import { afterAll, beforeAll } from 'vitest';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { describeCuda } from './support/cuda.ts';
import {
  CALIBRATED_RECIPES,
  describeQuantizedReferences,
  KV_TYPES,
  ROUNDED_RECIPES,
} from './support/quantized-references.ts';
import { ROUNDING } from './support/rounding.ts';

describeCuda('quantized references', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  describeQuantizedReferences('cuda', {
    recipes: [...ROUNDED_RECIPES, ...CALIBRATED_RECIPES],
    kvTypes: KV_TYPES,
    device: () => device,
    maxRoundingError: ROUNDING.bfloat16.rootMeanSquare,
  });
});
