// The activation functions, in float64.
import { z } from 'zod';

export const ACTIVATION_KINDS = [
  'silu',
  'gelu',
  'geluTanh',
  'relu',
  'reluSquared',
  'quickGelu',
  'sigmoid',
  'tanh',
] as const;

export type ActivationKind = (typeof ACTIVATION_KINDS)[number];

export const activationAttributes = z.strictObject({ kind: z.enum(ACTIVATION_KINDS) });

export const ACTIVATIONS: Readonly<Record<ActivationKind, (x: number) => number>> = {
  silu: (x) => x * sigmoid(x),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  relu: (x) => Math.max(0, x),
  reluSquared: (x) => Math.max(0, x) ** 2,
  quickGelu: (x) => x * sigmoid(1.702 * x),
  sigmoid,
  tanh: Math.tanh,
};

function sigmoid(x: number): number {
  return 1 / (1 + Math.exp(-x));
}

/**
 * The error function, to float64 accuracy, by erf(x) = 2/√π · exp(−x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!! (Abramowitz and
 * Stegun 7.1.6): every term has the same sign, so nothing cancels.
 */
function erf(x: number): number {
  if (Math.abs(x) > 6) return Math.sign(x);
  let sum = 0;
  let term = x;
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
    sum += term;
    term *= (2 * x * x) / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}
