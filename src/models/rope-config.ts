// Rotary embeddings as configs spell them: `rope_parameters`, or the older `rope_theta` with `rope_scaling`.
import { z } from 'zod';
import type { RopeParameters } from '../ir/ops/rope.ts';
import { ropeParameters, scaledContextLength, type RopeScaling } from '../nn/rope.ts';
import { NeedletailError } from '../util/errors.ts';
import { count } from './config.ts';

const DEFAULT_THETA = 10_000;

/** The fields of a config that `readRope` reads. */
export const ropeFields = {
  rope_theta: z.number().positive().nullish(),
  rope_scaling: z.record(z.string(), z.unknown()).nullish(),
  rope_parameters: z.record(z.string(), z.unknown()).nullish(),
  original_max_position_embeddings: count.nullish(),
};

export type RopeFields = z.output<z.ZodObject<typeof ropeFields>> & {
  readonly max_position_embeddings: number;
  readonly partial_rotary_factor?: number | null | undefined;
};

/** Fields of a scaling, in snake case, without those that are null. */
type ScalingFields = Readonly<Record<string, unknown>>;

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
  readonly maxPositions: number;
  /** Share of each head's columns that turn. */
  readonly rotaryShare: number;
}

const factor = z.number().positive();
const optional = z.number().optional();
/** Fields that every type may carry. `finetuned` is a remark of early YaRN models. */
const common = {
  rope_theta: z.number().positive().optional(),
  partial_rotary_factor: z.number().positive().max(1).optional(),
  finetuned: z.boolean().optional(),
};
const stretched = { ...common, factor, original_max_position_embeddings: count };

/** What each type may say, and what it means; a field that is not here is refused. */
const SCALINGS: Readonly<Record<RopeScaling['type'], z.ZodType<RopeScaling>>> = {
  default: z.strictObject(common).transform(() => ({ type: 'default' })),
  linear: z
    .strictObject({ ...common, factor })
    .transform((given) => ({ type: 'linear', factor: given.factor })),
  dynamic: z
    .strictObject({ ...common, factor })
    .transform((given) => ({ type: 'dynamic', factor: given.factor })),
  llama3: z
    .strictObject({ ...stretched, low_freq_factor: factor, high_freq_factor: factor })
    .transform((given) => ({
      type: 'llama3',
      factor: given.factor,
      lowFreqFactor: given.low_freq_factor,
      highFreqFactor: given.high_freq_factor,
      originalMaxPositions: given.original_max_position_embeddings,
    })),
  yarn: z
    .strictObject({
      ...stretched,
      attention_factor: optional,
      mscale: optional,
      mscale_all_dim: optional,
      beta_fast: optional,
      beta_slow: optional,
      truncate: z.boolean().default(true),
    })
    .transform((given) => ({
      type: 'yarn',
      factor: given.factor,
      originalMaxPositions: given.original_max_position_embeddings,
      attentionFactor: given.attention_factor ?? null,
      mscale: given.mscale ?? null,
      mscaleAllDim: given.mscale_all_dim ?? null,
      betaFast: given.beta_fast ?? 32,
      betaSlow: given.beta_slow ?? 1,
      truncate: given.truncate,
    })),
  longrope: z
    .strictObject({
      ...stretched,
      attention_factor: optional,
      short_factor: z.array(factor),
      long_factor: z.array(factor),
    })
    .transform((given) => ({
      type: 'longrope',
      factor: given.factor,
      originalMaxPositions: given.original_max_position_embeddings,
      attentionFactor: given.attention_factor ?? null,
      shortFactor: given.short_factor,
      longFactor: given.long_factor,
    })),
};

/** Throws `unsupported_model` naming a type or field that is not implemented, `bad_checkpoint` for a malformed one. */
export function readRope(fields: RopeFields): RopeConfig {
  const isSet = (value: ScalingFields | null | undefined): boolean => Object.keys(value ?? {}).length > 0;
  const given = isSet(fields.rope_scaling) ? fields.rope_scaling! : (fields.rope_parameters ?? {});
  const { type: oldType, rope_type: type = oldType ?? 'default', ...rest } = withoutNulls(given);
  const theta = (rest['rope_theta'] as number | undefined) ?? fields.rope_theta ?? DEFAULT_THETA;
  return {
    theta,
    scaling: readScaling(type, rest, fields),
    maxPositions: fields.max_position_embeddings,
    rotaryShare: (rest['partial_rotary_factor'] as number | undefined) ?? fields.partial_rotary_factor ?? 1,
  };
}

/** The angles for heads of `headDim` columns; `interleaved`: neighbouring columns are pairs, as in GPT-J. */
export function ropeFor(
  rope: RopeConfig,
  headDim: number,
  contextLength: number,
  interleaved = false,
): RopeParameters {
  const { scaling, rotaryShare } = rope;
  const rotaryDim = Math.floor(headDim * rotaryShare);
  if (
    scaling.type === 'longrope' &&
    [scaling.shortFactor, scaling.longFactor].some((f) => f.length !== rotaryDim / 2)
  ) {
    throw new NeedletailError(
      'bad_checkpoint',
      `config.json: longrope needs ${rotaryDim / 2} short and long factors`,
    );
  }
  return { ...ropeParameters({ ...rope, rotaryDim, contextLength }), interleaved };
}

export function maxContextLength(rope: RopeConfig): number {
  return scaledContextLength(rope.scaling, rope.maxPositions);
}

function readScaling(givenType: unknown, given: ScalingFields, fields: RopeFields): RopeScaling {
  const type = givenType === 'su' ? 'longrope' : givenType; // the name that the first Phi-3 checkpoints gave it
  if (!isScalingType(type)) {
    throw new NeedletailError(
      'unsupported_model',
      `RoPE scaling ${JSON.stringify(type)} is not implemented; these are: ${Object.keys(SCALINGS).join(', ')}`,
    );
  }
  const result = SCALINGS[type].safeParse(withDefaults(type, given, fields));
  if (result.success) return result.data;
  const issues = result.error.issues.map((issue) => [...issue.path, issue.message].join(': ')).join('; ');
  const isUnknown = result.error.issues.some((issue) => issue.code === 'unrecognized_keys');
  throw new NeedletailError(
    isUnknown ? 'unsupported_model' : 'bad_checkpoint',
    `RoPE scaling ${type}: ${issues}`,
  );
}

function isScalingType(type: unknown): type is RopeScaling['type'] {
  return typeof type === 'string' && Object.hasOwn(SCALINGS, type);
}

/** The original context length beside the rope fields wins over one among them; the factor may follow from it. */
function withDefaults(type: RopeScaling['type'], given: ScalingFields, fields: RopeFields): ScalingFields {
  if (type !== 'llama3' && type !== 'yarn' && type !== 'longrope') return given;
  const maxPositions = fields.max_position_embeddings;
  const own = given['original_max_position_embeddings'] as number | undefined;
  const original = fields.original_max_position_embeddings ?? own ?? maxPositions;
  const factors = type === 'llama3' ? {} : { factor: maxPositions / original };
  return { ...factors, ...given, original_max_position_embeddings: original };
}

function withoutNulls(given: ScalingFields): ScalingFields {
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null));
}
