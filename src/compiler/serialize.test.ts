import { describe, expect, test } from 'vitest';
import { compileRequest, panelKernels, TINY_GPT2, TINY_LLAMA } from '../../test/support/compile.ts';
import { isNeedletailError } from '../util/errors.ts';
import { compile } from './compile.ts';
import type { Plan } from './plan.ts';
import { parsePlan, serializePlan, type PlanExpectation } from './serialize.ts';

const PLAN = compile(compileRequest(TINY_LLAMA, { kernels: panelKernels(), checkpointHash: 'abc123' }));

/** The stored plan with one thing changed. */
function tampered(change: (plan: { -readonly [K in keyof Plan]: unknown }) => void): string {
  const plan = JSON.parse(serializePlan(PLAN)) as Plan;
  change(plan);
  return JSON.stringify(plan);
}

function badPlan(text: string, expected?: PlanExpectation): string {
  try {
    parsePlan(text, expected);
  } catch (error) {
    if (isNeedletailError(error) && error.code === 'bad_plan') return error.message;
    throw error;
  }
  throw new Error('the plan was taken');
}

describe('a plan survives as text', () => {
  test.each([
    ['llama', TINY_LLAMA],
    ['gpt2', TINY_GPT2],
  ])('%s', (_, config) => {
    const plan = compile(compileRequest(config, { kernels: panelKernels() }));
    expect(parsePlan(serializePlan(plan))).toEqual(plan);
  });

  test('the header comes first, one launch stands on a line', () => {
    const lines = serializePlan(PLAN).split('\n');
    expect(lines[1]).toMatch(/^"header": \{"formatVersion":4,/);
    expect(lines.filter((line) => line.includes('"op":"attention"'))).toHaveLength(2);
  });
});

describe('a plan made for something else is refused', () => {
  const HEADER = { target: PLAN.header.target, recipe: 'float32', checkpointHash: 'abc123' };

  test('what it was made for is taken', () => {
    expect(parsePlan(serializePlan(PLAN), HEADER)).toEqual(PLAN);
  });

  test.each<[string, PlanExpectation, RegExp]>([
    [
      'target',
      { ...HEADER, target: { kind: 'cpu', arch: 'avx512' } },
      /built for target reference any, but cpu avx512 is asked for\. Rebuild it: needletail build MODEL --dtype float32 --output DIR/,
    ],
    [
      'recipe',
      { recipe: 'bfloat16' },
      /recipe float32, but bfloat16 .* needletail build MODEL --dtype bfloat16 --output/,
    ],
    ['checkpoint', { checkpointHash: 'def' }, /checkpoint hash abc123, but def/],
    ['checkpoint', { checkpointHash: null }, /checkpoint hash abc123, but none/],
  ])('%s', (_, expected, message) => {
    expect(badPlan(serializePlan(PLAN), expected)).toMatch(message);
  });

  test('another format version is told apart before anything else is read', () => {
    const text = JSON.stringify({ header: { formatVersion: 7, somethingNew: true } });
    expect(badPlan(text)).toMatch(/format version 7; this needletail reads version 4\. Rebuild it/);
    expect(badPlan('{}')).toMatch(/no format version/);
    expect(badPlan('null')).toMatch(/no format version/);
  });
});

describe('a damaged plan is refused, and what is wrong is named', () => {
  test('text that is cut off', () => {
    expect(badPlan(serializePlan(PLAN).slice(0, 500))).toMatch(/not JSON/);
  });

  test.each<[string, Parameters<typeof tampered>[0], RegExp]>([
    ['a field of another type', (plan) => (plan.arenaBytes = '12'), /damaged at arenaBytes/],
    [
      'a negative offset',
      (plan) => (plan.buffers = PLAN.buffers.map((buffer) => ({ ...buffer, offset: -64 }))),
      /buffers\.0\.offset/,
    ],
    ['an arena too small', (plan) => (plan.arenaBytes = 64), /buffer \d+ lies outside of the arena/],
    [
      'a buffer too small',
      (plan) => (plan.limits = { ...PLAN.limits, maxNumBatchedTokens: 65 }),
      /the largest step takes/,
    ],
    [
      'a weight of the wrong size',
      (plan) => (plan.weights = PLAN.weights.map((w) => ({ ...w, bytes: w.bytes - 2 }))),
      /weight model\.embed_tokens\.weight has/,
    ],
    [
      'parts that leave their tensor',
      (plan) =>
        (plan.weights = PLAN.weights.map((w) => ({
          ...w,
          parts: w.parts.map((part) => ({ ...part, rowStart: 9 })),
        }))),
      /parts of weight .* do not fill it/,
    ],
    [
      'a weight too few',
      (plan) => (plan.weights = PLAN.weights.slice(0, -1)),
      /launch \d+ \(addRmsNorm\): there is no weight/,
    ],
    ['ids out of order', (plan) => (plan.weights = PLAN.weights.toReversed()), /weight 0 has id/],
    [
      'a layer without cache',
      (plan) =>
        (plan.kvCacheGroups = [{ ...PLAN.kvCacheGroups[0], layers: [PLAN.kvCacheGroups[0].layers[0]] }]),
      /layer 1 has no KV cache/,
    ],
    [
      'angles that end too early',
      (plan) => (plan.model = { ...PLAN.model, maxModelLen: 4096 }),
      /rope table 0 ends before the context/,
    ],
    [
      'columns beyond their buffer',
      (plan) => (plan.logits = { ...PLAN.logits, columnStart: 8 }),
      /not all in buffer/,
    ],
    ['blocks of no tokens', (plan) => (plan.blockSize = 0), /damaged at blockSize/],
    ['a field too many', (plan) => Object.assign(plan, { bogus: 1 }), /plan is damaged: Unrecognized key/],
    [
      'buffers in each other’s place',
      (plan) => (plan.buffers = PLAN.buffers.map((buffer) => ({ ...buffer, offset: 0 }))),
      /buffers \d+ and \d+ overlap/,
    ],
    [
      'launches missing at the end',
      (plan) => (plan.launches = PLAN.launches.slice(0, -1)),
      /no launch writes buffer \d+, which the plan gives back/,
    ],
    [
      'a launch missing in the middle',
      (plan) => (plan.launches = PLAN.launches.toSpliced(1, 1)),
      /launch \d+ \(.*\) reads buffer \d+, which nothing before it writes/,
    ],
  ])('%s', (_, change, message) => {
    expect(badPlan(tampered(change))).toMatch(message);
  });
});
