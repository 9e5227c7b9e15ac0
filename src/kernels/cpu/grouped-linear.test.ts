import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { roundTo } from '../../tensor/dtype.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import {
  CpuHarness,
  matrix,
  type HarnessLaunch,
  type HarnessSession,
} from '../../../test/support/cpu-harness.ts';
import { groupedLinear } from './grouped-linear.ts';

interface Shape {
  readonly numTokens: number;
  readonly numMatrices: number;
  readonly inputs: number;
  readonly outputs: number;
  /** Named by ids; null: all, without ids. */
  readonly matricesPerToken: number | null;
  /** Each matrix has columns of x of its own. */
  readonly isWide: boolean;
  readonly hasBias: boolean;
  readonly seed: number;
}

const shapes = fc.record({
  numTokens: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 60 })),
  numMatrices: fc.integer({ min: 1, max: 9 }),
  inputs: fc.integer({ min: 1, max: 70 }),
  outputs: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(16, 32, 48)),
  matricesPerToken: fc.constantFrom(null, 1, 2, 5),
  isWide: fc.boolean(),
  hasBias: fc.boolean(),
  seed: fc.integer({ min: 1, max: 1000 }),
});

const PRODUCTS = CpuLibrary.available().flatMap((arch) =>
  (
    [
      ['float32', 'float32'],
      ['float16', 'float32'],
      ['bfloat16', 'float32'],
      ['bfloat16', 'auto'],
    ] as const
  ).map(([weightDType, activationPrecision]) => ({ arch, weightDType, activationPrecision })),
);

describe.each(PRODUCTS)(
  'grouped products on $arch, $weightDType, activations $activationPrecision',
  (product) => {
    let harness: CpuHarness;
    let session: HarnessSession;
    beforeAll(() => {
      harness = new CpuHarness(product.arch);
      session = harness.session();
    });
    afterAll(() => {
      session.free();
      harness.close();
    });

    function launchOf(shape: Shape): HarnessLaunch {
      const { numTokens, numMatrices, inputs, outputs, matricesPerToken, isWide, hasBias, seed } = shape;
      const perToken = matricesPerToken ?? numMatrices;
      const columns = isWide ? perToken * inputs : inputs;
      const query = {
        ...product,
        weightFormat: null,
        kvDType: 'float32',
        activationDType: 'float32',
        maxRows: numTokens,
        weightRows: numMatrices * outputs,
        weightColumns: inputs,
        attributes: { numMatrices, matricesPerToken: perToken },
      } as const;
      const x = randomValues(numTokens * columns, seed);
      const isRounded = groupedLinear.variants(query)[0].kernel.endsWith('_dot');
      // Some matrices stay without rows, others get many.
      const ids = Int32Array.from(
        { length: numTokens * perToken },
        (_, i) => ((i * i + seed) % 7) % numMatrices,
      );
      return {
        op: 'groupedLinear',
        attributes: query.attributes,
        inputs: [
          matrix(numTokens, columns, isRounded ? x.map((value) => roundTo('bfloat16', value)) : x, {
            columnStart: 2,
          }),
          {
            kind: 'weight',
            values: randomValues(numMatrices * outputs * inputs, seed + 1),
            shape: [numMatrices * outputs, inputs],
            dtype: product.weightDType,
            layout: groupedLinear.weightLayout(query),
          },
          matricesPerToken === null ? { kind: 'none' } : matrix(numTokens, perToken, ids),
          hasBias && matricesPerToken !== null
            ? matrix(1, numMatrices * outputs, randomValues(numMatrices * outputs, seed + 2))
            : { kind: 'none' },
        ],
        outputs: [matrix(numTokens, perToken * outputs, undefined, { columnStart: 1 })],
        query,
      };
    }

    it('sends rows through their matrices, whatever the shape', async () => {
      const check = (shape: Shape): Promise<void> =>
        checkLaunch(session, launchOf(shape), plainStep(shape.numTokens), { tolerance: 5e-6 });
      await fc.assert(fc.asyncProperty(shapes, check), { numRuns: 60 });
    });

    it('gives a row the same result whatever other rows there are', async () => {
      const shape = {
        numMatrices: 1,
        inputs: 40,
        outputs: 33,
        matricesPerToken: 1,
        isWide: true,
        hasBias: true,
        seed: 5,
      };
      const [many] = await session.run([launchOf({ ...shape, numTokens: 9 })], plainStep(9));
      const [alone] = await session.run([launchOf({ ...shape, numTokens: 1 })], plainStep(1));
      alone.forEach((value, i) => expect(many[i]).toBeCloseTo(value, 5));
    });
  },
);
