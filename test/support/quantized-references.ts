// One suite for every device: each recipe of smaller numbers with each type of KV cache on reference checkpoints, its
// logits' error against float32 measured and bounded.
import { describe, expect, it } from 'vitest';
import { compile } from '../../src/compiler/compile.ts';
import type { Plan, Target } from '../../src/compiler/plan.ts';
import { quantizationRules } from '../../src/compiler/quantization-rules.ts';
import type { CompileRecipe } from '../../src/compiler/request.ts';
import type { Device } from '../../src/device/device.ts';
import type { StepBatch } from '../../src/device/step.ts';
import { Interpreter } from '../../src/ir/interpret.ts';
import type { KernelDescription } from '../../src/kernels/kernel.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { findModel } from '../../src/models/registry.ts';
import type { KVCacheDType } from '../../src/tensor/dtype.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../../src/tensor/precision.ts';
import type { TensorSource } from '../../src/tensor/tensor-source.ts';
import { loadReference, type ReferenceCheckpoint } from './reference-checkpoint.ts';
import { stepBatch } from './step-batch.ts';

const BLOCK_SIZE = 16;
const NUM_BLOCKS = 16;
const MAX_TOKENS = 128;

const MODELS = ['llama3_gqa', 'gpt2', 'mixtral', 'falcon_7b_style', 'falcon_40b_style'] as const;
const RECIPES = ['int8', 'int4', 'fp8', 'smoothquant'] as const satisfies readonly Quantization[];
const KV_TYPES = ['bfloat16', 'float8_e4m3fn', 'int8'] as const satisfies readonly KVCacheDType[];

/** Columns of the smallest weights are no multiple of 128. */
const INT4_GROUP_SIZE = 32;

/**
 * Standard deviations of errors in those of the logits, half as much again as the reference device's on the worst of these
 * random models, which magnify every error: 0.022 for weights in int8, 0.33 in int4, 0.18 for fp8 with its activations …
 */
const MAX_WEIGHT_ERROR: Readonly<Record<(typeof RECIPES)[number], number>> = {
  int8: 0.034,
  int4: 0.5,
  fp8: 0.19,
  smoothquant: 0.034,
};
const MAX_ACTIVATION_ERROR: Readonly<Record<string, number>> = { int8: 0.055, float8_e4m3fn: 0.19 };
const MAX_KV_ERROR: Readonly<Record<(typeof KV_TYPES)[number], number>> = {
  bfloat16: 0,
  float8_e4m3fn: 0.14,
  int8: 0.034,
};

/** Loads a plan and runs steps that follow each other; gives each one's raw logits. */
export type RunPlan = (
  plan: Plan,
  source: TensorSource,
  numBlocks: readonly number[],
  steps: readonly StepBatch[],
) => Promise<readonly Float32Array[]>;

/** A `RunPlan` on a device. */
export function runPlanOn(device: () => Device): RunPlan {
  return async (plan, source, numBlocks, steps) => {
    const executable = await device().load(plan, source, { numBlocks });
    const logits: Float32Array[] = [];
    for (const step of steps) logits.push((await executable.run(step)).logits!);
    await executable.dispose();
    return logits;
  };
}

export function describeQuantizedReferences(
  title: string,
  { target, kernels }: { readonly target: Target; readonly kernels: readonly KernelDescription[] },
  run: RunPlan,
): void {
  describe.each(MODELS)(`${title}: %s`, (name) => {
    const reference = withoutChoice(loadReference(name));
    const { vocabSize } = findModel(reference.config).facts(reference.config);
    const expected = floatLogits(reference);
    const expectedLast = lastRows(reference, expected, vocabSize);
    for (const recipe of RECIPES) {
      it.each(KV_TYPES)(`${recipe} with %s KV cache`, async (kvDType) => {
        const plan = compile(requestOf(reference, recipe, kvDType, target, kernels));
        const numBlocks = plan.kvCacheGroups.map(() => NUM_BLOCKS);
        const steps = [promptsOf(reference), lastTokensOf(reference)];
        const [actual, decoded] = await run(plan, reference.source, numBlocks, steps);
        const activations = MAX_ACTIVATION_ERROR[activationCodes(plan) ?? ''] ?? 0;
        // Independent of each other.
        const bound = Math.hypot(MAX_WEIGHT_ERROR[recipe], activations, MAX_KV_ERROR[kvDType]);
        expect(errorOf(expected, actual)).toBeLessThan(bound);
        expect(errorOf(expected, actual)).toBeGreaterThan(0);
        // Of a few rows the error varies more.
        expect(errorOf(expectedLast, decoded)).toBeLessThan(1.5 * bound);
      });
    }
  });
}

