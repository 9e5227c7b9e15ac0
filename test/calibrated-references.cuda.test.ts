// Every recipe that learns from a text with every type of KV cache on reference checkpoints, on the GPU.
import { describeCudaDevice } from './support/cuda.ts';
import { describeQuantizedReferences, KV_TYPES, CALIBRATED_RECIPES } from './support/quantized-references.ts';
import { ROUNDING } from './support/rounding.ts';

describeCudaDevice('quantized references', (device) => {
  describeQuantizedReferences('cuda', {
    recipes: CALIBRATED_RECIPES,
    kvTypes: KV_TYPES,
    device,
    maxRoundingError: ROUNDING.bfloat16.rootMeanSquare,
  });
});
