// Rotary position embeddings: angles per position under every published way to stretch them to longer contexts.
import type { RopeParameters } from '../ir/ops/rope.ts';

export type RopeScaling =
  | { readonly type: 'default' }
  | { readonly type: 'linear' | 'dynamic'; readonly factor: number }
  | Llama3Scaling
  | YarnScaling
  | LongRopeScaling;

interface Llama3Scaling {
  readonly type: 'llama3';
  readonly factor: number;
  readonly lowFreqFactor: number;
  readonly highFreqFactor: number;
  readonly originalMaxPositions: number;
}

interface YarnScaling {
  readonly type: 'yarn';
  readonly factor: number;
  readonly originalMaxPositions: number;
  /** null: follows from the factor (and mscale, where both are given). */
  readonly attentionFactor: number | null;
  readonly mscale: number | null;
  readonly mscaleAllDim: number | null;
  readonly betaFast: number;
  readonly betaSlow: number;
  /** Whether the borders between stretched and untouched frequencies are whole dimensions. */
  readonly truncate: boolean;
}

interface LongRopeScaling {
  readonly type: 'longrope';
  readonly factor: number;
  readonly originalMaxPositions: number;
  readonly attentionFactor: number | null;
  readonly shortFactor: readonly number[];
  readonly longFactor: readonly number[];
}

export interface RopeOptions {
  readonly rotaryDim: number;
  /** Base of the geometric series of wavelengths. */
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** Context length that the config names, before linear or dynamic scaling. */
  readonly maxPositions: number;
  /**
   * The longest context that will be served. Where transformers changes the angles while a sequence grows (dynamic,
   * longrope), they are those of this length from the start: cached keys cannot be turned again.
   */
  readonly contextLength: number;
}

/** Angles for the op `rope`, pairs in halves. */
export function ropeParameters(options: RopeOptions): RopeParameters {
  return {
    rotaryDim: options.rotaryDim,
    interleaved: false,
    inverseFrequencies: inverseFrequencies(options),
    attentionFactor: attentionFactor(options.scaling),
  };
}

/** Longest context under a scaling of a model made for `maxPositions`. */
export function scaledContextLength(scaling: RopeScaling, maxPositions: number): number {
  if (scaling.type === 'linear' || scaling.type === 'dynamic')
    return Math.floor(maxPositions * scaling.factor);
  if (scaling.type !== 'yarn') return maxPositions;
  return Math.max(maxPositions, Math.floor(scaling.originalMaxPositions * scaling.factor));
}

function inverseFrequencies(options: RopeOptions): number[] {
  const { scaling, theta, rotaryDim } = options;
  const unscaled = geometricSeries(theta, rotaryDim);
  switch (scaling.type) {
    case 'default':
      return unscaled;
    case 'linear':
      return unscaled.map((frequency) => frequency / scaling.factor);
    case 'dynamic':
      return geometricSeries(dynamicTheta(scaling.factor, options), rotaryDim);
    case 'llama3':
      return unscaled.map((frequency) => stretchLlama3(frequency, scaling));
    case 'yarn':
      return stretchYarn(unscaled, scaling, options);
    case 'longrope': {
      const isLong = options.contextLength > scaling.originalMaxPositions;
      const factors = isLong ? scaling.longFactor : scaling.shortFactor;
      return unscaled.map((frequency, i) => frequency / factors[i]);
    }
  }
}

/** theta^(−2i / rotaryDim), `[rotaryDim / 2]`. */
function geometricSeries(theta: number, rotaryDim: number): number[] {
  return Array.from({ length: rotaryDim / 2 }, (_, i) => theta ** ((-2 * i) / rotaryDim));
}

/** "NTK-aware" scaling that follows the context's length: a larger base, by bloc97 and emozilla, 2023. */
function dynamicTheta(
  factor: number,
  { theta, rotaryDim, maxPositions, contextLength }: RopeOptions,
): number {
  const stretch = (factor * Math.max(contextLength, maxPositions)) / maxPositions - (factor - 1);
  return theta * stretch ** (rotaryDim / (rotaryDim - 2));
}

/** Long waves are stretched, short ones kept, those between blended: as Llama 3.1 was released. */
function stretchLlama3(frequency: number, scaling: Llama3Scaling): number {
  const { factor, lowFreqFactor, highFreqFactor, originalMaxPositions } = scaling;
  const numTurns = (originalMaxPositions * frequency) / (2 * Math.PI);
  if (numTurns > highFreqFactor) return frequency;
  if (numTurns < lowFreqFactor) return frequency / factor;
  const share = (numTurns - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
  return (1 - share) * (frequency / factor) + share * frequency;
}

/** Peng et al., "YaRN: efficient context window extension of large language models", 2023. */
function stretchYarn(
  unscaled: readonly number[],
  scaling: YarnScaling,
  { theta, rotaryDim }: RopeOptions,
): number[] {
  // The dimension whose wave turns so many times within the original context.
  const dimensionOf = (numTurns: number): number =>
    (rotaryDim * Math.log(scaling.originalMaxPositions / (numTurns * 2 * Math.PI))) / (2 * Math.log(theta));
  const [fast, slow] = [dimensionOf(scaling.betaFast), dimensionOf(scaling.betaSlow)];
  const low = Math.max(scaling.truncate ? Math.floor(fast) : fast, 0);
  const high = Math.min(scaling.truncate ? Math.ceil(slow) : slow, rotaryDim - 1);
  const width = high === low ? 0.001 : high - low;
  return unscaled.map((frequency, i) => {
    const stretched = Math.min(Math.max((i - low) / width, 0), 1);
    return stretched * (frequency / scaling.factor) + (1 - stretched) * frequency;
  });
}

function attentionFactor(scaling: RopeScaling): number {
  if (scaling.type === 'yarn') return scaling.attentionFactor ?? yarnAttentionFactor(scaling);
  if (scaling.type === 'longrope') return scaling.attentionFactor ?? longRopeAttentionFactor(scaling);
  return 1;
}

function yarnAttentionFactor({ factor, mscale, mscaleAllDim }: YarnScaling): number {
  const isRelative = mscale && mscaleAllDim;
  return isRelative
    ? yarnMagnitude(factor, mscale) / yarnMagnitude(factor, mscaleAllDim)
    : yarnMagnitude(factor, 1);
}

/** By how much queries and keys grow when YaRN stretches a context `factor` times. */
export function yarnMagnitude(factor: number, weight: number): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
}

/** Ding et al., "LongRoPE: extending LLM context window beyond 2 million tokens", 2024. */
function longRopeAttentionFactor({ factor, originalMaxPositions }: LongRopeScaling): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions));
}
