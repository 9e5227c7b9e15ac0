// Launch descriptions of rope, kvWrite and their fusion.
import { int, singleKernel, type LaunchAttributes, type Parameter } from './cpu-kernel.ts';

function encodeRope({ headDim, rope: parameters }: LaunchAttributes): readonly Parameter[] {
  const { rotaryDim, interleaved } = parameters as { rotaryDim: number; interleaved: boolean };
  return [int(headDim), int(rotaryDim), int(interleaved)];
}

export const rope = singleKernel('rope', 'rope', encodeRope);
export const kvWrite = singleKernel('kvWrite', 'kv_write');
export const ropeKvWrite = singleKernel('ropeKvWrite', 'rope_kv_write', encodeRope);
