// Codes that awq made with every type of KV cache on reference checkpoints, on the GPU.
import { describeCudaDevice } from './support/cuda.ts';
import { AWQ, describeQuantizedReferences, KV_TYPES } from './support/quantized-references.ts';
import { ROUNDING } from './support/rounding.ts';

describeCudaDevice('awq', (device) => {
  describeQuantizedReferences('cuda', {
    recipes: [AWQ],
    kvTypes: KV_TYPES,
    device,
    maxRoundingError: ROUNDING.bfloat16.rootMeanSquare,
  });
});
