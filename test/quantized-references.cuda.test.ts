// Every recipe that rounds to the nearest, with scales as they come or calibrated, with every type of KV cache on reference
// checkpoints, on the GPU.
import { describeCudaDevice } from './support/cuda.ts';
import {
  describeQuantizedReferences,
  KV_TYPES,
  ROUNDED_RECIPES,
  STATIC_RECIPES,
} from './support/quantized-references.ts';
import { ROUNDING } from './support/rounding.ts';

describeCudaDevice('quantized references', (device) => {
  describeQuantizedReferences('cuda', {
    recipes: [...ROUNDED_RECIPES, ...STATIC_RECIPES],
    kvTypes: KV_TYPES,
    device,
    maxRoundingError: ROUNDING.bfloat16.rootMeanSquare,
  });
});
