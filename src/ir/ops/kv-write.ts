// kvWrite: keys and values into a layer's cache; and its fusion with the rotary embedding of queries and keys.
import { z } from 'zod';
import { floatsOf, intsOf, TOKEN } from '../host-tensor.ts';
import { defineOp } from '../op.ts';
import { rope, ropeParameters, rotate } from './rope.ts';

const TOKEN_TYPE = { dtype: 'token', shape: [] } as const;

export const kvWrite = defineOp({
  name: 'kvWrite',
  inputs: ['k', 'v', 'slotMapping'],
  attributes: z.strictObject({ layer: z.int().nonnegative() }),
  hasEffect: true,

  infer(node) {
    node.matrix(0);
    node.matrix(1);
    node.sameRows(0, 1);
    node.intPerRow(2, 0);
    return [TOKEN_TYPE];
  },

  interpret([k, v, slotMapping], { layer }, caches) {
    caches.layer(layer).write(floatsOf(k), floatsOf(v), intsOf(slotMapping));
    return [TOKEN];
  },
});

export const ropeKvWrite = defineOp({
  name: 'ropeKvWrite',
  inputs: ['q', 'k', 'v', 'positions', 'slotMapping'],
  attributes: z.strictObject({
    layer: z.int().nonnegative(),
    numHeads: z.int().positive(),
    numKvHeads: z.int().positive(),
    headDim: z.int().positive(),
    valueHeadDim: z.int().positive(),
    rope: ropeParameters,
  }),
  hasEffect: true,
  inPlace: [[0], []],

  infer(node, { numHeads, numKvHeads, headDim, valueHeadDim, rope: parameters }) {
    node.check(node.matrix(0) === numHeads * headDim, `q must have ${numHeads} · ${headDim} columns`);
    node.check(node.matrix(1) === numKvHeads * headDim, `k must have ${numKvHeads} · ${headDim} columns`);
    node.check(
      node.matrix(2) === numKvHeads * valueHeadDim,
      `v must have ${numKvHeads} · ${valueHeadDim} columns`,
    );
    node.sameRows(0, 1);
    node.sameRows(0, 2);
    node.intPerRow(3, 0);
    node.intPerRow(4, 0);
    node.inferAs(rope, [0, 3], { headDim, rope: parameters });
    return [node.inputs[0], TOKEN_TYPE];
  },

  interpret([q, k, v, positions, slotMapping], { layer, headDim, rope: parameters }, caches) {
    const rotatedKeys = rotate(k, intsOf(positions), headDim, parameters);
    caches.layer(layer).write(floatsOf(rotatedKeys), floatsOf(v), intsOf(slotMapping));
    return [rotate(q, intsOf(positions), headDim, parameters), TOKEN];
  },
});
