// Launch description of linear.
import { singleKernel, type CpuKernelDescription } from './cpu-kernel.ts';

const KERNELS = { float32: 'linear_fp32', float16: 'linear_fp16', bfloat16: 'linear_bf16' } as const;

export const linear: CpuKernelDescription = {
  ...singleKernel('linear', 'linear_fp32'),
  weightLayout: ({ weightDType }) => (weightDType === 'bfloat16' ? 'panel16x2' : 'panel16'),
  variants: ({ weightDType }) => [{ kernel: KERNELS[weightDType], maxRows: null }],
  workspaceBytes: ({ maxRows, weightColumns }) => (maxRows + 16) * (weightColumns + 32) * 8,
};
