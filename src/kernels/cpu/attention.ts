// Launch descriptions of attention and latentAttention.
import { float, int, singleKernel, type CpuKernelDescription } from './cpu-kernel.ts';

export const attention: CpuKernelDescription = {
  ...singleKernel('attention', 'attention'),
  encode({ numHeads, numKvHeads, scale, window, softcap, alibiSlopes }) {
    const values = [int(numHeads), int(numKvHeads), float(scale), int(window ?? 0), float(softcap ?? 0)];
    return alibiSlopes === null ? { values } : { values, constants: alibiSlopes as readonly number[] };
  },
};

export const latentAttention = singleKernel(
  'latentAttention',
  'latent_attention',
  ({ numHeads, numKvHeads, scale }) => [int(numHeads), int(numKvHeads), float(scale), int(0), float(0)],
);
