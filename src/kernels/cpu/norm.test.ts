import { describe, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { checkLaunch, plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';

const ROWS = [1, 3, 8];
const COLUMNS = [1, 16, 60, 257];

function vector(size: number, seed: number): HarnessOperand {
  const values = randomValues(size, seed);
  return { kind: 'weight', values, shape: [size], dtype: 'float32', layout: 'rowMajor' };
}

describe.each(CpuLibrary.available())('%s', (arch) => {
  const cpu = useCpuSession(arch);

  async function forEachShape(check: (rows: number, columns: number) => Promise<void>): Promise<void> {
    for (const rows of ROWS) for (const columns of COLUMNS) await check(rows, columns);
  }

  it.each([0, 1])('rmsNorm with weight offset %i', async (weightOffset) => {
    await forEachShape(async (rows, columns) => {
      const x = matrix(rows, columns, randomValues(rows * columns, 1), { columnStart: 2 });
      const attributes = { eps: 1e-5, groupSize: columns, weightOffset };
      for (const y of [matrix(rows, columns), { ...x, aliasOf: x }]) {
        const launch = { op: 'rmsNorm', attributes, inputs: [x, vector(columns, 2)], outputs: [y] };
        await checkLaunch(cpu.session, launch, plainStep(rows));
      }
    });
  });

  it.each(['rmsNorm', 'layerNorm'])('%s over groups of columns', async (op) => {
    const [rows, groups, groupSize] = [5, 3, 20];
    const x = matrix(rows, groups * groupSize, randomValues(rows * groups * groupSize, 1));
    const offset = op === 'rmsNorm' ? { weightOffset: 0 } : {};
    const attributes = { eps: 1e-6, groupSize, ...offset };
    const outputs = [matrix(rows, groups * groupSize)];
    const launch = { op, attributes, inputs: [x, vector(groupSize, 2)], outputs };
    await checkLaunch(cpu.session, launch, plainStep(rows));
  });

  it('layerNorm over groups with weights of their own', async () => {
    const [rows, groupSize, columns] = [5, 20, 60];
    const x = matrix(rows, columns, randomValues(rows * columns, 1));
    const inputs = [x, vector(columns, 2), vector(columns, 3)];
    const attributes = { eps: 1e-6, groupSize };
    const launch = { op: 'layerNorm', attributes, inputs, outputs: [matrix(rows, columns)] };
    await checkLaunch(cpu.session, launch, plainStep(rows));
  });

  it.each([true, false])('layerNorm, with bias: %s', async (hasBias) => {
    await forEachShape(async (rows, columns) => {
      // Far from zero, where a one-pass variance would lose its digits.
      const values = randomValues(rows * columns, 1).map((value) => value + 30);
      const x = matrix(rows, columns, values, { rowStride: columns + 3 });
      const bias: HarnessOperand = hasBias ? vector(columns, 3) : { kind: 'none' };
      const attributes = { eps: 1e-5, groupSize: columns };
      const inputs = [x, vector(columns, 2), bias];
      const launch = { op: 'layerNorm', attributes, inputs, outputs: [matrix(rows, columns)] };
      await checkLaunch(cpu.session, launch, plainStep(rows), { tolerance: 2e-5 });
    });
  });

  it.each(['addRmsNorm', 'addLayerNorm'])('%s, in place of either operand', async (op) => {
    await forEachShape(async (rows, columns) => {
      const x = matrix(rows, columns, randomValues(rows * columns, 1), { columnStart: 1 });
      const residual = matrix(rows, columns, randomValues(rows * columns, 2));
      const isRms = op === 'addRmsNorm';
      const attributes = isRms ? { eps: 1e-5, weightOffset: 0 } : { eps: 1e-5 };
      const bias = isRms ? [] : [vector(columns, 4)];
      const places = [
        [matrix(rows, columns), matrix(rows, columns)],
        [
          { ...residual, aliasOf: residual },
          { ...x, aliasOf: x },
        ],
        [
          { ...x, aliasOf: x },
          { ...residual, aliasOf: residual },
        ],
      ];
      for (const outputs of places) {
        const launch = { op, attributes, inputs: [x, residual, vector(columns, 3), ...bias], outputs };
        await checkLaunch(cpu.session, launch, plainStep(rows), { tolerance: 1e-5 });
      }
    });
  });
});
