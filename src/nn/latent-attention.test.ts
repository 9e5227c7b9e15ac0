// Latent attention on the compressed cache against its uncompressed form: every head's keys and values written out.
import { describe, expect, it } from 'vitest';
import { Interpreter } from '../ir/interpret.ts';
import { randomTensors } from '../../test/support/interpret.ts';
import { stepBatch } from '../../test/support/step-batch.ts';
import { Embedding } from './embedding.ts';
import { gatherLogitRows } from './functional.ts';
import { LatentAttention } from './latent-attention.ts';
import { ropeParameters } from './rope.ts';
import { Scope, Tracer } from './tensor.ts';

const VOCAB = 11;
const TOKENS = [3, 0, 7, 7, 2, 10, 5];
const SIZES = { hiddenSize: 12, numHeads: 3, latentDim: 5, nopeDim: 4, ropeDim: 6, valueDim: 7, eps: 1e-6 };
const SCALE = 0.4;
const rope = {
  ...ropeParameters({
    rotaryDim: SIZES.ropeDim,
    theta: 100,
    scaling: { type: 'default' },
    maxPositions: 32,
    contextLength: 32,
  }),
  interleaved: true,
};

type Matrix = number[][];

/** x · weightᵀ. */
function multiply(x: Matrix, weight: Matrix): Matrix {
  return x.map((row) => weight.map((other) => row.reduce((sum, value, i) => sum + value * other[i], 0)));
}

function norm(x: Matrix, gain: readonly number[]): Matrix {
  return x.map((row) => {
    const factor = 1 / Math.sqrt(row.reduce((sum, value) => sum + value ** 2, 0) / row.length + SIZES.eps);
    return row.map((value, i) => value * factor * gain[i]);
  });
}

/** Turns the pairs (0, 1), (2, 3), … */
function turn(vector: readonly number[], position: number): number[] {
  return vector.map((value, i) => {
    const angle = position * rope.inverseFrequencies[i >> 1];
    return i % 2 === 0
      ? value * Math.cos(angle) - vector[i + 1] * Math.sin(angle)
      : value * Math.cos(angle) + vector[i - 1] * Math.sin(angle);
  });
}

/** The layer as the paper states it, with full keys and values; `read` gives published tensors. */
function uncompressed(
  x: Matrix,
  queryRank: number | null,
  read: (name: string, columns: number) => Matrix,
): Matrix {
  const { hiddenSize, numHeads, latentDim, nopeDim, ropeDim, valueDim } = SIZES;
  const gain = (name: string): number[] => read(name, 1).flat();
  const q =
    queryRank === null
      ? multiply(x, read('q_proj.weight', hiddenSize))
      : multiply(
          norm(multiply(x, read('q_a_proj.weight', hiddenSize)), gain('q_a_layernorm.weight')),
          read('q_b_proj.weight', queryRank),
        );
  const down = multiply(x, read('kv_a_proj_with_mqa.weight', hiddenSize));
  const latents = norm(
    down.map((row) => row.slice(0, latentDim)),
    gain('kv_a_layernorm.weight'),
  );
  const up = multiply(latents, read('kv_b_proj.weight', latentDim));
  const attended = x.map((_, token) =>
    Array.from({ length: numHeads }, (__, head) => {
      const query = q[token].slice(head * (nopeDim + ropeDim), (head + 1) * (nopeDim + ropeDim));
      const wholeQuery = [...query.slice(0, nopeDim), ...turn(query.slice(nopeDim), token)];
      const start = head * (nopeDim + valueDim);
      const weights = x.slice(0, token + 1).map((___, other) => {
        const key = [
          ...up[other].slice(start, start + nopeDim),
          ...turn(down[other].slice(latentDim), other),
        ];
        return Math.exp(SCALE * multiply([wholeQuery], [key])[0][0]);
      });
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      return Array.from({ length: valueDim }, (___, d) =>
        weights.reduce((sum, weight, other) => sum + (weight / total) * up[other][start + nopeDim + d], 0),
      );
    }).flat(),
  );
  return multiply(attended, read('o_proj.weight', numHeads * valueDim));
}

describe.each([null, 8])('queries compressed to %s', (queryRank) => {
  it('computes what keys and values of every head do', () => {
    const tracer = new Tracer('toy', 'float32');
    const scope = new Scope(tracer);
    const x = new Embedding(scope.at('embed'), VOCAB, SIZES.hiddenSize).apply(tracer.input('tokenIds'));
    const options = { ...SIZES, layer: 0, queryRank, scale: SCALE, rope, bias: false };
    const y = new LatentAttention(scope.at('attn'), options).apply(x);
    tracer.graph.output('logits', gatherLogitRows(y).value);
    const graph = tracer.graph.build();
    const readTensor = randomTensors(graph);

    const interpreter = new Interpreter(graph, { readTensor, numBlocks: 4, blockSize: 4 });
    const rows = (from: number, to: number): number[] => {
      const tokenIds = TOKENS.slice(from, to);
      const chunk = { tokenIds, numCached: from, blocks: [2, 0], logitRows: [...tokenIds.keys()] };
      return [...interpreter.run(stepBatch([chunk], 4)).get('logits')!.data];
    };
    // A prompt, then what is left of it after it was cached.
    const actual = [...rows(0, 4), ...rows(4, 5), ...rows(5, 7)];

    const read = (name: string, columns: number): Matrix => {
      const values = [...readTensor(name)];
      return Array.from({ length: values.length / columns }, (_, i) =>
        values.slice(i * columns, (i + 1) * columns),
      );
    };
    const table = read('embed.weight', SIZES.hiddenSize);
    const expected = uncompressed(
      TOKENS.map((id) => table[id]),
      queryRank,
      (name, columns) => read(`attn.${name}`, columns),
    ).flat();
    expect(actual.length).toBe(expected.length);
    expected.forEach((value, i) => expect(actual[i]).toBeCloseTo(value, 5));
  });
});
