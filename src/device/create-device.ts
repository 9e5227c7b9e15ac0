// Opens devices by name, and knows the kernels of each target.
import type { Target } from '../compiler/plan.ts';
import { CPU_KERNELS } from '../kernels/cpu/index.ts';
import type { KernelDescription } from '../kernels/kernel.ts';
import { REFERENCE_KERNELS } from '../kernels/reference.ts';
import { NeedletailError } from '../util/errors.ts';
import { CpuDevice } from './cpu/cpu-device.ts';
import type { Device } from './device.ts';
import { ReferenceDevice } from './reference/reference-device.ts';

/** `auto` is the fastest device at hand. Throws `unsupported_platform` where a device cannot be opened. */
export async function createDevice(
  kind: 'auto' | 'cpu' | 'reference',
  options: { readonly numThreads: number | null },
): Promise<Device> {
  return kind === 'reference' ? new ReferenceDevice() : CpuDevice.open(options);
}

export function kernelsFor(target: Target): readonly KernelDescription[] {
  switch (target.kind) {
    case 'cpu':
      return CPU_KERNELS;
    case 'reference':
      return REFERENCE_KERNELS;
    case 'cuda':
      throw new NeedletailError('unsupported_platform', 'there are no kernels for cuda yet');
  }
}
