// rope: rotary position embedding, each pair of a head's first columns turned by an angle that grows with the position.
import { z } from 'zod';
import { floatsOf, floatTensor, intsOf, type HostTensor } from '../host-tensor.ts';
import { defineOp } from '../op.ts';

export const ropeParameters = z.strictObject({
  /** Columns of each head that turn; the rest pass through. */
  rotaryDim: z.int().positive().multipleOf(2),
  /** Pairs are (0, 1), (2, 3), … as in GPT-J; otherwise column i pairs with i + rotaryDim / 2, as in GPT-NeoX. */
  interleaved: z.boolean(),
  /** Angle per position of each pair, `[rotaryDim / 2]`. */
  inverseFrequencies: z.array(z.number()),
  /** Cosine and sine are multiplied by it. */
  attentionFactor: z.number(),
});

export type RopeParameters = z.infer<typeof ropeParameters>;

export const rope = defineOp({
  name: 'rope',
  inputs: ['x', 'positions'],
  attributes: z.strictObject({ headDim: z.int().positive(), rope: ropeParameters }),
  isRowwise: true,
  inPlace: [[0]],

  infer(node, { headDim, rope: parameters }) {
    node.check(node.matrix(0) % headDim === 0, `columns must be a multiple of headDim ${headDim}`);
    node.check(
      parameters.rotaryDim <= headDim,
      `rotaryDim ${parameters.rotaryDim} exceeds headDim ${headDim}`,
    );
    const numPairs = parameters.inverseFrequencies.length;
    node.check(
      numPairs === parameters.rotaryDim / 2,
      `${numPairs} frequencies for rotaryDim ${parameters.rotaryDim}`,
    );
    node.intPerRow(1, 0);
    return [node.inputs[0]];
  },

  interpret: ([x, positions], { headDim, rope: parameters }) => [
    rotate(x, intsOf(positions), headDim, parameters),
  ],
});

/** Rotates every head of `x` `[numTokens, heads · headDim]`. */
export function rotate(
  x: HostTensor,
  positions: Int32Array,
  headDim: number,
  parameters: RopeParameters,
): HostTensor {
  const { interleaved, inverseFrequencies, attentionFactor } = parameters;
  const numPairs = inverseFrequencies.length;
  const [numTokens, columns] = x.shape;
  const input = floatsOf(x);
  const output = floatTensor(x.shape, input.slice());
  for (let token = 0; token < numTokens; token++) {
    for (let pair = 0; pair < numPairs; pair++) {
      const angle = positions[token] * inverseFrequencies[pair];
      const [cos, sin] = [Math.cos(angle) * attentionFactor, Math.sin(angle) * attentionFactor];
      for (let head = token * columns; head < (token + 1) * columns; head += headDim) {
        const first = head + (interleaved ? 2 * pair : pair);
        const second = first + (interleaved ? 1 : numPairs);
        output.data[first] = input[first] * cos - input[second] * sin;
        output.data[second] = input[second] * cos + input[first] * sin;
      }
    }
  }
  return output;
}
