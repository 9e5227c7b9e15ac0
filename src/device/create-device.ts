// Opens devices by name, and knows the kernels of each target.
import type { Target } from '../compiler/plan.ts';
import { CPU_KERNELS } from '../kernels/cpu/index.ts';
import { CUDA_KERNELS } from '../kernels/cuda/index.ts';
import type { KernelDescription } from '../kernels/kernel.ts';
import { REFERENCE_KERNELS } from '../kernels/reference.ts';
import { isNeedletailError } from '../util/errors.ts';
import { CpuDevice } from './cpu/cpu-device.ts';
import { CudaDevice } from './cuda/cuda-device.ts';
import type { Device } from './device.ts';
import { ReferenceDevice } from './reference/reference-device.ts';

/** `auto`: a GPU if there is one that can be used, otherwise the cpu. */
type DeviceKind = 'auto' | Target['kind'];

/** Throws `unsupported_platform` where a device cannot be opened, saying what is missing. */
export async function createDevice(
  kind: DeviceKind,
  options: { readonly numThreads: number | null },
): Promise<Device> {
  switch (kind) {
    case 'cuda':
      return CudaDevice.open();
    case 'reference':
      return new ReferenceDevice();
    case 'cpu':
      return CpuDevice.open(options);
    case 'auto':
      return (await openUsableGpu()) ?? CpuDevice.open(options);
  }
}

/** Null without a GPU, or without what its kernels need. */
async function openUsableGpu(): Promise<Device | null> {
  try {
    return await CudaDevice.open();
  } catch (error) {
    if (isNeedletailError(error)) return null;
    throw error;
  }
}

export function kernelsFor(target: Target): readonly KernelDescription[] {
  switch (target.kind) {
    case 'cpu':
      return CPU_KERNELS;
    case 'reference':
      return REFERENCE_KERNELS;
    case 'cuda':
      return CUDA_KERNELS;
  }
}
