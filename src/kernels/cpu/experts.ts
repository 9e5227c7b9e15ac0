// Launch descriptions of routeExperts and combineExperts.
import { float, int, singleKernel, type LaunchAttributes, type Parameter } from './cpu-kernel.ts';

interface Groups {
  readonly numGroups: number;
  readonly numSelected: number;
  readonly score: string;
}

function encodeRouting({
  numExpertsPerToken,
  scoring,
  normalize,
  scale,
  ...rest
}: LaunchAttributes): Parameter[] {
  const groups = rest['groups'] as Groups | null;
  return [
    int(numExpertsPerToken),
    int(scoring === 'sigmoid'),
    int(normalize),
    float(scale),
    int(groups?.numGroups ?? 0),
    int(groups?.numSelected ?? 0),
    int(groups?.score === 'twoBest'),
  ];
}

export const routeExperts = singleKernel('routeExperts', 'route_experts', encodeRouting);
export const combineExperts = singleKernel('combineExperts', 'combine_experts');
