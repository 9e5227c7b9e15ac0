// Launch descriptions of mixture-of-experts ops.
import {
  cudaType,
  float,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  rowCount,
  singleKernel,
  vectorWidth,
  view,
} from './cuda-kernel.ts';

interface Routing {
  readonly numExpertsPerToken: number;
  readonly scoring: 'softmax' | 'sigmoid';
  readonly normalize: boolean;
  readonly scale: number;
  readonly groups: {
    readonly numGroups: number;
    readonly numSelected: number;
    readonly score: 'best' | 'twoBest';
  } | null;
}

export const routeExperts = singleKernel('routeExperts', (launch) => {
  const [logits, correction] = [matrixOf(launch.inputs[0]), optionalMatrix(launch.inputs[1])];
  const [weights, ids] = launch.outputs.map(matrixOf);
  const { numExpertsPerToken, scoring, normalize, scale, groups } = launch.attributes as unknown as Routing;
  return [
    {
      kind: 'kernel',
      source: 'experts.cu',
      entry: 'route_experts',
      defines: { X: cudaType(logits.dtype), W: cudaType(correction?.dtype ?? logits.dtype), VEC: 1 },
      block: 32,
      sharedBytes: 0,
      grid: (counts) => [counts[launch.rows], 1, 1],
      parameters: [
        rowCount(launch),
        ...view(logits),
        pointer(correction?.address ?? 0),
        ...view(weights),
        ...view(ids),
        int(logits.columns),
        int(numExpertsPerToken),
        int(scoring === 'softmax'),
        int(normalize),
        float(scale),
        int(groups?.numGroups ?? 1),
        int(groups?.numSelected ?? 1),
        int(groups?.score === 'twoBest'),
      ],
    },
  ];
});

export const groupedLinear = singleKernel('groupedLinear', (launch) => {
  const [x, weight] = [matrixOf(launch.inputs[0]), matrixOf(launch.inputs[1])];
  const [ids, bias] = [optionalMatrix(launch.inputs[2]), optionalMatrix(launch.inputs[3])];
  const y = matrixOf(launch.outputs[0]);
  const { numMatrices, matricesPerToken: slots } = launch.attributes as {
    numMatrices: number;
    matricesPerToken: number;
  };
  const [inputs, outputs] = [weight.columns, weight.rows / numMatrices];
  return [
    {
      kind: 'kernel',
      source: 'experts.cu',
      entry: 'grouped_linear',
      defines: { X: cudaType(x.dtype), W: cudaType(weight.dtype), VEC: vectorWidth(inputs, [x, weight]) },
      block: 256,
      sharedBytes: 0,
      grid: (counts) => [counts[launch.rows] * slots, Math.ceil(outputs / 8), 1],
      parameters: [
        rowCount(launch),
        ...view(x),
        pointer(weight.address),
        pointer(ids?.address ?? 0),
        { int64: ids?.rowStride ?? 0 },
        pointer(bias?.address ?? 0),
        ...view(y),
        int(slots),
        int(inputs),
        int(outputs),
        int(x.columns === inputs ? 0 : inputs),
      ],
    },
  ];
});

export const combineExperts = singleKernel('combineExperts', (launch) => {
  const [x, weights] = launch.inputs.map(matrixOf);
  const y = matrixOf(launch.outputs[0]);
  return [
    {
      kind: 'kernel',
      source: 'experts.cu',
      entry: 'combine_experts',
      defines: { X: cudaType(x.dtype), W: cudaType(x.dtype), VEC: 1 },
      block: 256,
      sharedBytes: 0,
      grid: (counts) => [counts[launch.rows], Math.ceil(y.columns / 256), 1],
      parameters: [rowCount(launch), ...[x, weights, y].flatMap(view), int(weights.columns), int(y.columns)],
    },
  ];
});
