import { describe, expect, it } from 'vitest';
import { readRope, ropeFor } from './rope-config.ts';

const base = { max_position_embeddings: 8192 };
const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 2048 };

describe('spellings', () => {
  it('reads the new one', () => {
    const rope = readRope({
      ...base,
      rope_parameters: { rope_type: 'llama3', rope_theta: 500_000, ...llama3 },
    });
    expect(rope).toEqual({
      theta: 500_000,
      maxPositions: 8192,
      scaling: { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 2048 },
      rotaryShare: 1,
    });
  });

  it.each(['type', 'rope_type'])('reads the old one with %s', (key) => {
    const old = readRope({ ...base, rope_theta: 500_000, rope_scaling: { [key]: 'llama3', ...llama3 } });
    const now = readRope({
      ...base,
      rope_parameters: { rope_type: 'llama3', rope_theta: 500_000, ...llama3 },
    });
    expect(old).toEqual(now);
  });

  it('falls back to what transformers assumes', () => {
    expect(readRope({ ...base, rope_scaling: null })).toEqual({
      theta: 10_000,
      maxPositions: 8192,
      scaling: { type: 'default' },
      rotaryShare: 1,
    });
    expect(readRope({ ...base, rope_theta: 1e6 }).theta).toBe(1e6);
  });

  it('takes su for longrope, and the original context length beside the rope fields', () => {
    const rope_scaling = { type: 'su', short_factor: [1, 1], long_factor: [2, 3] };
    const { scaling } = readRope({ ...base, original_max_position_embeddings: 4096, rope_scaling });
    expect(scaling).toMatchObject({
      type: 'longrope',
      factor: 2,
      originalMaxPositions: 4096,
      longFactor: [2, 3],
    });
  });

  it('derives the factor of yarn from the context lengths only where none is given', () => {
    const lengths = { original_max_position_embeddings: 2048 };
    const scalingOf = (more: object) =>
      readRope({ ...base, rope_scaling: { type: 'yarn', ...lengths, ...more } }).scaling;
    expect(scalingOf({})).toMatchObject({ factor: 4, betaFast: 32, betaSlow: 1, truncate: true });
    expect(scalingOf({ factor: 3, beta_fast: null, attention_factor: 1.1 })).toMatchObject({
      factor: 3,
      attentionFactor: 1.1,
    });
  });
});

describe('refusals', () => {
  it.each([
    [
      { rope_type: 'mrope' },
      'unsupported_model',
      'RoPE scaling "mrope" is not implemented; these are: default, linear',
    ],
    [{ rope_type: 'toString' }, 'unsupported_model', 'RoPE scaling "toString" is not implemented'],
    [{ rope_type: 'default', mrope_section: [1, 2] }, 'unsupported_model', 'mrope_section'],
    [{ rope_type: 'linear' }, 'bad_checkpoint', 'factor'],
    [{ rope_type: 'linear', factor: -1 }, 'bad_checkpoint', 'factor'],
    [{ rope_type: 'llama3', factor: 8 }, 'bad_checkpoint', 'low_freq_factor'],
    [{ rope_type: 'longrope', factor: 8 }, 'bad_checkpoint', 'short_factor'],
  ])('%o', (rope_parameters, code, message) => {
    expect(() => readRope({ ...base, rope_parameters })).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(message) as string }),
    );
  });

  it('a longrope of another head size', () => {
    const rope_scaling = { type: 'longrope', short_factor: [1, 1], long_factor: [2, 3] };
    expect(() => ropeFor(readRope({ ...base, rope_scaling }), 8, 100)).toThrow(
      'needs 4 short and long factors',
    );
  });
});
