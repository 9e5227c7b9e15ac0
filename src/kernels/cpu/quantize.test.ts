import { describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { floatTensor, floatsOf } from '../../ir/host-tensor.ts';
import { quantize } from '../../ir/ops/quantize.ts';
import { plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { useCpuSession } from '../../../test/support/cpu-session.ts';
import { PagedKVCaches } from '../../ir/paged-kv-cache.ts';

const NO_CACHES = new PagedKVCaches([], 16, []);

/** Of all magnitudes, with ties of rounding, a group of zeros and one of tiny values. */
function activations(rows: number, columns: number): Float32Array {
  const values = randomValues(rows * columns, 3).map((value, i) => value * 10 ** ((i % 9) - 5));
  for (let i = 0; i < columns; i++) values[i] = ((i % 255) - 127) / 2;
  values.fill(0, columns, 2 * columns);
  for (let i = 2 * columns; i < 3 * columns; i++) values[i] = 1e-44;
  return values;
}

describe.each(CpuLibrary.available())('quantize on %s', (arch) => {
  const cpu = useCpuSession(arch);

  async function check(
    x: Float32Array,
    [rows, columns]: readonly [number, number],
    attributes: { dtype: 'int8' | 'float8_e4m3fn'; groupSize: number },
    staticScales?: Float32Array,
  ): Promise<void> {
    const { dtype, groupSize } = attributes;
    const operands: HarnessOperand[] = [
      matrix(rows, columns, x, { columnStart: 3 }),
      staticScales ? matrix(1, staticScales.length, staticScales) : { kind: 'none' },
    ];
    const outputs = [
      matrix(rows, columns, undefined, { dtype, columnStart: 5 }),
      matrix(rows, columns / groupSize, undefined, { columnStart: 1 }),
    ];
    const launch = { op: 'quantize', attributes, inputs: operands, outputs, query: { attributes } };
    const actual = await cpu.session.run([launch], plainStep(rows));
    const inputs = [floatTensor([rows, columns], x)];
    if (staticScales) inputs.push(floatTensor([staticScales.length], staticScales));
    const expected = quantize.interpret(inputs, attributes, NO_CACHES);
    expected.forEach((tensor, i) =>
      expect(actual[i].map(positiveZero)).toEqual(floatsOf(tensor).map(positiveZero)),
    );
  }

  it.each([
    ['int8', 70, 70],
    ['int8', 96, 32],
    ['int8', 1, 1],
    ['float8_e4m3fn', 70, 70],
    ['float8_e4m3fn', 48, 6],
  ] as const)(
    'gives the codes and scales of the definition: %s, %i columns in groups of %i',
    async (dtype, columns, groupSize) => {
      await check(activations(9, columns), [9, columns], { dtype, groupSize });
      await check(
        activations(9, columns),
        [9, columns],
        { dtype, groupSize },
        Float32Array.of(0.3, 0.7, 0.1),
      );
    },
  );

  it.each(['int8', 'float8_e4m3fn'] as const)('shows what is not finite: %s', async (dtype) => {
    for (const value of [NaN, Infinity, -Infinity]) {
      const x = activations(4, 40);
      x[3 * 40 + 17] = value;
      await check(x, [4, 40], { dtype, groupSize: 20 });
    }
  });
});

function positiveZero(value: number): number {
  return value === 0 ? 0 : value;
}
