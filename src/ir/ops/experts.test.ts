// Ops of mixtures of experts and of latent attention, against values worked out by hand or by the plain op.
import { describe, expect, it } from 'vitest';
import type { Attributes } from '../graph.ts';
import { floatTensor, type HostTensor } from '../host-tensor.ts';
import { PagedKVCaches } from '../paged-kv-cache.ts';
import { OPS } from './index.ts';

const noCaches = new PagedKVCaches([], 1, []);

function matrix(...rows: number[][]): HostTensor {
  return floatTensor([rows.length, rows[0].length], Float32Array.from(rows.flat()));
}

function intMatrix(...rows: number[][]): HostTensor {
  return { shape: [rows.length, rows[0].length], data: Int32Array.from(rows.flat()) };
}

function run(
  op: string,
  inputs: readonly HostTensor[],
  attributes: Attributes,
  caches = noCaches,
): HostTensor[] {
  return [...OPS.get(op)!.interpret(inputs, attributes, caches)];
}

function expectValues(actual: HostTensor, expected: readonly number[]): void {
  expect(actual.data.length).toBe(expected.length);
  expected.forEach((value, i) => expect(actual.data[i]).toBeCloseTo(value, 5));
}

describe('routeExperts', () => {
  const plain = { numExpertsPerToken: 2, scoring: 'softmax', normalize: false, scale: 1, groups: null };
  /** Scores 0.1, 0.4, 0.3, 0.2. */
  const logits = matrix([0.1, 0.4, 0.3, 0.2].map((score) => Math.log(score) + 5));

  it('takes the largest of a softmax', () => {
    const [weights, ids] = run('routeExperts', [logits], plain);
    expect([...ids.data]).toEqual([1, 2]);
    expectValues(weights, [0.4, 0.3]);
  });

  it('normalises and scales', () => {
    const [weights] = run('routeExperts', [logits], { ...plain, normalize: true, scale: 7 });
    expectValues(weights, [4, 3]);
  });

  it('chooses by corrected scores, but weighs by the scores', () => {
    const correction = floatTensor([4], Float32Array.of(1, 0, 0, 0));
    const [weights, ids] = run('routeExperts', [logits, correction], plain);
    expect([...ids.data]).toEqual([0, 1]);
    expectValues(weights, [0.1, 0.4]);
  });

  it('scores each expert by itself with sigmoid', () => {
    const [weights, ids] = run('routeExperts', [matrix([0, Math.log(3), -1])], {
      ...plain,
      scoring: 'sigmoid',
      numExpertsPerToken: 1,
    });
    expect([...ids.data]).toEqual([1]);
    expectValues(weights, [0.75]);
  });

  it('stays within the best groups, by their best expert or their two best', () => {
    const scores = matrix([0.3, 0.01, 0.2, 0.19].map(Math.log));
    const idsOf = (score: string): readonly number[] => {
      const groups = { numGroups: 2, numSelected: 1, score };
      return [...run('routeExperts', [scores], { ...plain, groups })[1].data];
    };
    expect(idsOf('best')).toEqual([0, 1]);
    expect(idsOf('twoBest')).toEqual([2, 3]);
  });

  it('prefers the first of equal experts', () => {
    expect([...run('routeExperts', [matrix([1, 1, 1])], plain)[1].data]).toEqual([0, 1]);
  });

  it.each([
    [{ numExpertsPerToken: 5 }, '5 of 4 experts'],
    [{ groups: { numGroups: 3, numSelected: 1, score: 'best' } }, 'a multiple of numGroups 3'],
    [{ groups: { numGroups: 4, numSelected: 1, score: 'best' } }, '2 of 1 experts'],
    [{ groups: { numGroups: 2, numSelected: 3, score: 'best' } }, 'numSelected 3 exceeds numGroups 2'],
  ])('refuses %o', (change, message) => {
    const inputs = [{ dtype: 'float32', shape: ['numTokens', 4] }] as const;
    const node = { label: 'gate', inputs, attributes: { ...plain, ...change } };
    expect(() => OPS.get('routeExperts')!.infer(node)).toThrow(message);
  });
});

describe('gatedGroupedLinear', () => {
  it('gates the second half of each matrix with its first, its bias too', () => {
    // Matrices [gate; up] of one row each: [1, 0; 0, 1], [0, 1; 2, 0].
    const weight = matrix([1, 0], [0, 1], [0, 1], [2, 0]);
    const bias = floatTensor([4], Float32Array.of(0, 1, 0, 10));
    const attributes = { numMatrices: 2, matricesPerToken: 2, kind: 'relu' };
    const inputs = [matrix([3, -5], [-1, 2]), weight, intMatrix([1, 0], [0, 1]), bias];
    const [y] = run('gatedGroupedLinear', inputs, attributes);
    expect(y.shape).toEqual([2, 2]);
    expectValues(y, [0, 3 * (-5 + 1), 0, 2 * (-2 + 10)]);
  });
});

