// What a plan would take in smaller numbers: the choices that an error about memory offers, mildest first.
import { layoutBytes } from '../kernels/kernel.ts';
import { OPS } from '../ir/ops/index.ts';
import { isFloatDType, itemSize } from '../tensor/dtype.ts';
import { sumBytes } from './memory-budget.ts';
import type { Plan, WeightSpec } from './plan.ts';

export interface SmallerNumbers {
  readonly flags: string;
  readonly weightBytes: number;
  /** Of the KV cache as it is. */
  readonly cacheShare: number;
}

/** Codes lie as a device likes them, so that their size is right but for padding. */
export function smallerNumbers(plan: Plan): readonly SmallerNumbers[] {
  const cacheDType = plan.kvCacheGroups[0]?.layers[0].dtype ?? 'float32';
  const cacheBytes = itemSize(cacheDType);
  const weightBytes = sumBytes(plan.weights);
  if (plan.weights.some(isWideMatrix)) {
    const narrow = sumBytes(plan.weights.map((weight) => ({ bytes: bytesIn16Bits(weight) })));
    const cacheShare = cacheDType === 'float32' ? 1 / 2 : 1;
    return [{ flags: '--dtype bfloat16', weightBytes: narrow, cacheShare }];
  }
  const cache = { flags: '--kv-cache-dtype fp8', weightBytes, cacheShare: 1 / cacheBytes };
  const codes = { flags: '--quantization int8', weightBytes: bytesInInt8(plan), cacheShare: 1 };
  const both = { ...codes, flags: `${codes.flags} ${cache.flags}`, cacheShare: cache.cacheShare };
  const isQuantized = plan.weights.some(({ quantization }) => quantization !== null);
  const hasFloats = isFloatDType(cacheDType);
  return [
    ...(hasFloats ? [cache] : []),
    ...(isQuantized ? [] : [codes]),
    ...(hasFloats && !isQuantized ? [both] : []),
  ];
}

function bytesIn16Bits(weight: WeightSpec): number {
  const [rows, columns] = weight.shape;
  return isWideMatrix(weight) ? layoutBytes(weight.layout, rows, columns, 2) : weight.bytes;
}

function isWideMatrix({ dtype, shape, quantization }: WeightSpec): boolean {
  return dtype === 'float32' && shape.length === 2 && quantization === null;
}

/** A code for every element of the products' weights, a float32 scale for every row; the head stays as it is. */
function bytesInInt8(plan: Plan): number {
  const quantizable = productWeights(plan);
  const sizes = plan.weights.map(({ id, shape: [rows, columns], layout, bytes }) =>
    quantizable.has(id) ? layoutBytes(layout, rows, columns, 1) + rows * itemSize('float32') : bytes,
  );
  return sizes.reduce((sum, bytes) => sum + bytes, 0);
}

/** Weights that nothing but products reads, and none that makes the logits. */
function productWeights({ launches, logits }: Plan): ReadonlySet<number> {
  const found = new Set<number>();
  const others = new Set<number>();
  for (const { op, inputs, outputs } of launches) {
    const { quantizedForms, matrixInput } = OPS.get(op)!;
    const makesLogits = outputs.some((output) => output.kind === 'buffer' && output.id === logits.id);
    inputs.forEach((operand, i) => {
      if (operand.kind !== 'weight') return;
      const isProduct = quantizedForms !== null && i === matrixInput && !makesLogits;
      (isProduct ? found : others).add(operand.id);
    });
  }
  return new Set([...found].filter((id) => !others.has(id)));
}