/**
 * Every token of a mixture goes to every expert, weighted: a rounded router would send some elsewhere, and the error would
 * say nothing of the numbers.
 */
function withoutChoice(reference: ReferenceCheckpoint): ReferenceCheckpoint {
  const { config } = reference;
  const numExperts = config['num_local_experts'];
  return numExperts === undefined
    ? reference
    : { ...reference, config: { ...config, num_experts_per_tok: numExperts } };
}

/** In float32, from the checkpoint's own weights. */
function floatLogits(reference: ReferenceCheckpoint): Float32Array {
  const { config, readTensor } = reference;
  const graph = graphOf(config);
  const interpreter = new Interpreter(graph, { readTensor, numBlocks: NUM_BLOCKS, blockSize: BLOCK_SIZE });
  return interpreter.run(promptsOf(reference)).get('logits')!.data as Float32Array;
}

function graphOf(config: HFConfig) {
  return findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: MAX_TOKENS });
}

function blocksOf(prompt: number): readonly number[] {
  return [0, 1, 2].map((block) => 4 * block + prompt);
}

/** All prompts in one step, all their logits wanted. */
function promptsOf({ prompts }: ReferenceCheckpoint): StepBatch {
  const chunks = prompts.map((tokenIds, prompt) => ({
    tokenIds,
    numCached: 0,
    blocks: blocksOf(prompt),
    logitRows: [...tokenIds.keys()],
  }));
  return stepBatch(chunks, BLOCK_SIZE, 1);
}

/** The last token of each prompt once more, as a decode against what the prompts left in the cache. */
function lastTokensOf({ prompts }: ReferenceCheckpoint): StepBatch {
  const chunks = prompts.map((tokenIds, prompt) => ({
    tokenIds: tokenIds.slice(-1),
    numCached: tokenIds.length - 1,
    blocks: blocksOf(prompt),
  }));
  return stepBatch(chunks, BLOCK_SIZE, 1);
}

function lastRows({ prompts }: ReferenceCheckpoint, logits: Float32Array, vocabSize: number): Float32Array {
  let end = 0;
  const rows = prompts.map((tokenIds) => {
    end += tokenIds.length * vocabSize;
    return logits.subarray(end - vocabSize, end);
  });
  return Float32Array.from(rows.flatMap((row) => [...row]));
}

function requestOf(
  { config, catalog }: ReferenceCheckpoint,
  name: Quantization,
  kvDType: KVCacheDType,
  target: Target,
  kernels: readonly KernelDescription[],
) {
  const groupSize = name === 'int4' ? INT4_GROUP_SIZE : null;
  const recipe: CompileRecipe = {
    weightDType: 'bfloat16',
    quantization: quantizationRules(name, groupSize, DEFAULT_QUANTIZATION_KEEP),
    kvDType,
    activationPrecision: 'auto',
  };
  return {
    definition: findModel(config),
    config,
    tensors: catalog,
    checkpointHash: null,
    target,
    recipe,
    limits: { maxNumBatchedTokens: MAX_TOKENS, maxNumSeqs: 4, maxNumLogitRows: MAX_TOKENS },
    blockSize: BLOCK_SIZE,
    maxModelLen: MAX_TOKENS,
    kernels,
  };
}

/** What activations are quantized to, which the device decides. */
function activationCodes({ launches }: Plan): string | undefined {
  return launches.find(({ op }) => op === 'quantize')?.attributes['dtype'] as string | undefined;
}

function errorOf(expected: Float32Array, actual: Float32Array): number {
  const mean = expected.reduce((sum, value) => sum + value, 0) / expected.length;
  const variance = expected.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const squares = expected.reduce((sum, value, i) => sum + (value - actual[i]) ** 2, 0);
  return Math.sqrt(squares / variance);
}
