// What products read on the GPU, as calibration looks at it, is what they read on the cpu; fusions may not swallow it.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { GraphIndex } from '../src/compiler/graph-index.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { kernelsFor } from '../src/device/create-device.ts';
import type { Device } from '../src/device/device.ts';
import type { StepBatch } from '../src/device/step.ts';
import { observingDefinition } from '../src/eval/observing-definition.ts';
import type { Value } from '../src/ir/graph.ts';
import { findModel } from '../src/models/registry.ts';
import { weightOf } from '../src/quantization/products.ts';
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

/** Each value that a product reads, once. */
function readByProducts({ config }: ReferenceCheckpoint): readonly Value[] {
  const index = new GraphIndex(
    findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: MAX_LEN }),
  );
  const products = index.graph.nodes.filter((node) => weightOf(node, index) !== null);
  const isHead = (value: Value): boolean => value.type.shape[0] === 'numLogitRows';
  const values = products.map(({ inputs }) => inputs[0]).filter((value) => !isHead(value));
  return [...new Map(values.map((value) => [value.id, value])).values()];
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
): Promise<readonly ReadonlyMap<string, Float32Array>[]> {
  const { config, catalog, source } = reference;
  const plan = compile({
    definition: observingDefinition(findModel(config), readByProducts(reference)),
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
  for (const step of stepsOf(reference, numBlocks.length)) seen.push((await executable.run(step)).outputs!);
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
});
