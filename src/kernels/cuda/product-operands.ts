// The operands of a product's launch, alone or fused with what reads its result, by what they are.
import { matrixOf, optionalMatrix, type CudaLaunch, type ProductOperands } from './cuda-kernel.ts';

/** As the op's attributes tell. */
export function productOperands({ inputs, outputs, attributes }: CudaLaunch): ProductOperands {
  const operands = inputs.values();
  const next = () => matrixOf(operands.next().value);
  const nextIf = (isThere: boolean) => (isThere ? next() : null);
  return {
    x: next(),
    xScales: nextIf('xGroupSize' in attributes),
    weight: next(),
    scales: nextIf('groupSize' in attributes),
    yScales: 'quantize' in attributes ? { calibrated: next(), ofRows: matrixOf(outputs[1]) } : null,
    bias: optionalMatrix(operands.next().value),
    y: matrixOf(outputs[0]),
    gate: 'kind' in attributes ? String(attributes['kind']) : null,
  };
}
