// Launch descriptions of the products of experts whose weights, or whose inputs as well, are codes.
import {
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  singleKernel,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaOperand,
  type KernelLaunch,
} from './cuda-kernel.ts';
import {
  codesLayout,
  lacksCodes,
  plainParameters,
  types,
  type QuantizedOperands,
} from './quantized-linear.ts';

export const weightOnlyGroupedLinear: CudaKernelDescription = {
  ...singleKernel('weightOnlyGroupedLinear', (launch) => {
    const [x, weight, scales, ids, bias] = launch.inputs;
    return [grouped(launch, operandsOf(launch, x, null, weight, scales, bias), ids)];
  }),
  weightLayout: codesLayout,
  lacks: lacksCodes,
};

export const quantizedGroupedLinear: CudaKernelDescription = {
  ...singleKernel('quantizedGroupedLinear', (launch) => {
    const [x, xScales, weight, scales, ids, bias] = launch.inputs;
    return [grouped(launch, operandsOf(launch, x, xScales, weight, scales, bias), ids)];
  }),
  weightLayout: codesLayout,
  lacks: lacksCodes,
};

function operandsOf(
  { outputs }: CudaLaunch,
  x: CudaOperand,
  xScales: CudaOperand | null,
  weight: CudaOperand,
  scales: CudaOperand,
  bias: CudaOperand | undefined,
): QuantizedOperands {
  return {
    x: matrixOf(x),
    xScales: xScales && matrixOf(xScales),
    weight: matrixOf(weight),
    scales: matrixOf(scales),
    bias: optionalMatrix(bias),
    y: matrixOf(outputs[0]),
  };
}

function grouped(
  launch: CudaLaunch,
  operands: QuantizedOperands,
  idsOperand: CudaOperand | undefined,
): KernelLaunch {
  const ids = optionalMatrix(idsOperand);
  const { numMatrices, matricesPerToken: slots } = launch.attributes as {
    numMatrices: number;
    matricesPerToken: number;
  };
  const { x, weight } = operands;
  const outputs = weight.rows / numMatrices;
  return {
    kind: 'kernel',
    source: 'quantized-tiled.cu',
    entry: 'quantized_grouped',
    defines: types(operands),
    block: 256,
    sharedBytes: 0,
    grid: (counts) => [counts[launch.rows] * slots, Math.ceil(outputs / 8), 1],
    parameters: [
      ...plainParameters(launch, operands, outputs),
      pointer(ids?.address ?? 0),
      { int64: ids?.rowStride ?? 0 },
      int(slots),
      int(x.columns === weight.columns ? 0 : weight.columns),
    ],
  };
}
