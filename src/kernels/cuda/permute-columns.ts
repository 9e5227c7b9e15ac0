// Launch description of permuteColumns.
import { cudaType, int, matrixOf, pointer, rowCount, singleKernel, view } from './cuda-kernel.ts';

const THREADS = 256;

export const permuteColumns = singleKernel('permuteColumns', (launch) => {
  const [x, order, y] = [...launch.inputs, ...launch.outputs].map(matrixOf);
  return [
    {
      kind: 'kernel',
      source: 'permute-columns.cu',
      entry: 'permute_columns',
      defines: { X: cudaType(x.dtype) },
      block: THREADS,
      sharedBytes: 0,
      overlaps: true,
      grid: (counts) => [counts[launch.rows], Math.ceil(x.columns / THREADS), 1],
      parameters: [rowCount(launch), ...view(x), pointer(order.address), ...view(y), int(x.columns)],
    },
  ];
});
