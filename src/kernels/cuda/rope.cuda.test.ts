// Rotary embeddings against their definition, alone and on the way to every type of cache.
import { describe, it } from 'vitest';
import { filledCache, stepOf } from '../../../test/support/attention-suite.ts';
import { matrix, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { describeKernels } from '../../../test/support/kernel-suite.ts';

const MAX_POSITIONS = 64;
const CONTEXT_LENS = [40, 4];
const NUM_QUERIES = [9, 1];
const POSITIONS: HarnessOperand = { kind: 'input', name: 'positions' };

interface Rotation {
  readonly rotaryDim: number;
  readonly interleaved: boolean;
  readonly inverseFrequencies: readonly number[];
  readonly attentionFactor: number;
}

/** Rows of cosines, then sines. */
function tableOf({ rotaryDim, inverseFrequencies, attentionFactor }: Rotation): HarnessOperand {
  const rows = Array.from({ length: MAX_POSITIONS }, (_, position) =>
    [Math.cos, Math.sin].flatMap((of) =>
      inverseFrequencies.map((frequency) => of(position * frequency) * attentionFactor),
    ),
  );
  return { kind: 'ropeTable', values: Float32Array.from(rows.flat()), rotaryDim };
}

describeKernels('rope', (kernels) => {
  it.each([
    [64, 64, false],
    [64, 64, true],
    [80, 32, false],
    [96, 48, true],
    [20, 20, false],
    [6, 2, true],
    [256, 256, false],
  ])('of heads of %d, %d columns of which turn, interleaved: %s', async (headDim, rotaryDim, interleaved) => {
    const inverseFrequencies = Array.from({ length: rotaryDim / 2 }, (_, i) => 100 ** ((-2 * i) / rotaryDim));
    const rope = { rotaryDim, interleaved, inverseFrequencies, attentionFactor: 1.25 };
    const blocks = [[0, 1, 2], [3]];
    const step = stepOf(CONTEXT_LENS, NUM_QUERIES, blocks);
    const columns = 3 * headDim;
    const values = kernels.random(step.numTokens * columns, 1);
    for (const columnStart of [0, 5]) {
      const x = matrix(step.numTokens, columns, values, { columnStart });
      for (const y of [matrix(step.numTokens, columns), { ...x, aliasOf: x }]) {
        const launch = { op: 'rope', attributes: { headDim, rope }, inputs: [x, POSITIONS, tableOf(rope)] };
        await kernels.checkCase({ step, launch: { ...launch, outputs: [y] } });
      }
    }
  });

  describe.each([kernels.dtype, 'float8_e4m3fn', 'int8'] as const)('to a cache of %s', (kvDType) => {
    it.each([
      [64, 64, 64, false],
      [64, 64, 64, true],
      [96, 96, 48, false],
      [112, 112, 112, false],
      [12, 20, 10, false],
      [128, 64, 32, true],
    ])(
      'heads of %d and %d, %d columns of which turn, interleaved: %s',
      async (headDim, valueHeadDim, rotaryDim, interleaved) => {
        // Quarter turns change no number's digits: a cache is compared bit for bit.
        const inverseFrequencies = Array.from({ length: rotaryDim / 2 }, (_, i) => (i % 4) * (Math.PI / 2));
        const rope = { rotaryDim, interleaved, inverseFrequencies, attentionFactor: 1 };
        const [numHeads, numKvHeads] = [6, 2];
        const dims = { numKvHeads, keyHeadDim: headDim, valueHeadDim };
        const { cache, blocks } = filledCache(kernels, dims, CONTEXT_LENS, kvDType);
        const step = stepOf(CONTEXT_LENS, NUM_QUERIES, blocks);
        const [q, k, v] = [numHeads * headDim, numKvHeads * headDim, numKvHeads * valueHeadDim].map(
          (columns, i) => matrix(step.numTokens, columns, kernels.random(step.numTokens * columns, i)),
        );
        const attributes = { layer: 0, ...{ numHeads, numKvHeads, headDim, valueHeadDim }, rope };
        const slots: HarnessOperand = { kind: 'input', name: 'slotMapping' };
        const inputs = [q, k, v, POSITIONS, slots, tableOf(rope)];
        const outputs: HarnessOperand[] = [
          { ...q, aliasOf: q },
          { kind: 'kvCache', layer: 0 },
        ];
        await kernels.checkCase(
          { step, cache, launch: { op: 'ropeKvWrite', attributes, inputs, outputs } },
          1e-6,
        );
      },
    );
  });
});
