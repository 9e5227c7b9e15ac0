// Launch descriptions of rmsNorm and addRmsNorm.
import { float, int, singleKernel } from './cpu-kernel.ts';

export const rmsNorm = singleKernel('rmsNorm', 'rms_norm', ({ eps, groupSize, weightOffset }) => [
  float(eps),
  int(groupSize),
  float(weightOffset),
]);

export const addRmsNorm = singleKernel('addRmsNorm', 'add_rms_norm', ({ eps, weightOffset }) => [
  float(eps),
  float(weightOffset),
]);
