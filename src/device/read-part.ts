// Reads the tensor that a part of a weight is cut from, and holds it against what the plan was compiled for.
import type { WeightSpec } from '../compiler/plan.ts';
import type { WeightPart } from '../ir/graph.ts';
import { isFloatDType, itemSize } from '../tensor/dtype.ts';
import { formatShape, shapesEqual } from '../tensor/shape.ts';
import type { TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';

/** Throws `bad_checkpoint` for a tensor that is missing, of another type or shape, or not as long as it says. */
export function readPart(
  part: WeightPart,
  { dtype, quantization }: WeightSpec,
  source: TensorSource,
): TensorView {
  const view = source.read(part.tensor);
  const numElements = part.tensorShape.reduce((product, size) => product * size, 1);
  const wantsFloats = isFloatDType(dtype) || quantization?.origin === 'quantize';
  const isRight = wantsFloats ? isFloatDType(view.dtype) : view.dtype === dtype;
  const { byteLength } = view.file ?? view.bytes;
  const isWhole = byteLength === numElements * itemSize(view.dtype);
  if (isRight && isWhole && shapesEqual(view.shape, part.tensorShape)) return view;
  throw new NeedletailError(
    'bad_checkpoint',
    `tensor ${part.tensor} is ${view.dtype} ${formatShape(view.shape)} in ${byteLength} bytes, ` +
      `but the plan was compiled for ${wantsFloats ? 'floats' : dtype} ${formatShape(part.tensorShape)}`,
  );
}
