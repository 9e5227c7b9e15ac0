// A kernel that writes where it must not: the GPU's context is lost for the process that launched it.
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { DeviceMemoryPool } from '../../src/device/cuda/device-memory.ts';
import { KernelLauncher } from '../../src/device/cuda/kernel-launcher.ts';
import { pointer } from '../../src/kernels/cuda/cuda-kernel.ts';

const NOWHERE = 16;
const NO_COUNTS = { numTokens: 0, numSeqs: 0, numLogitRows: 0, numDecodeSeqs: 0, numQueryTiles: 0 };

/** Puts it on the runtime's stream; what waits for the stream fails. */
export function launchWildKernel(runtime: CudaRuntime): void {
  const launcher = new KernelLauncher(runtime, new DeviceMemoryPool(runtime), {
    kind: 'kernel',
    source: 'rope-table.cu',
    entry: 'rope_table',
    defines: {},
    block: 64,
    sharedBytes: 0,
    grid: () => [1, 1, 1],
    parameters: [pointer(NOWHERE), pointer(NOWHERE), { int32: 64 }, { float64: 1 }],
  });
  launcher.run(NO_COUNTS);
}
