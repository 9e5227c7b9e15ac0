// The shape of a stored plan, for whatever reads one from a file.
import { z } from 'zod';
import type { Attributes } from '../ir/graph.ts';
import { PLAN_FORMAT_VERSION, type Plan, type PlanHeader } from './plan.ts';

const count = z.int().nonnegative();
const floatDType = z.enum(['float32', 'bfloat16', 'float16']);
const codeDType = z.enum(['int8', 'uint4', 'float8_e4m3fn']);
const dtype = z.enum([...floatDType.options, ...codeDType.options, 'int32', 'uint8']);
const kvDType = z.enum([...floatDType.options, 'float8_e4m3fn', 'int8']);
const rows = z.enum(['numTokens', 'numSeqs', 'numLogitRows']);

export const planHeaderSchema: z.ZodType<PlanHeader> = z.strictObject({
  formatVersion: z.literal(PLAN_FORMAT_VERSION),
  writtenBy: z.string(),
  target: z.strictObject({ kind: z.enum(['cpu', 'reference', 'cuda']), arch: z.string() }),
  recipe: z.string(),
  checkpointHash: z.string().nullable(),
  rank: count,
  worldSize: count,
});

const weightPart = z.strictObject({
  name: z.string(),
  tensor: z.string(),
  tensorShape: z.array(count),
  transpose: z.boolean(),
  rowStart: count,
  rowCount: count,
  rowStep: count.positive(),
  columnStart: count,
  columnCount: count,
});

const quantization = z.strictObject({
  format: z.strictObject({
    dtype: codeDType,
    groupSize: count.positive().nullable(),
    hasZeros: z.boolean(),
  }),
  holds: z.enum(['codes', 'scales', 'inputScales', 'inputOrder']),
  origin: z.enum(['quantize', 'checkpoint']),
});

const weight = z.strictObject({
  id: count,
  name: z.string(),
  dtype,
  shape: z.array(count).min(1).max(2),
  layout: z.enum(['rowMajor', 'panel16', 'panel16x2', 'panel16words', 'evenOdd']),
  parts: z.array(weightPart),
  quantization: quantization.nullable(),
  bytes: count,
});

const ropeTable = z.strictObject({
  id: count,
  numPositions: count,
  rotaryDim: count,
  inverseFrequencies: z.array(z.number()),
  attentionFactor: z.number(),
  bytes: count,
});

const buffer = z.strictObject({
  id: count,
  name: z.string(),
  dtype,
  shape: z.tuple([z.union([count, rows])], z.union([count, rows])),
  offset: count,
  bytes: count,
});

const bufferOperand = z.strictObject({
  kind: z.literal('buffer'),
  id: count,
  columnStart: count,
  columns: count,
  rowStride: count,
});

const operand = z.discriminatedUnion('kind', [
  bufferOperand,
  z.strictObject({ kind: z.literal('weight'), id: count }),
  z.strictObject({ kind: z.literal('ropeTable'), id: count }),
  z.strictObject({
    kind: z.literal('input'),
    name: z.enum([
      'tokenIds',
      'positions',
      'slotMapping',
      'blockTables',
      'cuSeqlensQ',
      'contextLens',
      'logitRows',
    ]),
    group: count,
  }),
  z.strictObject({ kind: z.literal('kvCache'), layer: count }),
  z.strictObject({ kind: z.literal('none') }),
]);

const launch = z.strictObject({
  op: z.string(),
  label: z.string(),
  inputs: z.array(operand),
  outputs: z.array(operand),
  attributes: z.custom<Attributes>((value) => typeof value === 'object' && value !== null),
  variants: z.array(z.strictObject({ kernel: z.string(), maxRows: count.nullable() })).min(1),
  rows,
});

const kvCache = z.strictObject({
  layer: count,
  numKvHeads: count,
  keyHeadDim: count,
  valueHeadDim: count,
  window: count.nullable(),
  dtype: kvDType,
});

export const planSchema: z.ZodType<Plan> = z.strictObject({
  header: planHeaderSchema,
  model: z.strictObject({
    modelType: z.string(),
    vocabSize: count,
    hiddenSize: count,
    numLayers: count,
    maxModelLen: count.positive(),
    numParameters: count,
  }),
  limits: z.strictObject({
    maxNumBatchedTokens: count.positive(),
    maxNumSeqs: count.positive(),
    maxNumLogitRows: count.positive(),
  }),
  blockSize: count.positive(),
  weights: z.array(weight),
  ropeTables: z.array(ropeTable),
  kvCacheGroups: z.array(
    z.strictObject({
      index: count,
      window: count.nullable(),
      layers: z.array(kvCache).min(1),
      bytesPerToken: count,
    }),
  ),
  buffers: z.array(buffer),
  arenaBytes: count,
  workspaceBytes: count,
  activationDType: floatDType,
  launches: z.array(launch),
  logits: bufferOperand,
  outputs: z.array(z.strictObject({ name: z.string(), operand: bufferOperand })).default([]),
});
