// Launch description of embedding: the table keeps the layout that another op wants of it.
import { singleKernel, type CpuKernelDescription } from './cpu-kernel.ts';

export const embedding: CpuKernelDescription = {
  ...singleKernel('embedding', 'embedding'),
  acceptsAnyLayout: true,
};
