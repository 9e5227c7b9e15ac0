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
  readonly numGroups: number;
  readonly inputs: number;
  readonly outputs: number;
  /** Slots of each token, filled by ids; null: one slot for each group. */
  readonly numSlots: number | null;
  /** Slots have columns of x of their own. */
  readonly isWide: boolean;
  readonly hasBias: boolean;
  readonly seed: number;
}

const shapes = fc.record({
  numTokens: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 60 })),
  numGroups: fc.integer({ min: 1, max: 9 }),
  inputs: fc.integer({ min: 1, max: 70 }),
  outputs: fc.oneof(fc.integer({ min: 1, max: 70 }), fc.constantFrom(16, 32, 48)),
  numSlots: fc.constantFrom(null, 1, 2, 5),
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
      const { numTokens, numGroups, inputs, outputs, numSlots, isWide, hasBias, seed } = shape;
      const slots = numSlots ?? numGroups;
      const columns = isWide ? slots * inputs : inputs;
      const query = {
        ...product,
        kvDType: 'float32',
        activationDType: 'float32',
        maxRows: numTokens,
        weightRows: numGroups * outputs,
        weightColumns: inputs,
        attributes: { numGroups, numSlots: slots },
      } as const;
      const x = randomValues(numTokens * columns, seed);
      const isRounded = groupedLinear.variants(query)[0].kernel.endsWith('_dot');
      // Some groups stay without rows, others get many.
      const ids = Int32Array.from({ length: numTokens * slots }, (_, i) => ((i * i + seed) % 7) % numGroups);
      return {
        op: 'groupedLinear',
        attributes: query.attributes,
        inputs: [
          matrix(numTokens, columns, isRounded ? x.map((value) => roundTo('bfloat16', value)) : x, {
            columnStart: 2,
          }),
          {
            kind: 'weight',
            values: randomValues(numGroups * outputs * inputs, seed + 1),
            shape: [numGroups * outputs, inputs],
            dtype: product.weightDType,
            layout: groupedLinear.weightLayout(query),
          },
          numSlots === null ? { kind: 'none' } : matrix(numTokens, slots, ids),
          hasBias && numSlots !== null
            ? matrix(1, numGroups * outputs, randomValues(numGroups * outputs, seed + 2))
            : { kind: 'none' },
        ],
        outputs: [matrix(numTokens, slots * outputs, undefined, { columnStart: 1 })],
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
        numGroups: 1,
        inputs: 40,
        outputs: 33,
        numSlots: 1,
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
