// needletail at its lowest level: a device and an executable, no scheduler above them.
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { dummySource } from '../../src/checkpoint/dummy.ts';
import { compile } from '../../src/compiler/compile.ts';
import { expectedTensors } from '../../src/compiler/expected-tensors.ts';
import type { Plan } from '../../src/compiler/plan.ts';
import { quantizationRules } from '../../src/compiler/quantization-rules.ts';
import type { CompileRecipe } from '../../src/compiler/request.ts';
import { createDevice, kernelsFor } from '../../src/device/create-device.ts';
import type { Device, Executable } from '../../src/device/device.ts';
import type { SamplingBatch, StepBatch } from '../../src/device/step.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { findModel } from '../../src/models/registry.ts';
import type { FloatDType } from '../../src/tensor/dtype.ts';
import { DEFAULT_QUANTIZATION_KEEP } from '../../src/tensor/precision.ts';
import type { TensorSource } from '../../src/tensor/tensor-source.ts';
import type { ComparedType } from './contender-options.ts';
import type { EngineUnderTest, PassItem, Stepper } from './measures.ts';

const BLOCK_SIZE = 16;
/** Enough for the largest measure: 32 sequences of 256 tokens. */
const NUM_BLOCKS = 512;
const LIMITS = { maxNumBatchedTokens: 512, maxNumSeqs: 32, maxNumLogitRows: 32 };

export interface OurModel {
  readonly config: HFConfig;
  /** A checkpoint's folder; null: random weights. */
  readonly directory: string | null;
  readonly type: ComparedType;
}

export async function openNeedletail(model: OurModel, numThreads: number): Promise<EngineUnderTest> {
  const device = await createDevice('cpu', { numThreads });
  const plan = planFor(model, device);
  const source = await openWeights(model, plan);
  const executable = await device.load(plan, source, { numBlocks: plan.kvCacheGroups.map(() => NUM_BLOCKS) });
  return {
    description: device.description,
    open: async ({ contextLen }) => executableStepper(executable, contextLen / BLOCK_SIZE),
    async close() {
      await executable.dispose();
      source.close();
      await device.dispose();
    },
  };
}

/** What is left of floats beside smaller weights is bfloat16. */
function floatTypeOf(type: ComparedType): FloatDType {
  return type === 'float16' ? 'float16' : 'bfloat16';
}

/** As the flags --dtype and --quantization alone would have it. */
function recipeOf(type: ComparedType): CompileRecipe {
  const dtype = floatTypeOf(type);
  const isSmall = type === 'int8' || type === 'int4';
  const quantization = isSmall ? quantizationRules(type, null, DEFAULT_QUANTIZATION_KEEP) : null;
  return { weightDType: dtype, quantization, kvDType: dtype, activationPrecision: 'auto' };
}

function planFor({ config, type }: OurModel, device: Device): Plan {
  return compile({
    definition: findModel(config),
    config,
    tensors: null,
    checkpointHash: null,
    target: device.target,
    recipe: recipeOf(type),
    limits: LIMITS,
    blockSize: BLOCK_SIZE,
    maxModelLen: 1024,
    kernels: kernelsFor(device.target),
  });
}

async function openWeights({ directory, type }: OurModel, plan: Plan): Promise<TensorSource> {
  if (directory !== null) return (await openCheckpoint(directory)).source;
  return dummySource(expectedTensors(plan, floatTypeOf(type)), 1);
}

function executableStepper(executable: Executable, blocksPerSeq: number): Stepper {
  return {
    async pass(items) {
      await executable.run(stepBatch(items, blocksPerSeq, executable.plan.kvCacheGroups.length));
    },
    rewind() {
      // Positions say what is live: the next pass writes over what came after.
    },
    async close() {
      // The executable serves every measure; the engine's own `close` frees it.
    },
  };
}

/** Sequence `s` owns the blocks from `s · blocksPerSeq` on, in every cache group. */
function stepBatch(items: readonly PassItem[], blocksPerSeq: number, numGroups: number): StepBatch {
  const positions = items.flatMap((item) => item.tokenIds.map((_, i) => item.position + i));
  const slots = items.flatMap((item) =>
    item.tokenIds.map((_, i) => item.sequence * blocksPerSeq * BLOCK_SIZE + item.position + i),
  );
  let end = 0;
  const ends = items.map(({ tokenIds }) => (end += tokenIds.length));
  const tables = items.flatMap(({ sequence }) =>
    Array.from({ length: blocksPerSeq }, (_, i) => sequence * blocksPerSeq + i),
  );
  const logitRows = ends.map((end) => end - 1).filter((_, i) => items[i].wantsLogits);
  const group = {
    slotMapping: Int32Array.from(slots),
    blockTables: Int32Array.from(tables),
    maxBlocksPerSeq: blocksPerSeq,
  };
  return {
    numTokens: positions.length,
    numSeqs: items.length,
    tokenIds: Int32Array.from(items.flatMap((item) => item.tokenIds)),
    positions: Int32Array.from(positions),
    cuSeqlensQ: Int32Array.from([0, ...ends]),
    contextLens: Int32Array.from(items, (item) => item.position + item.tokenIds.length),
    groups: Array.from({ length: numGroups }, () => group),
    logitRows: Int32Array.from(logitRows),
    blockCopies: new Int32Array(0),
    sampling: greedy(logitRows.length),
    returnLogits: false,
  };
}

function greedy(numRows: number): SamplingBatch {
  const zeros = new Float32Array(numRows);
  const ones = new Float32Array(numRows).fill(1);
  const none = new Int32Array(0);
  return {
    targetIds: new Int32Array(numRows).fill(-1),
    temperature: zeros,
    topK: new Int32Array(numRows),
    topP: ones,
    minP: zeros,
    repetitionPenalty: ones,
    presencePenalty: zeros,
    frequencyPenalty: zeros,
    seedLow: new Uint32Array(numRows),
    seedHigh: new Uint32Array(numRows),
    position: new Uint32Array(numRows),
    numLogprobs: new Int32Array(numRows).fill(-1),
    biasOffsets: new Int32Array(numRows + 1),
    biasIds: none,
    biasValues: new Float32Array(0),
    historyOffsets: new Int32Array(numRows + 1),
    historyIds: none,
    historyOutputCounts: none,
  };
}
