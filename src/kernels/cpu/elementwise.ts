// Launch descriptions of the elementwise ops and of gatedActivation.
import { float, int, singleKernel, type LaunchAttributes, type Parameter } from './cpu-kernel.ts';

/** Numbered as in elementwise.cc. */
export const ACTIVATION_NUMBERS = [
  'silu',
  'gelu',
  'geluTanh',
  'relu',
  'reluSquared',
  'quickGelu',
  'sigmoid',
  'tanh',
];

function encodeKind({ kind }: LaunchAttributes): readonly Parameter[] {
  const number = ACTIVATION_NUMBERS.indexOf(kind as string);
  if (number < 0) throw new Error(`the cpu device has no activation ${String(kind)}`);
  return [int(number)];
}

export const add = singleKernel('add', 'add');
export const multiply = singleKernel('multiply', 'multiply');
export const scale = singleKernel('scale', 'scale', ({ factor }) => [float(factor)]);
export const clamp = singleKernel('clamp', 'clamp', ({ min, max }) => [
  float(min ?? -Infinity),
  float(max ?? Infinity),
]);
export const softcap = singleKernel('softcap', 'softcap', ({ cap }) => [float(cap)]);
export const activation = singleKernel('activation', 'activation', encodeKind);
export const gatedActivation = singleKernel('gatedActivation', 'gated_activation', encodeKind);
