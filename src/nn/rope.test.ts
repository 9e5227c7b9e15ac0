// Angles against a separate calculation, in numpy, of the formulas that transformers 5 uses.
import { describe, expect, it } from 'vitest';
import { ropeParameters, scaledContextLength, type RopeOptions, type RopeScaling } from './rope.ts';

const yarn: RopeScaling = {
  ...{
    type: 'yarn',
    factor: 4,
    originalMaxPositions: 256,
    attentionFactor: null,
    mscale: null,
    mscaleAllDim: null,
  },
  betaFast: 32,
  betaSlow: 1,
  truncate: true,
};

const longrope: RopeScaling = {
  type: 'longrope',
  factor: 32,
  originalMaxPositions: 4096,
  attentionFactor: null,
  shortFactor: [1, 2, 2, 4],
  longFactor: [1, 10, 100, 1000],
};

function parametersOf(scaling: RopeScaling, options: Partial<RopeOptions> = {}) {
  return ropeParameters({
    rotaryDim: 8,
    theta: 10_000,
    maxPositions: 100,
    contextLength: 100,
    scaling,
    ...options,
  });
}

function expectFrequencies(actual: readonly number[], expected: readonly number[]): void {
  expect(actual).toHaveLength(expected.length);
  actual.forEach((frequency, i) => expect(frequency / expected[i]).toBeCloseTo(1, 7));
}

describe('inverse frequencies', () => {
  it.each<[string, RopeScaling, Partial<RopeOptions>, number[]]>([
    ['default', { type: 'default' }, {}, [1, 0.1, 0.01, 0.001]],
    ['linear', { type: 'linear', factor: 4 }, {}, [0.25, 0.025, 0.0025, 0.00025]],
    ['dynamic within the original context', { type: 'dynamic', factor: 2 }, {}, [1, 0.1, 0.01, 0.001]],
    [
      'dynamic at twice the original context',
      { type: 'dynamic', factor: 2 },
      { contextLength: 200 },
      [1, 0.0693361274, 0.00480749857, 0.000333333333],
    ],
    [
      'llama3',
      { type: 'llama3', factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 64 },
      { rotaryDim: 16, theta: 500_000 },
      [
        1, 0.0794030092, 0.00470075387, 0.000911583092, 0.000176776695, 3.4281022e-5, 6.64786987e-6,
        1.28917317e-6,
      ],
    ],
    [
      'yarn',
      yarn,
      { rotaryDim: 16 },
      [1, 0.25693506, 0.0625, 0.0138349648, 0.0025, 0.000790569415, 0.00025, 7.90569415e-5],
    ],
    [
      'yarn without truncation',
      { ...yarn, truncate: false },
      { rotaryDim: 16 },
      [1, 0.253972314, 0.0553986366, 0.00963994285, 0.0025, 0.000790569415, 0.00025, 7.90569415e-5],
    ],
    [
      'yarn with other borders',
      { ...yarn, betaFast: 16, betaSlow: 2 },
      { rotaryDim: 16 },
      [1, 0.237170825, 0.05, 0.00790569415, 0.0025, 0.000790569415, 0.00025, 7.90569415e-5],
    ],
    ['longrope, short', longrope, { contextLength: 4096 }, [1, 0.05, 0.005, 0.00025]],
    ['longrope, long', longrope, { contextLength: 4097 }, [1, 0.01, 0.0001, 0.000001]],
  ])('%s', (_, scaling, options, expected) => {
    expectFrequencies(parametersOf(scaling, options).inverseFrequencies, expected);
  });
});

describe('attention factor', () => {
  it.each<[string, RopeScaling, number]>([
    ['default', { type: 'default' }, 1],
    ['yarn', yarn, 1.138629436111989],
    ['yarn with mscale', { ...yarn, mscale: 0.707, mscaleAllDim: 1 }, 0.964326914892074],
    ['yarn, given', { ...yarn, attentionFactor: 1.5 }, 1.5],
    ['longrope', longrope, 1.1902380714238083],
    ['longrope, given', { ...longrope, attentionFactor: 1.25 }, 1.25],
    ['longrope that stretches nothing', { ...longrope, factor: 1 }, 1],
  ])('%s', (_, scaling, expected) => {
    expect(parametersOf(scaling, { rotaryDim: 8 }).attentionFactor).toBeCloseTo(expected, 12);
  });
});

describe('longest context', () => {
  it.each<[RopeScaling, number]>([
    [{ type: 'default' }, 100],
    [{ type: 'linear', factor: 4 }, 400],
    [{ type: 'dynamic', factor: 2 }, 200],
    [yarn, 1024],
    [longrope, 100],
  ])('%o', (scaling, expected) => {
    expect(scaledContextLength(scaling, 100)).toBe(expected);
  });
});
