import { describe, expect, it } from 'vitest';
import { Random } from './random.ts';
import {
  lengthsUnderWay,
  parseTrace,
  randomLengths,
  traceLengths,
  withRandomPrompts,
  type BatchShape,
  type RequestLengths,
} from './workload.ts';

const TRACE =
  'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,1109\n';

describe('randomLengths', () => {
  it('gives exact lengths without a range', () => {
    const lengths = randomLengths({ numPrompts: 3, inputLen: 10, outputLen: 20, rangeRatio: 0, seed: 1 });
    expect(lengths).toEqual(Array(3).fill({ inputTokens: 10, outputTokens: 20 }));
  });

  it('stays in the range and depends on the seed alone', () => {
    const make = (seed: number) =>
      randomLengths({ numPrompts: 200, inputLen: 100, outputLen: 50, rangeRatio: 0.5, seed });
    expect(make(7)).toEqual(make(7));
    expect(make(7)).not.toEqual(make(8));
    for (const { inputTokens, outputTokens } of make(7)) {
      expect(inputTokens).toBeGreaterThanOrEqual(50);
      expect(inputTokens).toBeLessThanOrEqual(150);
      expect(outputTokens).toBeGreaterThanOrEqual(25);
      expect(outputTokens).toBeLessThanOrEqual(75);
    }
  });
});

/** Of each step, how many requests end in it: decodes first, then parts of prompts, as the scheduler does. */
function endsOfSteps(queue: RequestLengths[], { maxNumSeqs, maxNumBatchedTokens }: BatchShape): number[] {
  const ends: number[] = [];
  let running: { input: number; output: number }[] = [];
  let next = 0;
  while (next < queue.length) {
    let room = maxNumBatchedTokens - running.filter(({ input }) => input === 0).length;
    const decodes = running.filter(({ input }) => input === 0);
    while (next < queue.length && running.length < maxNumSeqs) {
      const { inputTokens, outputTokens } = queue[next++];
      running.push({ input: inputTokens, output: outputTokens });
    }
    for (const sequence of running.filter(({ input }) => input > 0)) {
      const part = Math.min(room, sequence.input);
      room -= part;
      sequence.input -= part;
      if (part > 0 && sequence.input === 0) sequence.output--;
    }
    for (const sequence of decodes) sequence.output--;
    ends.push(running.filter(({ output }) => output === 0).length);
    running = running.filter(({ output }) => output > 0);
  }
  return ends;
}

describe('a batch under way', () => {
  it.each([
    [128, 128, 1024],
    [128, 2048, 512],
    [1000, 1000, 256],
    [2048, 128, 128],
  ])(
    'of %d and %d tokens, %d at once, ends as evenly from the first end on',
    (inputTokens, outputTokens, maxNumSeqs) => {
      const shape = { maxNumSeqs, maxNumBatchedTokens: 8192 };
      const each = { inputTokens, outputTokens };
      const first = lengthsUnderWay(each, shape);
      for (const { inputTokens: input, outputTokens: output } of first) {
        expect(input + output).toBe(inputTokens + outputTokens);
        expect(input).toBeGreaterThanOrEqual(inputTokens);
        expect(output).toBeGreaterThan(0);
      }
      const ends = endsOfSteps([...first, ...Array<RequestLengths>(2 * maxNumSeqs).fill(each)], shape);
      const start = ends.findIndex((count) => count > 0);
      const quarter = outputTokens / 4;
      for (let at = start; at + quarter <= start + outputTokens; at += quarter) {
        const numEnded = ends.slice(at, at + quarter).reduce((sum, count) => sum + count, 0);
        expect(numEnded / (maxNumSeqs / 4)).toBeGreaterThan(0.9);
        expect(numEnded / (maxNumSeqs / 4)).toBeLessThan(1.1);
      }
    },
  );
});

describe('traces', () => {
  it('are read by the names of their columns', () => {
    expect(parseTrace(TRACE)).toEqual([
      { inputTokens: 374, outputTokens: 44 },
      { inputTokens: 396, outputTokens: 1109 },
    ]);
  });

  it('are refused with the line at fault', () => {
    expect(() => parseTrace('a,b\n1,2')).toThrow(/must name ContextTokens and GeneratedTokens/);
    expect(() => parseTrace('ContextTokens,GeneratedTokens\n1,2\n3,many')).toThrow(/line 3/);
  });

  it('give distinct clipped rows', () => {
    const rows = Array.from({ length: 50 }, (_, i) => ({ inputTokens: i, outputTokens: 10 * i }));
    const options = { numPrompts: 50, seed: 3, inputLen: null, maxInputLen: 1000, maxOutputLen: 300 };
    const lengths = traceLengths(rows, options);
    expect(new Set(lengths.map((row) => row.inputTokens)).size).toBe(49); // rows 0 and 1 are both clipped to 1
    expect(Math.max(...lengths.map((row) => row.outputTokens))).toBe(300);
    expect(lengths).not.toEqual(traceLengths(rows, { ...options, seed: 4 }));
    expect(() => traceLengths(rows, { ...options, numPrompts: 51 })).toThrow(/has 50 rows/);
  });

  it('can give every prompt one length', () => {
    const options = { numPrompts: 2, seed: 1, inputLen: 16, maxInputLen: 8, maxOutputLen: 960 };
    const lengths = traceLengths(parseTrace(TRACE), options);
    expect(lengths.map((row) => row.inputTokens)).toEqual([16, 16]);
    expect(lengths.map((row) => row.outputTokens).sort((a, b) => a - b)).toEqual([44, 960]);
  });
});

describe('withRandomPrompts', () => {
  it('draws ids of the vocabulary, however small', () => {
    for (const vocabSize of [2, 1000]) {
      const requests = withRandomPrompts([{ inputTokens: 64, outputTokens: 1 }], vocabSize, 1);
      expect(requests[0].promptTokenIds).toHaveLength(64);
      expect(Math.max(...requests[0].promptTokenIds)).toBeLessThan(vocabSize);
      expect(Math.min(...requests[0].promptTokenIds)).toBeGreaterThanOrEqual(Math.min(300, vocabSize - 1));
    }
  });
});

describe('Random', () => {
  it('draws exponential gaps of the right mean', () => {
    const random = new Random(5);
    const gaps = Array.from({ length: 20_000 }, () => random.exponential(4));
    expect(gaps.reduce((a, b) => a + b) / gaps.length).toBeCloseTo(0.25, 2);
  });
});
