// Launch description of quantize.
import { int, type CpuKernelDescription } from './cpu-kernel.ts';

const KERNELS = { int8: 'quantize_int8', float8_e4m3fn: 'quantize_fp8' } as const;

export const quantize: CpuKernelDescription = {
  op: 'quantize',
  weightLayout: () => 'rowMajor',
  variants: ({ attributes }) => [
    { kernel: KERNELS[attributes['dtype'] as keyof typeof KERNELS], maxRows: null },
  ],
  workspaceBytes: () => 0,
  encode: ({ groupSize }) => ({ values: [int(groupSize)] }),
};
