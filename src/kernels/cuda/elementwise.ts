// Launch descriptions of the elementwise ops and of gatedActivation.
import {
  cudaType,
  float,
  int,
  matrixOf,
  rowCount,
  singleKernel,
  threadsFor,
  vectorWidth,
  view,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type Defines,
  type KernelLaunch,
  type LaunchAttributes,
  type Parameter,
} from './cuda-kernel.ts';

function elementwise(
  launch: CudaLaunch,
  entry: string,
  matrices: readonly CudaMatrix[],
  defines: Defines,
  more: readonly Parameter[] = [],
): KernelLaunch {
  const { columns, dtype } = matrices.at(-1)!;
  const vec = vectorWidth(columns, matrices);
  const block = threadsFor(columns / vec, 256);
  const numChunks = Math.ceil(columns / (block * vec));
  return {
    kind: 'kernel',
    source: 'elementwise.cu',
    entry,
    defines: { X: cudaType(dtype), VEC: vec, ...defines },
    block,
    sharedBytes: 0,
    overlaps: true,
    grid: (counts) => [counts[launch.rows], numChunks, 1],
    parameters: [rowCount(launch), ...matrices.flatMap(view), int(columns), ...more],
  };
}

function binary(op: string): CudaKernelDescription {
  return singleKernel(op, (launch) => {
    const matrices = [...launch.inputs, launch.outputs[0]].map(matrixOf);
    return [elementwise(launch, 'binary', matrices, { OP: op })];
  });
}

function unary(
  op: string,
  choose: (attributes: LaunchAttributes) => { function: string; numbers: readonly [number, number] },
): CudaKernelDescription {
  return singleKernel(op, (launch) => {
    const { function: name, numbers } = choose(launch.attributes);
    const matrices = [matrixOf(launch.inputs[0]), matrixOf(launch.outputs[0])];
    return [elementwise(launch, 'unary', matrices, { OP: name, UNARY: 1 }, numbers.map(float))];
  });
}

export const add = binary('add');
export const multiply = binary('multiply');
export const scale = unary('scale', ({ factor }) => ({ function: 'scale', numbers: [Number(factor), 0] }));
export const softcap = unary('softcap', ({ cap }) => ({ function: 'softcap', numbers: [Number(cap), 0] }));
export const clamp = unary('clamp', ({ min, max }) => ({
  function: 'clamp',
  numbers: [Number(min ?? -Infinity), Number(max ?? Infinity)],
}));
export const activation = unary('activation', ({ kind }) => ({ function: String(kind), numbers: [0, 0] }));

export const gatedActivation = singleKernel('gatedActivation', (launch) => {
  const matrices = [matrixOf(launch.inputs[0]), matrixOf(launch.outputs[0])];
  return [elementwise(launch, 'gated', matrices, { OP: String(launch.attributes['kind']), UNARY: 1 })];
});