describe('groupedLinear', () => {
  /** Three matrices [2, 2]. */
  const weight = matrix([1, 0], [0, 1], [2, 0], [0, 2], [1, 1], [1, -1]);
  const x = matrix([1, 2], [3, 4]);
  const ids = intMatrix([2, 0], [1, 1]);

  it('sends each token through the matrices that its ids name', () => {
    expectValues(
      run('groupedLinear', [x, weight, ids], { numMatrices: 3, matricesPerToken: 2 })[0],
      [3, -1, 1, 2, 6, 8, 6, 8],
    );
  });

  it('adds the bias of each matrix', () => {
    const bias = floatTensor([6], Float32Array.of(10, 20, 30, 40, 50, 60));
    const [y] = run('groupedLinear', [x, weight, ids, bias], { numMatrices: 3, matricesPerToken: 2 });
    expectValues(y, [53, 59, 11, 22, 36, 48, 36, 48]);
  });

  it('gives each matrix columns of its own', () => {
    const wide = matrix([1, 2, 3, 4], [5, 6, 7, 8]);
    expectValues(
      run('groupedLinear', [wide, weight, ids], { numMatrices: 3, matricesPerToken: 2 })[0],
      [3, -1, 3, 4, 10, 12, 14, 16],
    );
  });

  it('goes through all matrices in turn without ids', () => {
    const heads = matrix([1, 2, 3, 4, 5, 6]);
    expectValues(
      run('groupedLinear', [heads, weight], { numMatrices: 3, matricesPerToken: 3 })[0],
      [1, 2, 6, 8, 11, -1],
    );
  });

  it.each([
    [['numTokens', 2], [6, 2], { numMatrices: 4, matricesPerToken: 4 }, 'a multiple of numMatrices 4'],
    [['numTokens', 3], [6, 2], { numMatrices: 3, matricesPerToken: 3 }, 'once or 3 times'],
  ] as const)('refuses x %o, weight %o, %o', (xShape, weightShape, attributes, message) => {
    const inputs = [xShape, weightShape].map((shape) => ({ dtype: 'float32', shape }) as const);
    expect(() => OPS.get('groupedLinear')!.infer({ label: '', inputs, attributes })).toThrow(message);
  });
});

it('combineExperts sums by weight', () => {
  const x = matrix([1, 2, 10, 20], [3, 4, 30, 40]);
  expectValues(run('combineExperts', [x, matrix([1, 2], [0.5, 0])], {})[0], [21, 42, 1.5, 2]);
});

describe('attention over two cached tokens', () => {
  const step: HostTensor[] = [
    intMatrix([0]),
    { shape: [2], data: Int32Array.of(0, 1) },
    { shape: [1], data: Int32Array.of(2) },
  ];
  const token = floatTensor([0]);
  const spec = { layer: 0, numKvHeads: 1, window: null, dtype: 'float32' } as const;

  function cacheOf(keys: HostTensor, values: HostTensor): PagedKVCaches {
    const dims = { keyHeadDim: keys.shape[1], valueHeadDim: values.shape[1] };
    const caches = new PagedKVCaches([[{ ...spec, ...dims }]], 4, [1]);
    caches.layer(0).write(keys.data as Float32Array, values.data as Float32Array, Int32Array.of(0, 1));
    return caches;
  }

  const plain = { layer: 0, numKvHeads: 1, scale: 1, window: null, softcap: null, alibiSlopes: null };

  it('a sink takes its share of the softmax and adds nothing', () => {
    const caches = cacheOf(matrix([0], [Math.log(2)]), matrix([3], [6]));
    const attributes = { ...plain, numHeads: 2, headDim: 1, valueHeadDim: 1 };
    const sinks = floatTensor([2], Float32Array.of(0, Math.log(5)));
    const [y] = run('attention', [matrix([1, 1]), token, ...step, sinks], attributes, caches);
    expectValues(y, [(3 + 12) / 4, (3 + 12) / 8]);
  });

  it('latentAttention is attention whose keys are rotary key and latent, whose values are the latent', () => {
    const rotary = matrix([0.5], [-1]);
    const latents = matrix([1, 2], [-1, 0.5]);
    const attributes = { layer: 0, numHeads: 2, numKvHeads: 1, headDim: 1, valueHeadDim: 2, scale: 0.7 };
    const q = matrix([1, -2]);
    const latentQ = matrix([0.3, 0.1, -0.4, 1]);
    const [y] = run('latentAttention', [q, token, ...step, latentQ], attributes, cacheOf(rotary, latents));
    const joined = cacheOf(matrix([0.5, 1, 2], [-1, -1, 0.5]), latents);
    const whole = { ...plain, numHeads: 2, headDim: 3, valueHeadDim: 2, scale: 0.7 };
    const [expected] = run('attention', [matrix([1, 0.3, 0.1, -2, -0.4, 1]), token, ...step], whole, joined);
    expect(y).toEqual(expected);
  });
});
