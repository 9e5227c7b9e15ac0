// The recipes of smaller numbers by name, and what a checkpoint that is quantized already says of itself.
import type { Quantization } from '../tensor/precision.ts';
import type { TensorCatalog } from '../tensor/tensor-source.ts';
import type { WeightFormat } from '../tensor/weight-format.ts';
import type { QuantizationRules } from './request.ts';

const INT8: WeightFormat = { dtype: 'int8', groupSize: null, hasZeros: false };
const INT4: WeightFormat = { dtype: 'uint4', groupSize: 128, hasZeros: true };
const FLOAT8: WeightFormat = { dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false };

type Formats = Pick<QuantizationRules, 'weights' | 'activations'>;

const FORMATS: Readonly<Record<Quantization, Formats>> = {
  int8: { weights: INT8, activations: null },
  int4: { weights: INT4, activations: null },
  awq: { weights: INT4, activations: null },
  gptq: { weights: INT4, activations: null },
  fp8: { weights: FLOAT8, activations: { dtype: 'float8_e4m3fn', groupSize: null, isStatic: false } },
  smoothquant: { weights: INT8, activations: { dtype: 'int8', groupSize: null, isStatic: false } },
};

/** Of these, weights follow from a text that the model read, not from the weights alone. */
const CALIBRATED: ReadonlySet<string> = new Set<Quantization>(['awq', 'gptq', 'smoothquant']);

export function needsCalibration(name: Quantization): boolean {
  return CALIBRATED.has(name);
}

/** `groupSize`: of weights, where it is not the recipe's own (int4: 128; the others: whole rows). */
export function quantizationRules(
  name: Quantization,
  groupSize: number | null,
  keep: readonly string[],
): QuantizationRules {
  const { weights, activations } = FORMATS[name];
  if (groupSize === null || groupSize === weights.groupSize) return { name, weights, activations, keep };
  return { name: `${name}-g${groupSize}`, weights: { ...weights, groupSize }, activations, keep };
}

/** What most codes of a checkpoint are; what it holds as floats stays so. Null where it holds floats alone. */
export function publishedQuantization(tensors: TensorCatalog | null): QuantizationRules | null {
  const counts = new Map<string, { formats: Formats; count: number }>();
  for (const { quantized, shape } of tensors?.values() ?? []) {
    if (!quantized) continue;
    const { weights, activations } = quantized;
    const key = JSON.stringify([weights, activations]);
    const count = (counts.get(key)?.count ?? 0) + shape.reduce((product, size) => product * size, 1);
    counts.set(key, { formats: { weights, activations }, count });
  }
  const [most] = [...counts.values()].sort((a, b) => b.count - a.count);
  return most ? { name: formatsName(most.formats), ...most.formats, keep: ['*'] } : null;
}

/** `int8`, `int4-g128`, `fp8`, `w8a8` for whole numbers times whole numbers. */
function formatsName({ weights, activations }: Formats): string {
  const names = { int8: activations ? 'w8a8' : 'int8', uint4: 'int4', float8_e4m3fn: 'fp8' };
  const group = weights.groupSize === null || weights.groupSize === INT4.groupSize;
  return `${names[weights.dtype]}${group ? '' : `-g${weights.groupSize}`}`;
}
