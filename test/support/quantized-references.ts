// One suite for every device: each recipe of smaller numbers with each type of KV cache on reference checkpoints, its
// logits' error against float32 measured, told and bounded.
import { beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../../src/compiler/compile.ts';
import type { Plan, Target } from '../../src/compiler/plan.ts';
import { publishedQuantization, quantizationRules } from '../../src/compiler/quantization-rules.ts';
import type { CompileRecipe } from '../../src/compiler/request.ts';
import { kernelsFor } from '../../src/device/create-device.ts';
import type { Device } from '../../src/device/device.ts';
import type { StepBatch } from '../../src/device/step.ts';
import type { Attributes } from '../../src/ir/graph.ts';
import { Interpreter } from '../../src/ir/interpret.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { findModel } from '../../src/models/registry.ts';
import type { CalibratedRecipe } from '../../src/quantization/calibrate.ts';
import { GPTQ_OPTIONS } from '../../src/quantization/gptq.ts';
import type { KVCacheDType } from '../../src/tensor/dtype.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../../src/tensor/precision.ts';
import type { TensorCatalog, TensorSource } from '../../src/tensor/tensor-source.ts';
import { calibrateReference } from './calibrated-reference.ts';
import { compileRequest } from './compile.ts';
import { loadReference, type ReferenceCheckpoint } from './reference-checkpoint.ts';
import { stepBatch } from './step-batch.ts';

const BLOCK_SIZE = 16;
const NUM_BLOCKS = 16;
const MAX_TOKENS = 128;

const MODELS = ['llama3_gqa', 'gpt2', 'mixtral', 'falcon_7b_style', 'falcon_40b_style'] as const;
export const KV_TYPES = ['bfloat16', 'float8_e4m3fn', 'int8'] as const satisfies readonly KVCacheDType[];

/** Of int4: columns of the smallest weights are no multiple of 128. */
const INT4_GROUP_SIZE = 32;

export interface RecipeUnderTest {
  readonly title: string;
  readonly quantization: Quantization;
  readonly groupSize: number | null;
  /** What learns from a text how to round; null: floats are rounded as they are loaded. */
  readonly calibration: CalibratedRecipe | null;
  /**
   * Standard deviations of errors in those of the logits, half as much again as the reference device's on the worst of these
   * random models, which magnify every error: 0.022 for weights in int8, 0.33 in int4, 0.18 for fp8 with its activations …
   */
  readonly maxWeightError: number;
}

function rounded(
  quantization: Quantization,
  maxWeightError: number,
  groupSize: number | null = null,
): RecipeUnderTest {
  return { title: quantization, quantization, groupSize, calibration: null, maxWeightError };
}

function calibrated(
  calibration: CalibratedRecipe,
  maxWeightError: number,
  groupSize: number | null = null,
): RecipeUnderTest {
  const { name } = calibration;
  return { title: `calibrated ${name}`, quantization: name, groupSize, calibration, maxWeightError };
}

export const ROUNDED_RECIPES: readonly RecipeUnderTest[] = [
  rounded('int8', 0.034),
  rounded('int4', 0.5, INT4_GROUP_SIZE),
  rounded('fp8', 0.19),
  rounded('smoothquant', 0.034),
];

/** Calibrating for these takes longer than for all others. */
export const AWQ = calibrated({ name: 'awq', maxNumStages: 1 }, 0.5, INT4_GROUP_SIZE);
export const GPTQ = calibrated(
  { name: 'gptq', maxNumStages: 1, options: GPTQ_OPTIONS },
  0.5,
  INT4_GROUP_SIZE,
);
export const STATIC_RECIPES: readonly RecipeUnderTest[] = [
  calibrated({ name: 'fp8', range: 'absmax' }, 0.19),
  calibrated({ name: 'smoothquant', alpha: 0.5 }, 0.034),
];
export const CALIBRATED_RECIPES: readonly RecipeUnderTest[] = [AWQ, GPTQ, ...STATIC_RECIPES];

const MAX_ACTIVATION_ERROR: Readonly<Record<string, number>> = { int8: 0.055, float8_e4m3fn: 0.19 };
const MAX_KV_ERROR: Readonly<Record<(typeof KV_TYPES)[number], number>> = {
  bfloat16: 0,
  float8_e4m3fn: 0.14,
  int8: 0.034,
};

export interface QuantizedSuite {
  readonly recipes: readonly RecipeUnderTest[];
  readonly kvTypes: readonly (typeof KV_TYPES)[number][];
  /** Called when a test runs. */
  readonly device: () => Device;
  /** What the type of the device's activations may add to the error; 0 for float32. */
  readonly maxRoundingError: number;
}

export function describeQuantizedReferences(
  title: string,
  { recipes, kvTypes, device, maxRoundingError }: QuantizedSuite,
): void {
  describe.each(MODELS)(`${title}: %s`, (name) => {
    const reference = withoutChoice(loadReference(name));
    let expected: Float32Array;
    beforeAll(() => {
      expected = floatLogits(reference);
    });
    for (const recipe of recipes) {
      it.for(kvTypes)(`${recipe.title} with %s KV cache`, async (kvDType, { annotate }) => {
        const { catalog, source } = await checkpointOf(reference, recipe, device().target);
        const plan = compile(requestOf(reference, recipe, catalog, kvDType, device().target));
        const steps = [promptsOf(reference), lastTokensOf(reference)];
        const [prompts, decodes] = await runSteps(device(), plan, source, steps);
        const error = errorOf(expected, prompts);
        const decodeError = errorOf(lastRows(reference, expected), decodes);
        await annotate(
          `errors in standard deviations of the logits: ${error.toFixed(4)}, ${decodeError.toFixed(4)}`,
        );
        const activations = MAX_ACTIVATION_ERROR[activationCodes(plan) ?? ''] ?? 0;
        // Independent of each other.
        const bound = Math.hypot(recipe.maxWeightError, activations, MAX_KV_ERROR[kvDType], maxRoundingError);
        expect(error).toBeLessThan(bound);
        expect(error).toBeGreaterThan(0);
        // Of a few rows the error varies more.
        expect(decodeError).toBeLessThan(1.5 * bound);
      });
    }
  });
}

interface CheckpointUnderTest {
  readonly catalog: TensorCatalog;
  readonly source: TensorSource;
}

function checkpointOf(
  reference: ReferenceCheckpoint,
  { calibration, groupSize }: RecipeUnderTest,
  { kind }: Target,
): CheckpointUnderTest | Promise<CheckpointUnderTest> {
  if (calibration === null) return reference;
  return calibrateReference(reference, calibration, groupSize, kind === 'cuda' ? 'cuda' : 'cpu');
}

/** The raw logits of each step. */
async function runSteps(
  device: Device,
  plan: Plan,
  source: TensorSource,
  steps: readonly StepBatch[],
): Promise<readonly Float32Array[]> {
  const executable = await device.load(plan, source, { numBlocks: plan.kvCacheGroups.map(() => NUM_BLOCKS) });
  const logits: Float32Array[] = [];
  for (const step of steps) logits.push((await executable.run(step)).logits!);
  await executable.dispose();
  return logits;
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

function lastRows({ config, prompts }: ReferenceCheckpoint, logits: Float32Array): Float32Array {
  const { vocabSize } = findModel(config).facts(config);
  let end = 0;
  const rows = prompts.map((tokenIds) => {
    end += tokenIds.length * vocabSize;
    return logits.subarray(end - vocabSize, end);
  });
  return Float32Array.from(rows.flatMap((row) => [...row]));
}

function requestOf(
  { config }: ReferenceCheckpoint,
  { quantization, groupSize }: RecipeUnderTest,
  catalog: TensorCatalog,
  kvDType: KVCacheDType,
  target: Target,
) {
  const recipe: CompileRecipe = {
    weightDType: 'bfloat16',
    quantization:
      publishedQuantization(catalog) ?? quantizationRules(quantization, groupSize, DEFAULT_QUANTIZATION_KEEP),
    kvDType,
    activationPrecision: 'auto',
  };
  return compileRequest(config, {
    tensors: catalog,
    target,
    recipe,
    limits: { maxNumBatchedTokens: MAX_TOKENS, maxNumSeqs: 4, maxNumLogitRows: MAX_TOKENS },
    blockSize: BLOCK_SIZE,
    maxModelLen: MAX_TOKENS,
    kernels: kernelsFor(target),
  });
}

/** What activations are quantized to, by an op of its own or beside another, which the device decides. */
function activationCodes({ launches }: Plan): string | undefined {
  const quantizing = launches.map(({ op, attributes }) => {
    // Of what is fused with a product behind it.
    const source = (attributes['source'] ?? attributes) as Attributes;
    return /^quantize(?!d)/.test(op) ? source : (source['quantize'] as Attributes | undefined);
  });
  return quantizing.find((attributes) => attributes !== undefined)?.['dtype'] as string | undefined;
}

function errorOf(expected: Float32Array, actual: Float32Array): number {
  const mean = expected.reduce((sum, value) => sum + value, 0) / expected.length;
  const variance = expected.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const squares = expected.reduce((sum, value, i) => sum + (value - actual[i]) ** 2, 0);
  return Math.sqrt(squares / variance);
}
