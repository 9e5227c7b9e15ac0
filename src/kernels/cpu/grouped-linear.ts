// Launch description of groupedLinear: the products of linear, on rows sorted by the matrix that they go through.
import { int, type CpuKernelDescription } from './cpu-kernel.ts';
import { linear } from './linear.ts';

export const groupedLinear: CpuKernelDescription = {
  op: 'groupedLinear',
  weightLayout: (query) => linear.weightLayout(query),
  variants: (query) =>
    linear.variants(query).map(({ kernel, maxRows }) => ({ kernel: `grouped_${kernel}`, maxRows })),
  /** The packed rows, one for each matrix of each token, then their order, and where each matrix's begin. */
  workspaceBytes(query) {
    const { numMatrices, matricesPerToken } = query.attributes as {
      numMatrices: number;
      matricesPerToken: number;
    };
    const maxRows = query.maxRows * matricesPerToken;
    return linear.workspaceBytes({ ...query, maxRows }) + 4 * (maxRows + numMatrices + 1);
  },
  encode: ({ numMatrices, matricesPerToken }) => ({ values: [int(numMatrices), int(matricesPerToken)] }),
};
