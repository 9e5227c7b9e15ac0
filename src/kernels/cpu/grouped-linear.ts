// Launch description of groupedLinear: the products of linear, on rows sorted by the matrix that they go through.
import { int, type CpuKernelDescription } from './cpu-kernel.ts';
import { linear } from './linear.ts';

export const groupedLinear: CpuKernelDescription = {
  op: 'groupedLinear',
  weightLayout: (query) => linear.weightLayout(query),
  variants: (query) =>
    linear.variants(query).map(({ kernel, maxRows }) => ({ kernel: `grouped_${kernel}`, maxRows })),
  /** The packed rows of all slots, then their order, and where each matrix's begin. */
  workspaceBytes(query) {
    const { numGroups, numSlots } = query.attributes as { numGroups: number; numSlots: number };
    const maxRows = query.maxRows * numSlots;
    return linear.workspaceBytes({ ...query, maxRows }) + 4 * (maxRows + numGroups + 1);
  },
  encode: ({ numGroups, numSlots }) => ({ values: [int(numGroups), int(numSlots)] }),
};
