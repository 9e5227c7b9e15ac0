// Codes that gptq made with every type of KV cache on reference checkpoints, on the GPU.
import { describeCudaDevice } from './support/cuda.ts';
import { describeQuantizedReferences, GPTQ, KV_TYPES } from './support/quantized-references.ts';
import { ROUNDING } from './support/rounding.ts';

describeCudaDevice('gptq', (device) => {
  describeQuantizedReferences('cuda', {
    recipes: [GPTQ],
    kvTypes: KV_TYPES,
    device,
    maxRoundingError: ROUNDING.bfloat16.rootMeanSquare,
  });
});
