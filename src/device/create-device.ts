// Opens devices by name, and knows the kernels of each target.
import type { Target } from '../compiler/plan.ts';
import { CPU_KERNELS } from '../kernels/cpu/index.ts';
import { CUDA_KERNELS } from '../kernels/cuda/index.ts';
import type { KernelDescription } from '../kernels/kernel.ts';
import { REFERENCE_KERNELS } from '../kernels/reference.ts';
import { CudaDriver } from '../ffi/cuda/driver.ts';
import { isNeedletailError } from '../util/errors.ts';
import { CpuDevice } from './cpu/cpu-device.ts';
import { CudaDevice } from './cuda/cuda-device.ts';
import type { Device } from './device.ts';
import { ReferenceDevice } from './reference/reference-device.ts';

/** `auto`: a GPU if there is one that can be used, otherwise the cpu. */
type DeviceKind = 'auto' | Target['kind'];

/**
 * Throws `unsupported_platform` where a device cannot be opened, saying what is missing; for `auto` that is a warning of the
 * process, if there is a GPU. `loadDriver` is for tests.
 */
export async function createDevice(
  kind: DeviceKind,
  options: { readonly numThreads: number | null },
  loadDriver = () => CudaDriver.load(),
): Promise<Device> {
  switch (kind) {
    case 'cuda':
      return CudaDevice.open(loadDriver());
    case 'reference':
      return new ReferenceDevice();
    case 'cpu':
      return CpuDevice.open(options);
    case 'auto':
      return (await openUsableGpu(loadDriver)) ?? CpuDevice.open(options);
  }
}

/** Null without a GPU; also, but not in silence, without what its kernels need. */
async function openUsableGpu(loadDriver: () => CudaDriver): Promise<Device | null> {
  let driver: CudaDriver | null = null;
  try {
    driver = loadDriver();
    return await CudaDevice.open(driver);
  } catch (error) {
    if (!isNeedletailError(error)) throw error;
    if (driver !== null) process.emitWarning(`the GPU is not used: ${error.message}`, 'NeedletailWarning');
    return null;
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
