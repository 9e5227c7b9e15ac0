// What products read on the GPU, as calibration looks at it, is what they read on the cpu; fusions may not swallow it.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { GraphIndex } from '../src/compiler/graph-index.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { kernelsFor } from '../src/device/create-device.ts';
import type { Device } from '../src/device/device.ts';
import type { StepBatch } from '../src/device/step.ts';
import { KnownRows } from '../src/eval/known-rows.ts';
import { observingDefinition } from '../src/eval/observing-definition.ts';
import { valueName } from '../src/eval/slice-graph.ts';
import type { Value } from '../src/ir/graph.ts';
import { findModel } from '../src/models/registry.ts';
import { inputsOf, weightOf, type Product } from '../src/quantization/products.ts';
import { valuesBefore } from '../src/quantization/stages.ts';
import type { FloatDType } from '../src/tensor/dtype.ts';
import { describeCudaDevice } from './support/cuda.ts';
import { loadReference, type ReferenceCheckpoint } from './support/reference-checkpoint.ts';
import { stepBatch } from './support/step-batch.ts';

/** A mixture's router may choose otherwise in 16 bits. */
const DENSE = ['llama3_gqa', 'gpt2', 'falcon_7b_style', 'qwen3', 'gemma2'] as const;
const CASES = [
  ...[...DENSE, 'mixtral'].map((name) => [name, 'float32'] as const),
  ...DENSE.map((name) => [name, 'bfloat16'] as const),
];

const LIMITS = { maxNumBatchedTokens: 128, maxNumSeqs: 4, maxNumLogitRows: 8 };
const [BLOCK_SIZE, NUM_BLOCKS, MAX_LEN] = [16, 16, 64];

/** Root mean square of the difference in that of the values: of float32, and of 16 bits through all layers. */
const MAX_ERRORS = { float32: 1e-4, bfloat16: 0.06 } as const;

function indexOf({ config }: ReferenceCheckpoint): GraphIndex {
  return new GraphIndex(findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: MAX_LEN }));
}

function productsOf(index: GraphIndex): readonly Product[] {
  const format = { dtype: 'int8', groupSize: null, hasZeros: false } as const;
  return index.graph.nodes.flatMap((node) => {
    const weight = weightOf(node, index);
    const isHead = node.inputs[0].type.shape[0] === 'numLogitRows';
    return weight === null || isHead ? [] : [{ node, weight, format }];
  });
}

/** Each value that a product reads, once. */
function readByProducts(reference: ReferenceCheckpoint): readonly Value[] {
  return inputsOf(productsOf(indexOf(reference))).map(({ value }) => value);
}

/** A prompt, then the token after it. */
function stepsOf({ prompts: [tokenIds] }: ReferenceCheckpoint, numGroups: number): readonly StepBatch[] {
  const blocks = [0, 1, 2, 3];
  const prompt = { tokenIds, numCached: 0, blocks };
  const next = { tokenIds: [7], numCached: tokenIds.length, blocks };
  return [prompt, next].map((chunk) => stepBatch([chunk], BLOCK_SIZE, numGroups));
}

async function observe(
  device: Device,
  reference: ReferenceCheckpoint,
  dtype: FloatDType,
  values = readByProducts(reference),
  known: KnownRows | null = null,
): Promise<readonly ReadonlyMap<string, Float32Array>[]> {
  const { config } = reference;
  const { catalog, source } = known?.beside(reference) ?? reference;
  const plan = compile({
    definition: observingDefinition(findModel(config), values, known?.values),
    config,
    tensors: catalog,
    checkpointHash: null,
    target: device.target,
    recipe: { weightDType: dtype, quantization: null, kvDType: dtype, activationPrecision: '16bit' },
    limits: LIMITS,
    blockSize: BLOCK_SIZE,
    maxModelLen: MAX_LEN,
    kernels: kernelsFor(device.target),
  });
  const numBlocks = plan.kvCacheGroups.map(() => NUM_BLOCKS);
  const executable = await device.load(plan, source, { numBlocks });
  const seen: ReadonlyMap<string, Float32Array>[] = [];
  let start = 0;
  for (const step of stepsOf(reference, numBlocks.length)) {
    const tokenIds = known === null ? step.tokenIds : step.tokenIds.map((_, row) => start + row);
    seen.push((await executable.run({ ...step, tokenIds })).outputs!);
    start += step.numTokens;
  }
  await executable.dispose();
  return seen;
}

function relativeError(expected: Float32Array, actual: Float32Array): number {
  const squares = (values: Float32Array): number => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(squares(expected.map((value, i) => value - actual[i])) / squares(expected));
}

describeCudaDevice('values that products read', (device) => {
  let cpu: CpuDevice;
  beforeAll(async () => {
    cpu = await CpuDevice.open({ numThreads: 2 });
  });
  afterAll(() => cpu.dispose());

  it.for(CASES)('of %s in %s are those of the cpu in float32', async ([name, dtype]) => {
    const reference = loadReference(name);
    const [expected, actual] = [
      await observe(cpu, reference, 'float32'),
      await observe(device(), reference, dtype),
    ];
    expect(actual.map((values) => [...values.keys()])).toEqual(expected.map((values) => [...values.keys()]));
    for (const [step, values] of expected.entries())
      for (const [value, floats] of values)
        expect(relativeError(floats, actual[step].get(value)!), value).toBeLessThan(MAX_ERRORS[dtype]);
  });

  it.for(CASES)('of %s in %s are the same if part of them is known', async ([name, dtype]) => {
    const reference = loadReference(name);
    const index = indexOf(reference);
    const products = productsOf(index);
    const later = products.slice(products.length >> 1);
    const kept = valuesBefore(later, index);
    const wanted = inputsOf(later).map(({ value }) => value);
    const values = [...new Set([...wanted, ...kept])];
    const expected = await observe(device(), reference, dtype, values);
    const numTokens = stepsOf(reference, 1).map((step) => step.numTokens);
    const known = new KnownRows(kept, numTokens[0] + numTokens[1]);
    for (const value of kept) {
      expected.forEach((seen, step) => known.set(value, step * numTokens[0], seen.get(valueName(value.id))!));
    }
    const actual = await observe(device(), reference, dtype, values, known);
    for (const [step, seen] of expected.entries())
      for (const [value, floats] of seen)
        expect(relativeError(floats, actual[step].get(value)!), value).toBeLessThan(MAX_ERRORS[dtype]);
  });
});
