// attention: causal attention of a ragged batch over the paged cache, with all the variations that models ask for.
import { z } from 'zod';
import { addScaled, dot } from '../dot.ts';
import { floatsOf, floatTensor, intsOf, type HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import type { PagedKVCache } from '../paged-kv-cache.ts';

/** A layer's cache, as attention reads it. */
export type KeysAndValues = Pick<PagedKVCache, 'blockSize' | 'keys' | 'values'>;

const attributesSchema = z.strictObject({
  layer: z.int().nonnegative(),
  numHeads: z.int().positive(),
  /** Head h reads the keys and values of head ⌊h · numKvHeads / numHeads⌋. */
  numKvHeads: z.int().positive(),
  headDim: z.int().positive(),
  valueHeadDim: z.int().positive(),
  /** Multiplies the scores, usually 1/√headDim. */
  scale: z.number(),
  /** Tokens a query looks back at, itself included; null: all. */
  window: z.int().positive().nullable(),
  /** Scores become cap · tanh(score / cap); null: off. */
  softcap: z.number().positive().nullable(),
  /** One slope per head: a score falls by slope times the distance; null: off (Press et al., "ALiBi", 2022). */
  alibiSlopes: z.array(z.number()).nullable(),
});

export type AttentionAttributes = z.infer<typeof attributesSchema>;

export const attention = defineOp({
  name: 'attention',
  /** `sinks` `[numHeads]`: logits that take part in each head's softmax and have no value. */
  inputs: ['q', 'token', 'blockTables', 'cuSeqlensQ', 'contextLens', 'sinks?'],
  attributes: attributesSchema,

  infer(node, { numHeads, numKvHeads, headDim, valueHeadDim, alibiSlopes }) {
    node.check(node.matrix(0) === numHeads * headDim, `q must have ${numHeads} · ${headDim} columns`);
    node.check(
      numHeads % numKvHeads === 0,
      `numHeads ${numHeads} is not a multiple of numKvHeads ${numKvHeads}`,
    );
    node.check((alibiSlopes?.length ?? numHeads) === numHeads, `alibiSlopes must have ${numHeads} elements`);
    node.token(1);
    for (const operand of [2, 3, 4]) node.ints(operand);
    if (node.inputs.length > 5) node.vector(5, numHeads);
    return [{ dtype: node.inputs[0].dtype, shape: [node.inputs[0].shape[0], numHeads * valueHeadDim] }];
  },

  interpret([q, , blockTables, cuSeqlensQ, contextLens, sinks], attributes, caches) {
    const batch = [q, blockTables, cuSeqlensQ, contextLens] as const;
    return [attend(batch, sinks ? floatsOf(sinks) : null, caches.layer(attributes.layer), attributes)];
  },
});

/** Attention of the queries of a batch over the blocks of its sequences. */
export function attend(
  [q, blockTables, cuSeqlensQ, contextLens]: readonly HostTensor[],
  sinks: Float32Array | null,
  cache: KeysAndValues,
  attributes: AttentionAttributes,
): HostTensor {
  const output = floatTensor([q.shape[0], attributes.numHeads * attributes.valueHeadDim]);
  const [numSeqs, maxBlocksPerSeq] = blockTables.shape;
  for (let seq = 0; seq < numSeqs; seq++) {
    const blockTable = intsOf(blockTables).subarray(seq * maxBlocksPerSeq, (seq + 1) * maxBlocksPerSeq);
    const contextLen = intsOf(contextLens)[seq];
    const slots = slotsOf(blockTable, contextLen, cache.blockSize);
    const [firstToken, endToken] = intsOf(cuSeqlensQ).subarray(seq, seq + 2);
    for (let token = firstToken; token < endToken; token++) {
      const position = contextLen - (endToken - token);
      const visible = slots.subarray(firstVisible(position, attributes.window), position + 1);
      attendToken(floatsOf(q), output.data, token, visible, cache, sinks, attributes);
    }
  }
  return output;
}

/** Where the cache holds each position of a sequence, `[contextLen]`. */
function slotsOf(blockTable: Int32Array, contextLen: number, blockSize: number): Int32Array {
  return new Int32Array(contextLen).map(
    (_, position) => blockTable[Math.floor(position / blockSize)] * blockSize + (position % blockSize),
  );
}

function firstVisible(position: number, window: number | null): number {
  return window === null ? 0 : Math.max(0, position - window + 1);
}

/** All heads of one query over the `visible` slots, whose last one is the query's own. */
function attendToken(
  q: Float32Array, // [numTokens, numHeads, headDim]
  output: Float32Array, // [numTokens, numHeads, valueHeadDim]
  token: number,
  visible: Int32Array,
  { keys, values }: KeysAndValues,
  sinks: Float32Array | null,
  attributes: AttentionAttributes,
): void {
  const { numHeads, numKvHeads, headDim, valueHeadDim } = attributes;
  for (let head = 0; head < numHeads; head++) {
    const kvHead = Math.floor((head * numKvHeads) / numHeads);
    const queryStart = (token * numHeads + head) * headDim;
    const scores = new Float64Array(visible.length);
    for (let i = 0; i < visible.length; i++) {
      const keyStart = (visible[i] * numKvHeads + kvHead) * headDim;
      const distance = visible.length - 1 - i;
      scores[i] = adjustScore(dot(q, queryStart, keys, keyStart, headDim), distance, head, attributes);
    }
    softmaxInPlace(scores, sinks?.[head] ?? -Infinity);
    const sum = new Float64Array(valueHeadDim);
    for (let i = 0; i < visible.length; i++)
      addScaled(sum, values, (visible[i] * numKvHeads + kvHead) * valueHeadDim, scores[i]);
    output.set(sum, (token * numHeads + head) * valueHeadDim);
  }
}

function adjustScore(
  product: number,
  distance: number,
  head: number,
  attributes: AttentionAttributes,
): number {
  const { scale, softcap, alibiSlopes } = attributes;
  const scaled = product * scale;
  const capped = softcap === null ? scaled : softcap * Math.tanh(scaled / softcap);
  return alibiSlopes === null ? capped : capped - alibiSlopes[head] * distance;
}

/** The sink takes its share of the sum. */
function softmaxInPlace(scores: Float64Array, sink: number): void {
  let largest = sink;
  for (const score of scores) largest = Math.max(largest, score);
  let sum = Math.exp(sink - largest);
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - largest);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
}
