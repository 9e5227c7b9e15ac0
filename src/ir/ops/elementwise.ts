// Ops that work on each element alone: add, multiply, scale, clamp, softcap, activation.
import { z } from 'zod';
import type { Attributes } from '../graph.ts';
import { floatsOf, floatTensor, type HostTensor } from '../host-tensor.ts';
import { defineOp, type OpDefinition } from '../op.ts';
import { ACTIVATIONS, activationAttributes } from './activation-kinds.ts';

function binary(name: string, f: (a: number, b: number) => number): OpDefinition {
  return defineOp({
    name,
    inputs: ['a', 'b'],
    attributes: z.strictObject({}),
    isElementwise: true,
    isRowwise: true,
    inPlace: [[0, 1]],
    infer(node) {
      node.matrix(0);
      node.matrix(1);
      node.sameShape(0, 1);
      return [node.inputs[0]];
    },
    interpret([a, b]) {
      const other = floatsOf(b);
      return [
        floatTensor(
          a.shape,
          floatsOf(a).map((value, i) => f(value, other[i])),
        ),
      ];
    },
  });
}

function unary<A extends Attributes>(
  name: string,
  attributes: z.ZodType<A>,
  functionFor: (attributes: A) => (x: number) => number,
): OpDefinition {
  return defineOp({
    name,
    inputs: ['x'],
    attributes,
    isElementwise: true,
    isRowwise: true,
    inPlace: [[0]],
    infer(node) {
      node.matrix(0);
      return [node.inputs[0]];
    },
    interpret: ([x]: readonly HostTensor[], parsed) => [
      floatTensor(x.shape, floatsOf(x).map(functionFor(parsed))),
    ],
  });
}

export const add = binary('add', (a, b) => a + b);

export const multiply = binary('multiply', (a, b) => a * b);

export const scale = unary(
  'scale',
  z.strictObject({ factor: z.number() }),
  ({ factor }) =>
    (x) =>
      x * factor,
);

/** Moves values that lie outside of [min, max] to its nearer end; null: there is no end. */
export const clamp = unary(
  'clamp',
  z.strictObject({ min: z.number().nullable(), max: z.number().nullable() }),
  ({ min, max }) =>
    (x) =>
      Math.min(Math.max(x, min ?? -Infinity), max ?? Infinity),
);

/** Keeps values within ±cap, smoothly. */
export const softcap = unary(
  'softcap',
  z.strictObject({ cap: z.number().positive() }),
  ({ cap }) =>
    (x) =>
      cap * Math.tanh(x / cap),
);

export const activation = unary('activation', activationAttributes, ({ kind }) => ACTIVATIONS[kind]);
