import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { floatTensor } from '../../ir/host-tensor.ts';
import { OPS } from '../../ir/ops/index.ts';
import type { Routing } from '../../ir/ops/route-experts.ts';
import { PagedKVCaches } from '../../ir/paged-kv-cache.ts';
import { checkLaunch, expectClose, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';

const routings = fc
  .record({
    numTokens: fc.integer({ min: 1, max: 20 }),
    numGroups: fc.integer({ min: 1, max: 5 }),
    groupSize: fc.integer({ min: 1, max: 20 }),
    isGrouped: fc.boolean(),
    scoring: fc.constantFrom('softmax' as const, 'sigmoid' as const),
    score: fc.constantFrom('best' as const, 'twoBest' as const),
    normalize: fc.boolean(),
    hasCorrection: fc.boolean(),
    share: fc.double({ min: 0, max: 1, noNaN: true }),
    seed: fc.integer({ min: 1, max: 1000 }),
  })
  .map(({ isGrouped, share, score, ...drawn }) => {
    const numSelected = Math.max(1, Math.round(share * drawn.numGroups));
    const numCandidates = drawn.groupSize * (isGrouped ? numSelected : drawn.numGroups);
    const groups = isGrouped ? { numGroups: drawn.numGroups, numSelected, score } : null;
    return { ...drawn, groups, numExpertsPerToken: Math.max(1, Math.round(share * numCandidates)) };
  });

describe.each(CpuLibrary.available())('%s', (arch) => {
  const cpu = useCpuSession(arch);

  async function route(
    logits: Float32Array,
    numTokens: number,
    attributes: Routing,
    correction: Float32Array | null = null,
  ) {
    const numExperts = logits.length / numTokens;
    const { numExpertsPerToken: k } = attributes;
    const launch = {
      op: 'routeExperts',
      attributes,
      inputs: [
        matrix(numTokens, numExperts, logits, { columnStart: 1 }),
        correction ? matrix(1, numExperts, correction) : ({ kind: 'none' } as const),
      ],
      outputs: [matrix(numTokens, k, undefined, { columnStart: 1 }), matrix(numTokens, k)],
    };
    const [weights, ids] = await cpu.session.run([launch], plainStep(numTokens));
    return { weights, ids: new Int32Array(ids.buffer) };
  }

  it('chooses and weighs the experts that the op does', async () => {
    const check = async (drawn: Parameters<Parameters<typeof routings.map>[0]>[0]): Promise<void> => {
      const { numTokens, numGroups, groupSize, scoring, normalize, hasCorrection, seed, groups } = drawn;
      const numExperts = numGroups * groupSize;
      const attributes = {
        numExpertsPerToken: drawn.numExpertsPerToken,
        scoring,
        normalize,
        scale: 2.5,
        groups,
      };
      const logits = randomValues(numTokens * numExperts, seed).map((value) => 4 * value);
      const correction = hasCorrection ? randomValues(numExperts, seed + 1) : null;
      const inputs = [floatTensor([numTokens, numExperts], logits)];
      if (correction) inputs.push(floatTensor([numExperts], correction));
      const caches = new PagedKVCaches([], 16, []);
      const [weights, ids] = OPS.get('routeExperts')!.interpret(inputs, attributes, caches);
      const actual = await route(logits, numTokens, attributes, correction);
      expect([...actual.ids]).toEqual([...ids.data]);
      expectClose(actual.weights, weights.data, 2e-6);
    };
    await fc.assert(fc.asyncProperty(routings, check), { numRuns: 80 });
  });

  it('chooses experts that exist, each once, where logits are not numbers', async () => {
    const plain = {
      numExpertsPerToken: 3,
      scoring: 'softmax',
      normalize: true,
      scale: 1,
      groups: null,
    } as const;
    const grouped = { ...plain, groups: { numGroups: 2, numSelected: 1, score: 'twoBest' } } as const;
    for (const attributes of [plain, grouped]) {
      const logits = Float32Array.of(NaN, NaN, NaN, NaN, NaN, NaN, -Infinity, Infinity, NaN, 1, 2, 3);
      const { ids } = await route(logits, 2, attributes);
      for (const row of [ids.subarray(0, 3), ids.subarray(3)]) {
        expect(new Set(row).size).toBe(3);
        for (const id of row) expect([0, 1, 2, 3, 4, 5]).toContain(id);
      }
    }
  });

  it('combineExperts, on views', async () => {
    for (const [rows, chosen, columns] of [
      [1, 1, 1],
      [3, 2, 17],
      [2, 8, 1030],
      [1, 3, 2049],
    ] as const) {
      const x = matrix(rows, chosen * columns, randomValues(rows * chosen * columns, 1), { columnStart: 1 });
      const weights = matrix(rows, chosen, randomValues(rows * chosen, 2), { columnStart: 3 });
      const outputs = [matrix(rows, columns, undefined, { columnStart: 2 })];
      await checkLaunch(
        cpu.session,
        { op: 'combineExperts', attributes: {}, inputs: [x, weights], outputs },
        plainStep(rows),
      );
    }
  });
});
