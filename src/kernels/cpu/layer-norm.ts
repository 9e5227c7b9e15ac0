// Launch descriptions of layerNorm and addLayerNorm.
import { float, int, singleKernel } from './cpu-kernel.ts';

export const layerNorm = singleKernel('layerNorm', 'layer_norm', ({ eps, groupSize }) => [
  float(eps),
  int(groupSize),
]);

export const addLayerNorm = singleKernel('addLayerNorm', 'add_layer_norm', ({ eps }) => [float(eps)]);
