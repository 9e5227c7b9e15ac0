import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { ACTIVATION_KINDS } from '../../ir/ops/activation-kinds.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import { ACTIVATION_NUMBERS } from './elementwise.ts';

/** Rows and columns around the sizes of vectors and of pieces that threads take. */
const SHAPES = [
  [1, 1],
  [1, 15],
  [3, 16],
  [2, 17],
  [1, 1025],
  [5, 100],
  [4, 2064],
] as const;

it('numbers activations as the op lists them', () => {
  expect(ACTIVATION_NUMBERS).toEqual([...ACTIVATION_KINDS]);
});

describe.each(CpuLibrary.available())('%s', (arch) => {
  const cpu = useCpuSession(arch);

  it.each(['add', 'multiply'])('%s, on views, in place and apart', async (op) => {
    for (const [rows, columns] of SHAPES) {
      const view = { columnStart: 3, rowStride: columns + 5 };
      const a = matrix(rows, columns, randomValues(rows * columns, 1), view);
      const b = matrix(rows, columns, randomValues(rows * columns, 2));
      for (const y of [matrix(rows, columns), { ...a, aliasOf: a }, { ...b, aliasOf: b }]) {
        const launch = { op, attributes: {}, inputs: [a, b], outputs: [y] };
        await checkLaunch(cpu.session, launch, plainStep(rows));
      }
    }
  });

  it.each([
    ['scale', { factor: -1.75 }],
    ['clamp', { min: -1.5, max: 1 }],
    ['clamp', { min: null, max: 2 }],
    ['softcap', { cap: 2.5 }],
    ...ACTIVATION_KINDS.map((kind) => ['activation', { kind }] as const),
  ] as const)('%s %j', async (op, attributes) => {
    for (const [rows, columns] of SHAPES) {
      const values = randomValues(rows * columns, 3).map((value) => 8 * value);
      const x = matrix(rows, columns, values, { rowStride: columns + 1 });
      for (const y of [matrix(rows, columns), { ...x, aliasOf: x }]) {
        await checkLaunch(cpu.session, { op, attributes, inputs: [x], outputs: [y] }, plainStep(rows));
      }
    }
  });

  it.each(ACTIVATION_KINDS)('gatedActivation with %s', async (kind) => {
    for (const [rows, columns] of SHAPES) {
      const x = matrix(
        rows,
        2 * columns,
        randomValues(rows * 2 * columns, 4).map((value) => 6 * value),
      );
      const launch = { op: 'gatedActivation', attributes: { kind }, inputs: [x] };
      await checkLaunch(cpu.session, { ...launch, outputs: [matrix(rows, columns)] }, plainStep(rows));
    }
  });

  it('keeps small values exact to the last bits, and NaN', async () => {
    const tiny = Float32Array.from({ length: 64 }, (_, i) => 1e-4 * (i - 32));
    const attributes = { kind: 'tanh' };
    const launch = { op: 'activation', attributes, inputs: [matrix(1, 64, tiny)], outputs: [matrix(1, 64)] };
    await checkLaunch(cpu.session, launch, plainStep(1), { tolerance: 1e-7 });
    const withNaN = matrix(1, 3, Float32Array.of(1, NaN, 2));
    const [y] = await cpu.session.run(
      [{ ...launch, inputs: [withNaN], outputs: [matrix(1, 3)] }],
      plainStep(1),
    );
    expect([...y].map(Number.isNaN)).toEqual([false, true, false]);
  });
});
