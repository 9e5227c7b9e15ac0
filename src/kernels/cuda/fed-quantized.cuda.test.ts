// Products of codes with codes fused with what quantizes before them against their ops' definitions.
import { describe, it } from 'vitest';
import type { Attributes } from '../../ir/graph.ts';
import { matrix, type HarnessOperand, type Matrix } from '../../../test/support/cpu-harness.ts';
import { sourcesOf } from '../../../test/support/fed-operands.ts';
import { describeKernels, type KernelSuite } from '../../../test/support/kernel-suite.ts';
import {
  CODE_STEPS,
  codedRows,
  codesAndScales,
  givenScales,
  wide,
} from '../../../test/support/quantized-operands.ts';

/** Of x, under scales of its own and under some that are given, beside which a bias is. */
async function checkScaled(
  kernels: KernelSuite,
  op: string,
  attributes: Attributes,
  inputs: readonly HarnessOperand[],
  outputs: readonly Matrix[],
  tolerances: readonly number[],
): Promise<void> {
  await kernels.check(op, { ...attributes, numOptional: 0 }, inputs, outputs, tolerances);
  const given = wide([2], Float32Array.of(0.002, 0.003));
  const bias = kernels.vector(biasLength(attributes, outputs), 5);
  for (const others of [[], [bias]])
    await kernels.check(
      op,
      { ...attributes, numOptional: 1 },
      [...inputs, ...others, given],
      outputs,
      tolerances,
    );
}

function biasLength({ product }: Attributes, outputs: readonly Matrix[]): number {
  const isQuantizing = 'quantize' in (product as Attributes);
  const { columns } = outputs.at(isQuantizing ? -2 : -1)!;
  return 'kind' in (product as Attributes) ? 2 * columns : columns;
}

describeKernels('quantized products fused with what is before them', (kernels) => {
  describe.each([1, 2])('%d rows', (rows) => {
    it.each(['int8', 'float8_e4m3fn'] as const)('quantizedLinear of %s', async (codes) => {
      for (const [outputs, inputs] of [
        [1, 128],
        [40, 128],
        [2200, 1152],
        [33, 4224],
      ]) {
        const { attributes, operands } = codedRows(outputs, inputs, codes);
        const product = { ...attributes, xGroupSize: inputs };
        const quantize = { dtype: codes, groupSize: inputs };
        const { x, residual, both, gain } = sourcesOf(kernels, rows, inputs);
        const norm = { eps: 1e-5, weightOffset: 0, quantize };
        const made = [...codesAndScales(rows, inputs, codes), matrix(rows, outputs)];
        const step = CODE_STEPS[codes];
        // Codes, scales and the product, which has the codes' error.
        const tolerances = [step, kernels.tolerance, Math.max(step, kernels.tolerance)];
        const check = (op: string, source: Attributes, before: HarnessOperand[], outputs = made) =>
          checkScaled(kernels, op, { source, product }, [...before, ...operands], outputs, [
            ...outputs.slice(made.length).map(() => kernels.tolerance),
            ...tolerances,
          ]);
        const after = [matrix(rows, inputs), ...made];
        await check('rmsNormQuantizeQuantizedLinear', { ...norm, groupSize: inputs }, [x, gain]);
        await check('addRmsNormQuantizeQuantizedLinear', norm, [x, residual, gain], after);
        await check('gatedActivationQuantizeQuantizedLinear', { kind: 'silu', quantize }, [both]);
        await check('quantizeQuantizedLinear', quantize, [x]);
      }
    });

    it.each(['int8', 'float8_e4m3fn'] as const)('gatedQuantizedLinear of %s', async (codes) => {
      // Few results have no large ones among them.
      for (const [outputs, inputs, size] of [
        [8, 128, 16],
        [1064, 1152, 1152],
      ]) {
        const { attributes, operands } = codedRows(2 * outputs, inputs, codes);
        const product = { ...attributes, xGroupSize: inputs, kind: 'silu' };
        const source = { eps: 1e-5, weightOffset: 0, quantize: { dtype: codes, groupSize: inputs } };
        const { x, residual, gain } = sourcesOf(kernels, rows, inputs);
        const made = [...codesAndScales(rows, inputs, codes), matrix(rows, outputs)];
        const step = CODE_STEPS[codes];
        // Either half has the codes' error.
        const tolerances = [
          kernels.tolerance,
          step,
          kernels.tolerance,
          3 * Math.max(step, kernels.tolerance),
        ];
        const op = 'addRmsNormQuantizeGatedQuantizedLinear';
        const after = [x, residual, gain, ...operands];
        const sum = matrix(rows, inputs);
        await checkScaled(kernels, op, { source, product }, after, [sum, ...made], tolerances);
        const quantizing = { ...product, quantize: { dtype: codes, groupSize: outputs } };
        const given = wide([2], givenScales(codes, size));
        const all = [sum, ...made.slice(0, -1), ...codesAndScales(rows, outputs, codes)];
        const ofCodes = [...tolerances.slice(0, -1), 2 * step + tolerances.at(-1)!, 0];
        const attributesOf = { source, product: quantizing };
        await checkScaled(kernels, `${op}Quantize`, attributesOf, [...after, given], all, ofCodes);
      }
    });
  });
});
