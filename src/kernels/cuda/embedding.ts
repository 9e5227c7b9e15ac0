// Launch descriptions of embedding and gatherRows: both copy rows that a step's array names.
import {
  cudaType,
  inputOf,
  int,
  matrixOf,
  pointer,
  rowCount,
  singleKernel,
  threadsFor,
  vectorWidth,
  view,
  type CudaLaunch,
  type CudaOperand,
  type PreparedLaunch,
} from './cuda-kernel.ts';

function copyRows(launch: CudaLaunch, ids: CudaOperand, rows: CudaOperand): readonly PreparedLaunch[] {
  const [table, y] = [matrixOf(rows), matrixOf(launch.outputs[0])];
  const vec = vectorWidth(y.columns, [table, y]);
  return [
    {
      kind: 'kernel',
      source: 'embedding.cu',
      entry: 'copy_rows',
      defines: { X: cudaType(table.dtype), Y: cudaType(y.dtype), VEC: vec },
      block: threadsFor(y.columns / vec, 256),
      sharedBytes: 0,
      grid: (counts) => [counts[launch.rows], 1, 1],
      parameters: [
        pointer(inputOf(ids).address),
        rowCount(launch),
        ...view(table),
        ...view(y),
        int(y.columns),
      ],
    },
  ];
}

export const embedding = singleKernel('embedding', (launch) =>
  copyRows(launch, launch.inputs[0], launch.inputs[1]),
);
export const gatherRows = singleKernel('gatherRows', (launch) =>
  copyRows(launch, launch.inputs[1], launch.inputs[0]),
);
