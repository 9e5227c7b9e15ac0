// Kernels of quantized operands against their ops' definitions, over odd shapes, formats and groups, in every type.
import { afterAll, beforeAll, describe, it } from 'vitest';
import type { Attributes } from '../../ir/graph.ts';
import { roundTo } from '../../tensor/dtype.ts';
import { quantizeRows } from '../../tensor/quantize-rows.ts';
import type { GroupedFormat } from '../../tensor/weight-format.ts';
import { plainStep, randomValues } from '../../../test/support/check-launch.ts';
import { matrix, type HarnessOperand, type Matrix } from '../../../test/support/cpu-harness.ts';
import { CudaHarness } from '../../../test/support/cuda-harness.ts';
import { describeCuda } from '../../../test/support/cuda.ts';

/** Of the largest value: a few roundings of the type. */
const TOLERANCES = { float32: 2e-5, float16: 3e-3, bfloat16: 2e-2 } as const;
/** Hopper's tensor cores add products of float8 with 14 bits, whatever the result's type; sums of sums are float32. */
const FLOAT8_SUM = 1e-3;
/** One place of the largest codes: rounding before may differ in its last bit. */
const CODE_STEPS = { int8: 1.01 / 127, float8_e4m3fn: 32.1 / 448 } as const;
/** Scales that are given, under which the largest values saturate. */
const SMALL_SCALES = { int8: 0.005, float8_e4m3fn: 0.001 } as const;
const EXACT = 1e-9;
const NUM_ROWS = [1, 3, 8, 9, 17, 33, 65, 130, 300];

type ActivationDType = 'int8' | 'float8_e4m3fn';

interface Weights {
  readonly attributes: Attributes;
  readonly operands: readonly HarnessOperand[];
}

