// Launch descriptions of rope, kvWrite and their fusion.
import { lacksSmallCache } from '../kernel.ts';
import {
  int,
  singleKernel,
  type CpuKernelDescription,
  type LaunchAttributes,
  type Parameter,
} from './cpu-kernel.ts';

function encodeRope({ headDim, rope: parameters }: LaunchAttributes): readonly Parameter[] {
  const { rotaryDim, interleaved } = parameters as { rotaryDim: number; interleaved: boolean };
  return [int(headDim), int(rotaryDim), int(interleaved)];
}

export const rope = singleKernel('rope', 'rope', encodeRope);
export const kvWrite: CpuKernelDescription = {
  ...singleKernel('kvWrite', 'kv_write'),
  lacks: lacksSmallCache,
};
export const ropeKvWrite: CpuKernelDescription = {
  ...singleKernel('ropeKvWrite', 'rope_kv_write', encodeRope),
  lacks: lacksSmallCache,
};
