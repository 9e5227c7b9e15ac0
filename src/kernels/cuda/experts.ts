// Launch descriptions of choosing experts and of the weighted sum of their answers.
import {
  cudaType,
  float,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  rowCount,
  singleKernel,
  threadsFor,
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
      overlaps: true,
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

export const combineExperts = singleKernel('combineExperts', (launch) => {
  const [x, weights] = launch.inputs.map(matrixOf);
  const y = matrixOf(launch.outputs[0]);
  const vec = vectorWidth(y.columns, [x, y]);
  const block = threadsFor(y.columns / vec, 256);
  return [
    {
      kind: 'kernel',
      source: 'experts.cu',
      entry: 'combine_experts',
      defines: { X: cudaType(x.dtype), W: cudaType(x.dtype), VEC: vec },
      block,
      sharedBytes: 0,
      overlaps: true,
      grid: (counts) => [counts[launch.rows], Math.ceil(y.columns / (block * vec)), 1],
      parameters: [rowCount(launch), ...[x, weights, y].flatMap(view), int(weights.columns), int(y.columns)],
    },
  ];
});
