// Compares a launch on the CPU library with the op's own definition, within a tolerance relative to the largest value.
import { expect } from 'vitest';
import type { StepBatch } from '../../src/device/step.ts';
import { TOKEN, type HostTensor } from '../../src/ir/host-tensor.ts';
import { OPS } from '../../src/ir/ops/index.ts';
import { PagedKVCaches } from '../../src/ir/paged-kv-cache.ts';
import { stepInput } from '../../src/ir/step-inputs.ts';
import { isFloatDType, roundTo } from '../../src/tensor/dtype.ts';
import { stepBatch } from './step-batch.ts';
import type { HarnessLaunch, HarnessOperand, HarnessSession } from './cpu-harness.ts';

/** A reproducible stream of numbers in [−1, 1). */
export function randomValues(count: number, seed: number): Float32Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return new Float32Array(count).map(() => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 31 - 1;
  });
}

/** A step of `numTokens` tokens of one sequence, for ops that look at nothing else. */
export function plainStep(numTokens: number): StepBatch {
  const tokenIds = Array.from({ length: numTokens }, () => 0);
  const blocks = Array.from({ length: Math.ceil(numTokens / 16) }, () => 0);
  return stepBatch([{ tokenIds, numCached: 0, blocks, logitRows: [] }], 16);
}

export interface CheckOptions {
  /** Of the largest value. */
  readonly tolerance?: number;
  /** Where all values may be small by chance, though what was summed is not: of this at least. */
  readonly leastScale?: number;
  /** The interpreter's caches, in step with the session's. */
  readonly caches?: PagedKVCaches;
}

export async function checkLaunch(
  session: HarnessSession,
  launch: HarnessLaunch,
  step: StepBatch,
  { tolerance = 2e-6, leastScale = 1e-3, caches = new PagedKVCaches([], 16, []) }: CheckOptions = {},
): Promise<void> {
  const inputs = launch.inputs.flatMap((operand) => hostTensor(operand, step));
  const expected = OPS.get(launch.op)!.interpret(inputs, launch.attributes, caches);
  const actual = await session.run([launch], step);
  const tensors = expected.filter((tensor) => tensor !== TOKEN);
  actual.forEach((values, i) => expectClose(values, tensors[i].data, tolerance, leastScale));
}

export function hostTensor(operand: HarnessOperand, step: StepBatch): HostTensor[] {
  switch (operand.kind) {
    case 'matrix':
      return [{ shape: [operand.rows, operand.columns], data: operand.values! }];
    case 'weight':
      return [{ shape: operand.shape, data: storedValues(operand) }];
    case 'input':
      return [stepInput(step, operand.name, 0)];
    case 'kvCache':
      return [TOKEN];
    case 'ropeTable':
    case 'none':
      return [];
  }
}

/** Floats as they survive in the weight's type; codes are the numbers that they are. */
function storedValues({ dtype, values }: HarnessOperand & { kind: 'weight' }): Float32Array {
  return isFloatDType(dtype) ? values.map((value) => roundTo(dtype, value)) : values;
}

export function expectClose(
  actual: Float32Array,
  expected: Float32Array | Int32Array,
  tolerance: number,
  leastScale = 1e-3,
): void {
  expect(actual.length).toBe(expected.length);
  let largest = leastScale;
  for (const value of expected) largest = Math.max(largest, Math.abs(value));
  let [worst, at] = [0, -1];
  actual.forEach((value, i) => {
    const error = Math.abs(value - expected[i]);
    if (error > worst || (Number.isNaN(error) && !Number.isNaN(worst))) [worst, at] = [error, i];
  });
  const where = at < 0 ? '' : `element ${at} is ${actual[at]} instead of ${expected[at]}`;
  expect(worst / largest, where).toBeLessThanOrEqual(tolerance);
}