describeCuda('kernels of quantized operands', () => {
  let harness: CudaHarness;
  beforeAll(async () => {
    harness = await CudaHarness.open();
  });
  afterAll(() => harness.close());

  describe.each(['float32', 'float16', 'bfloat16'] as const)('%s', (dtype) => {
    const random = (count: number, seed: number, scale = 1): Float32Array =>
      randomValues(count, seed).map((value) => roundTo(dtype, scale * value));

    const floats = (shape: readonly number[], seed: number): HarnessOperand => {
      const count = shape.reduce((product, size) => product * size, 1);
      return { kind: 'weight', values: random(count, seed), shape, dtype, layout: 'rowMajor' };
    };

    const wide = (shape: readonly number[], values: Float32Array): HarnessOperand => ({
      kind: 'weight',
      values,
      shape,
      dtype: 'float32',
      layout: 'rowMajor',
    });

    function weights(rows: number, columns: number, format: GroupedFormat): Weights {
      const { dtype: codeDType, groupSize, hasZeros } = format;
      const { codes, scales } = quantizeRows(randomValues(rows * columns, 2), format);
      const layout = codeDType === 'uint4' ? 'evenOdd' : 'rowMajor';
      return {
        attributes: { weightDType: codeDType, groupSize, hasZeros },
        operands: [
          { kind: 'weight', values: codes, shape: [rows, columns], dtype: codeDType, layout },
          wide([rows, scales.length / rows], scales),
        ],
      };
    }

    function activations(
      rows: number,
      columns: number,
      codeDType: ActivationDType,
      xGroupSize: number,
      view = {},
    ): readonly [codes: Matrix, scales: Matrix] {
      const format = { dtype: codeDType, groupSize: xGroupSize, hasZeros: false };
      const { codes, scales } = quantizeRows(randomValues(rows * columns, 1), format);
      return [
        matrix(rows, columns, codes, { dtype: codeDType, ...view }),
        matrix(rows, columns / xGroupSize, scales, { rowStride: columns / xGroupSize + 1 }),
      ];
    }

    function check(
      op: string,
      attributes: Attributes,
      inputs: readonly HarnessOperand[],
      outputs: readonly HarnessOperand[],
      tolerance: number = TOLERANCES[dtype],
    ): Promise<void> {
      const launch = { op, attributes, inputs, outputs };
      const [{ rows }] = outputs as readonly Matrix[];
      return harness.check({ launch, step: plainStep(rows), dtype }, tolerance);
    }

    const codesAndScales = (rows: number, columns: number, codeDType: ActivationDType, groups = 1) => [
      matrix(rows, columns, undefined, { dtype: codeDType }),
      matrix(rows, groups),
    ];

    describe.each(['int8', 'float8_e4m3fn'] as const)('to %s', (codeDType) => {
      it('quantize, exactly, by token, by group and by a scale that is given', async () => {
        const none: HarnessOperand = { kind: 'none' };
        for (const [rows, columns, groupSize] of [
          [1, 1, 1],
          [3, 17, 17],
          [2, 4096, 4096],
          [1, 28672, 28672],
          [5, 96, 32],
          [4, 1024, 128],
        ]) {
          const x = matrix(rows, columns, random(rows * columns, 3, 5), { rowStride: columns + 8 });
          const outputs = codesAndScales(rows, columns, codeDType, columns / groupSize);
          const attributes = { dtype: codeDType, groupSize };
          await check('quantize', attributes, [x, none], outputs, EXACT);
          const given = wide([3], Float32Array.of(0.01, 0.03, 0.02));
          await check('quantize', attributes, [x, given], outputs, EXACT);
        }
        const zeros = matrix(2, 64, new Float32Array(128));
        await check(
          'quantize',
          { dtype: codeDType, groupSize: 64 },
          [zeros, none],
          codesAndScales(2, 64, codeDType),
          EXACT,
        );
      });

      it('norms and gatedActivation fused with quantize', async () => {
        for (const [rows, columns] of [
          [1, 64],
          [5, 104],
          [3, 5120],
        ]) {
          const quantize = { dtype: codeDType, groupSize: columns };
          const x = matrix(rows, columns, random(rows * columns, 1));
          const residual = matrix(rows, columns, random(rows * columns, 2));
          const outputs = codesAndScales(rows, columns, codeDType);
          const norm = { eps: 1e-5, weightOffset: 0, quantize };
          const step = CODE_STEPS[codeDType];
          const gain = floats([columns], 3);
          for (const given of [
            { kind: 'none' } as const,
            wide([1], Float32Array.of(SMALL_SCALES[codeDType])),
          ]) {
            const alone = { ...norm, groupSize: columns };
            await check('rmsNormQuantize', alone, [x, gain, given], outputs, step);
            const inputs = [x, residual, gain, given];
            await check('addRmsNormQuantize', norm, inputs, [matrix(rows, columns), ...outputs], step);
            const both = matrix(rows, 2 * columns, random(2 * rows * columns, 4, 3));
            const attributes = { kind: 'silu', quantize };
            await check('gatedActivationQuantize', attributes, [both, given], outputs, step);
          }
        }
      });

      it('quantizedLinear by every kernel that fits', async () => {
        const sum = codeDType === 'int8' ? 0 : FLOAT8_SUM;
        const tolerance = Math.max(TOLERANCES[dtype], sum);
        for (const rows of NUM_ROWS)
          for (const [outputs, inputs] of [
            [40, 64],
            [17, 128],
            [257, 1152],
            [33, 48],
          ]) {
            const x = activations(rows, inputs, codeDType, inputs);
            const { attributes, operands } = weights(outputs, inputs, {
              dtype: codeDType,
              groupSize: inputs,
              hasZeros: false,
            });
            const bias = rows % 2 === 0 ? { kind: 'none' as const } : floats([outputs], 4);
            const all = { ...attributes, xGroupSize: inputs };
            const y = [matrix(rows, outputs)];
            await check('quantizedLinear', all, [...x, ...operands, bias], y, tolerance);
          }
      });

      it('gatedQuantizedLinear by every kernel that fits', async () => {
        for (const rows of NUM_ROWS)
          for (const [outputs, inputs] of [
            [48, 128],
            [272, 1152],
          ]) {
            const format = { dtype: codeDType, groupSize: inputs, hasZeros: false };
            const { attributes, operands } = weights(outputs, inputs, format);
            const bias = rows % 2 === 0 ? { kind: 'none' as const } : floats([outputs], 4);
            const all = { ...attributes, xGroupSize: inputs, kind: 'silu' };
            const x = activations(rows, inputs, codeDType, inputs);
            const y = [matrix(rows, outputs / 2)];
            const tolerance = Math.max(TOLERANCES[dtype], codeDType === 'int8' ? 0 : 3 * FLOAT8_SUM);
            await check('gatedQuantizedLinear', all, [...x, ...operands, bias], y, tolerance);
          }
      });

      it('quantizedLinear fused with what quantizes before it', async () => {
        for (const rows of [1, 2])
          for (const [outputs, inputs] of [
            [40, 128],
            [2200, 1152],
            [33, 4224],
          ]) {
            const format = { dtype: codeDType, groupSize: inputs, hasZeros: false };
            const { attributes, operands } = weights(outputs, inputs, format);
            const product = { ...attributes, xGroupSize: inputs };
            const quantize = { dtype: codeDType, groupSize: inputs };
            const x = matrix(rows, inputs, random(rows * inputs, 1));
            const residual = matrix(rows, inputs, random(rows * inputs, 2));
            const both = matrix(rows, 2 * inputs, random(2 * rows * inputs, 4, 3));
            const gain = floats([inputs], 3);
            const made = codesAndScales(rows, inputs, codeDType);
            const y = matrix(rows, outputs);
            const norm = { eps: 1e-5, weightOffset: 0, quantize };
            const step = CODE_STEPS[codeDType];
            const after = { source: norm, product };
            const alone = { source: { ...norm, groupSize: inputs }, product };
            const gated = { source: { kind: 'silu', quantize }, product };
            const normed = [...made, y];
            await check('rmsNormQuantizeQuantizedLinear', alone, [x, gain, ...operands], normed, step);
            const added = [matrix(rows, inputs), ...made, y];
            const addInputs = [x, residual, gain, ...operands];
            await check('addRmsNormQuantizeQuantizedLinear', after, addInputs, added, step);
            await check('gatedActivationQuantizeQuantizedLinear', gated, [both, ...operands], normed, step);
          }
      });

      it('quantizedLinear in groups, and on views that are not aligned', async () => {
        const format = { dtype: codeDType, groupSize: 32, hasZeros: false };
        const { attributes, operands } = weights(24, 128, format);
        const none: HarnessOperand = { kind: 'none' };
        for (const [xGroupSize, view] of [
          [64, {}],
          [128, { columnStart: 3, rowStride: 133 }],
        ] as const) {
          const x = activations(5, 128, codeDType, xGroupSize, view);
          const y = matrix(5, 24, undefined, { columnStart: 1 });
          await check('quantizedLinear', { ...attributes, xGroupSize }, [...x, ...operands, none], [y]);
        }
      });

      it('quantizedGroupedLinear', async () => {
        const [numMatrices, matricesPerToken, outputs, inputs] = [4, 2, 19, 72];
        const format = { dtype: codeDType, groupSize: inputs, hasZeros: false };
        const { attributes, operands } = weights(numMatrices * outputs, inputs, format);
        const ids = matrix(3, 2, Int32Array.of(0, 3, 2, 1, 3, 2));
        for (const columns of [inputs, 2 * inputs]) {
          const x = activations(3, columns, codeDType, inputs);
          const all = { ...attributes, xGroupSize: inputs, numMatrices, matricesPerToken };
          const rest = [...operands, ids, floats([numMatrices, outputs], 5)];
          await check('quantizedGroupedLinear', all, [...x, ...rest], [matrix(3, 2 * outputs)]);
        }
      });
    });

    it.each([
      ['int8', null, false],
      ['float8_e4m3fn', null, false],
      ['int8', 64, false],
      ['uint4', 128, true],
      ['uint4', 128, false],
      ['uint4', 32, true],
    ] as const)('weightOnlyLinear of %s in groups of %s, zeros: %s', async (codeDType, size, hasZeros) => {
      for (const rows of NUM_ROWS)
        for (const [outputs, inputs] of [
          [40, 128],
          [17, 384],
          [257, 1280],
          ...(size === null ? [[33, codeDType === 'int8' ? 7 : 40]] : []),
        ]) {
          const x = matrix(rows, inputs, random(rows * inputs, 1));
          const format = { dtype: codeDType, groupSize: size ?? inputs, hasZeros };
          const { attributes, operands } = weights(outputs, inputs, format);
          const bias = rows % 2 === 0 ? { kind: 'none' as const } : floats([outputs], 4);
          await check('weightOnlyLinear', attributes, [x, ...operands, bias], [matrix(rows, outputs)]);
        }
    });

    it.each([
      ['int8', null, false],
      ['float8_e4m3fn', null, false],
      ['int8', 64, false],
      ['uint4', 128, true],
      ['uint4', 256, false],
    ] as const)(
      'weightOnlyLinear of %s in groups of %s, zeros: %s, fused',
      async (codeDType, size, hasZeros) => {
        for (const rows of [1, 2])
          for (const [outputs, inputs] of [
            [40, 256],
            [17, 768],
            [2200, 4352],
          ]) {
            const format = { dtype: codeDType, groupSize: size ?? inputs, hasZeros };
            const { attributes: product, operands } = weights(outputs, inputs, format);
            const x = matrix(rows, inputs, random(rows * inputs, 1));
            const residual = matrix(rows, inputs, random(rows * inputs, 2));
            const both = matrix(rows, 2 * inputs, random(2 * rows * inputs, 4, 3));
            const inputsOf = [x, residual, floats([inputs], 3), ...operands, floats([outputs], 5)];
            const source = { eps: 1e-5, weightOffset: 0 };
            const outputsOf = [matrix(rows, inputs), matrix(rows, inputs), matrix(rows, outputs)];
            await check('addRmsNormWeightOnlyLinear', { source, product }, inputsOf, outputsOf);
            const gated = { source: { kind: 'silu' }, product };
            await check('gatedActivationWeightOnlyLinear', gated, [both, ...operands], outputsOf.slice(1));
          }
      },
    );

    it.each(['int8', 'uint4'] as const)('weightOnlyGroupedLinear of %s', async (codeDType) => {
      const [numMatrices, matricesPerToken, outputs, inputs] = [3, 3, 21, 64];
      const format = { dtype: codeDType, groupSize: 32, hasZeros: codeDType === 'uint4' };
      const { attributes, operands } = weights(numMatrices * outputs, inputs, format);
      const none: HarnessOperand = { kind: 'none' };
      const x = matrix(4, inputs, random(4 * inputs, 1));
      const all = { ...attributes, numMatrices, matricesPerToken };
      const inputsOf = [x, ...operands, none, none];
      await check('weightOnlyGroupedLinear', all, inputsOf, [matrix(4, 3 * outputs)]);
    });
  });
});
