// The CPU device against the ops' definitions on models in smaller numbers: every recipe, with activations quantized and
// kept, over every type of KV cache.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { quantize } from '../src/compiler/passes/quantize.ts';
import { quantizationRules } from '../src/compiler/quantization-rules.ts';
import type { CompileRecipe } from '../src/compiler/request.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import { Interpreter } from '../src/ir/interpret.ts';
import { kvCacheGroups } from '../src/ir/kv-cache-groups.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import { findModel } from '../src/models/registry.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../src/tensor/precision.ts';
import { compileRequest } from './support/compile.ts';
import { loadReference, type ReferenceCheckpoint } from './support/reference-checkpoint.ts';
import { stepBatch } from './support/step-batch.ts';

const BLOCK_SIZE = 16;
const NUM_BLOCKS = 16;
const MAX_TOKENS = 128;
/** Columns of the smallest weights are no multiple of 128. */
const INT4_GROUP_SIZE = 32;

/** Plain, transposed and biased weights, experts with and without shared ones, latent attention. */
const MODELS = ['llama3_gqa', 'gpt2', 'mixtral', 'falcon_7b_style', 'deepseek_v3'] as const;

const RECIPES: readonly (readonly [
  Quantization,
  CompileRecipe['activationPrecision'],
  CompileRecipe['kvDType'],
])[] = [
  ['int8', 'auto', 'float32'],
  ['int8', '16bit', 'int8'],
  ['int4', 'auto', 'int8'],
  ['int4', '16bit', 'float32'],
  ['fp8', 'auto', 'float32'],
  ['fp8', '16bit', 'float8_e4m3fn'],
  ['smoothquant', 'auto', 'bfloat16'],
];

/**
 * Largest root mean square of differences, in standard deviations of the logits. Sums are rounded in another order, which
 * shows where a number lies between two codes: of 35 cases half agree to 1e-6, the others differ by what a few codes less
 * or more do to a small random model.
 */
const MAX_ERROR = { int8: 0.03, float8_e4m3fn: 0.12, none: 1e-3 } as const;

describe.each(CpuLibrary.available())('%s', (arch) => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2, arch });
  });
  afterAll(() => device.dispose());

  describe.each(MODELS)('%s', (name) => {
    const reference = withoutChoice(loadReference(name));
    const graph = findModel(reference.config).buildGraph(reference.config, {
      kvDType: 'float32',
      maxModelLen: MAX_TOKENS,
    });
    const numGroups = kvCacheGroups(graph.kvCaches).length;

    it.each(RECIPES)(
      '%s, activations %s, %s KV cache',
      async (quantization, activationPrecision, kvDType) => {
        const groupSize = quantization === 'int4' ? INT4_GROUP_SIZE : null;
        const rules = quantizationRules(quantization, groupSize, DEFAULT_QUANTIZATION_KEEP);
        const recipe = { weightDType: 'float32', quantization: rules, kvDType, activationPrecision } as const;
        const request = requestOf(reference, device, recipe);
        const step = promptsOf(reference, numGroups);

        const options = { kvDType, maxModelLen: MAX_TOKENS };
        const floats = findModel(reference.config).buildGraph(reference.config, options);
        const interpreter = new Interpreter(quantize(floats, request), {
          readTensor: reference.readTensor,
          numBlocks: NUM_BLOCKS,
          blockSize: BLOCK_SIZE,
        });
        const expected = interpreter.run(step).get('logits')!.data as Float32Array;

        const plan = compile(request);
        const numBlocks = plan.kvCacheGroups.map(() => NUM_BLOCKS);
        const executable = await device.load(plan, reference.source, { numBlocks });
        const actual = (await executable.run(step)).logits!.slice();
        await executable.dispose();
        const codes = plan.launches.find(({ op }) => op === 'quantize')?.attributes['dtype'] ?? 'none';
        expect(errorOf(expected, actual)).toBeLessThan(MAX_ERROR[codes as keyof typeof MAX_ERROR]);
      },
    );
  });
});

/** Every token of a mixture goes to every expert: a choice that falls otherwise says nothing of the numbers. */
function withoutChoice(reference: ReferenceCheckpoint): ReferenceCheckpoint {
  const { config } = reference;
  const numExperts = config['num_local_experts'];
  if (numExperts === undefined) return reference;
  return { ...reference, config: { ...config, num_experts_per_tok: numExperts } };
}

function requestOf({ config, catalog }: ReferenceCheckpoint, { target }: CpuDevice, recipe: CompileRecipe) {
  return compileRequest(config, {
    tensors: catalog,
    target,
    recipe,
    limits: { maxNumBatchedTokens: MAX_TOKENS, maxNumSeqs: 4, maxNumLogitRows: MAX_TOKENS },
    blockSize: BLOCK_SIZE,
    maxModelLen: MAX_TOKENS,
    kernels: CPU_KERNELS,
  });
}

/** All prompts in one step, all their logits wanted. */
function promptsOf({ prompts }: ReferenceCheckpoint, numGroups: number) {
  const chunks = prompts.map((tokenIds, prompt) => ({
    tokenIds,
    numCached: 0,
    blocks: [0, 1, 2].map((block) => 4 * block + prompt),
    logitRows: [...tokenIds.keys()],
  }));
  return stepBatch(chunks, BLOCK_SIZE, numGroups);
}

function errorOf(expected: Float32Array, actual: Float32Array): number {
  const mean = expected.reduce((sum, value) => sum + value, 0) / expected.length;
  const variance = expected.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const squares = expected.reduce((sum, value, i) => sum + (value - actual[i]) ** 2, 0);
  return Math.sqrt(squares / variance);
}
