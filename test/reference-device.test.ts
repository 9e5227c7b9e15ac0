// Compiled plans on the reference device: do the compiler's passes and its memory plan keep what models compute?
import { describe, expect, it } from 'vitest';
import { packWeight } from '../src/compiler/pack-weight.ts';
import type { Plan } from '../src/compiler/plan.ts';
import { DeviceError, type Executable } from '../src/device/device.ts';
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import type { OpDefinition } from '../src/ir/op.ts';
import { GATED_PRODUCTS } from '../src/ir/ops/gated-products.ts';
import { OPS } from '../src/ir/ops/index.ts';
import { FED_PRODUCTS } from '../src/ir/ops/product-fusions.ts';
import { REFERENCE_KERNELS } from '../src/kernels/reference.ts';
import type { FloatDType } from '../src/tensor/dtype.ts';
import { loadReference, type ReferenceCheckpoint } from './support/reference-checkpoint.ts';
import {
  describeReferenceParity,
  PARITY_BLOCK_SIZE,
  PARITY_NUM_BLOCKS,
  parityPlan,
} from './support/reference-parity.ts';
import { stepBatch } from './support/step-batch.ts';

const device = new ReferenceDevice();

function planFor(reference: ReferenceCheckpoint, dtype: FloatDType = 'float32'): Plan {
  const recipe = { weightDType: dtype, quantization: null, kvDType: dtype } as const;
  return parityPlan(reference, device.target, { ...recipe, activationPrecision: 'float32' });
}

function numBlocksOf(plan: Plan): readonly number[] {
  return plan.kvCacheGroups.map(() => PARITY_NUM_BLOCKS);
}

async function load(reference: ReferenceCheckpoint, dtype: FloatDType = 'float32'): Promise<Executable> {
  const plan = planFor(reference, dtype);
  return device.load(plan, reference.source, { numBlocks: numBlocksOf(plan) });
}

describeReferenceParity('reference device', async (reference) => {
  const executable = await load(reference);
  return async (step) => (await executable.run(step)).logits!;
});

describe('ReferenceDevice', () => {
  const reference = loadReference('llama2');
  const prompt = stepBatch(
    [{ tokenIds: reference.prompts[1], numCached: 0, blocks: [3] }],
    PARITY_BLOCK_SIZE,
  );

  it('has a kernel for every op that is launched, but for products fused with what they read or yield', () => {
    const fusions = new Set<OpDefinition>([...GATED_PRODUCTS, ...FED_PRODUCTS.map(({ op }) => op)]);
    const launched = [...OPS.values()].filter((op) => !op.isView && !fusions.has(op));
    expect(REFERENCE_KERNELS.map((kernel) => kernel.op).sort()).toEqual(
      launched.map(({ name }) => name).sort(),
    );
  });

  it('samples what the reference generates', async () => {
    const executable = await load(reference);
    const result = await executable.run({ ...prompt, returnLogits: false });
    expect(result.tokenIds[0]).toBe(reference.greedy[1][0]);
    expect(result.logits).toBeNull();
  });

  it('rounds weights and cache to their types, and keeps activations', async () => {
    const [exact, rounded] = await Promise.all([load(reference, 'bfloat16'), load(reference, 'float16')]);
    const run = async (executable: Executable) => (await executable.run(prompt)).logits!;
    const [a, b] = [await run(exact), await run(rounded)];
    const largest = a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - b[i])), 0);
    expect(largest).toBeGreaterThan(0);
    expect(largest).toBeLessThan(0.2);
  });

  it('takes weights that were packed before', async () => {
    const plan = planFor(reference, 'bfloat16');
    const packed = {
      readPacked: (id: number) => packWeight(plan.weights[id], reference.source),
      path: '',
      offsetOf: () => 0,
      close: () => undefined,
    };
    const executable = await device.load(plan, packed, { numBlocks: numBlocksOf(plan) });
    const expected = await (await load(reference, 'bfloat16')).run(prompt);
    expect((await executable.run(prompt)).logits).toEqual(expected.logits);
  });

  it('holds what the plan foretells, and reports progress', async () => {
    const plan = planFor(reference);
    const progress: number[] = [];
    const executable = await device.load(plan, reference.source, {
      numBlocks: numBlocksOf(plan),
      onProgress: (loaded, total) => progress.push(loaded / total),
    });
    expect(progress.at(-1)).toBe(1);
    // Two layers of four heads of 64 keys and 64 values in float32.
    expect(executable.memory.kvCache).toBe(PARITY_NUM_BLOCKS * PARITY_BLOCK_SIZE * 2 * 4 * 128 * 4);
    expect(executable.memory.activations).toBe(plan.arenaBytes);
  });

  it('refuses plans of other devices, and stops loading when told to', async () => {
    const plan = planFor(reference);
    const foreign = { ...plan, header: { ...plan.header, target: { kind: 'cpu', arch: 'neon' } as const } };
    const options = { numBlocks: numBlocksOf(plan) };
    await expect(device.load(foreign, reference.source, options)).rejects.toThrow(
      'this plan is for a cpu device',
    );
    const stopped = { ...options, signal: AbortSignal.abort(new Error('enough')) };
    await expect(device.load(plan, reference.source, stopped)).rejects.toThrow('enough');
  });

  it('is unusable after it failed', async () => {
    const executable = await load(reference);
    await expect(executable.run({ ...prompt, tokenIds: prompt.tokenIds.map(() => 9999) })).rejects.toThrow(
      DeviceError,
    );
    await expect(executable.run(prompt)).rejects.toThrow('token id 9999 is outside of the table');
  });
});
