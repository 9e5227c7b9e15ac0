// latentAttention: attention whose cache holds one latent vector per token instead of every head's keys and values.
import { z } from 'zod';
import { floatsOf, floatTensor, type HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { attend, type KeysAndValues } from './attention.ts';

/**
 * Multi-head latent attention in its absorbed form (DeepSeek-AI, "DeepSeek-V2", 2024). The layer's cache has one head:
 * a rotary key `[headDim]` that all query heads share, and a latent `[valueHeadDim]` that is a token's value and, after
 * the rotary part, the rest of its key. So a score is scale · (q · key + latentQ · latent).
 */
export const latentAttention = defineOp({
  name: 'latentAttention',
  inputs: ['q', 'token', 'blockTables', 'cuSeqlensQ', 'contextLens', 'latentQ'],
  attributes: z.strictObject({
    layer: z.int().nonnegative(),
    numHeads: z.int().positive(),
    numKvHeads: z.literal(1),
    headDim: z.int().positive(),
    valueHeadDim: z.int().positive(),
    scale: z.number(),
  }),

  infer(node, { numHeads, headDim, valueHeadDim }) {
    const columns = { q: numHeads * headDim, latentQ: numHeads * valueHeadDim };
    node.check(node.matrix(0) === columns.q, `q must have ${numHeads} · ${headDim} columns`);
    node.check(node.matrix(5) === columns.latentQ, `latentQ must have ${numHeads} · ${valueHeadDim} columns`);
    node.sameRows(0, 5);
    node.token(1);
    for (const operand of [2, 3, 4]) node.ints(operand);
    return [node.inputs[5]];
  },

  interpret([q, , blockTables, cuSeqlensQ, contextLens, latentQ], attributes, caches) {
    const { layer, numHeads, headDim, valueHeadDim } = attributes;
    const { blockSize, keys, values } = caches.layer(layer);
    const numSlots = keys.length / headDim;
    const joined: KeysAndValues = {
      blockSize,
      keys: join(keys, headDim, values, valueHeadDim, numSlots),
      values,
    };
    const numQueries = q.shape[0] * numHeads;
    const queries = join(floatsOf(q), headDim, floatsOf(latentQ), valueHeadDim, numQueries);
    const size = headDim + valueHeadDim;
    const wholeQ: HostTensor = floatTensor([q.shape[0], numHeads * size], queries);
    const plain = { window: null, softcap: null, alibiSlopes: null };
    const whole = { ...attributes, ...plain, headDim: size };
    return [attend([wholeQ, blockTables, cuSeqlensQ, contextLens], null, joined, whole)];
  },
});

/** Vector i of `a` followed by vector i of `b`. */
function join(a: Float32Array, aSize: number, b: Float32Array, bSize: number, count: number): Float32Array {
  const joined = new Float32Array(count * (aSize + bSize));
  for (let i = 0; i < count; i++) {
    const start = i * (aSize + bSize);
    joined.set(a.subarray(i * aSize, (i + 1) * aSize), start);
    joined.set(b.subarray(i * bSize, (i + 1) * bSize), start + aSize);
  }
  return joined;
}
