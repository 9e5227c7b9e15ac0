// A kernel's view of a matrix as dimensions and boxes for the copy engine: rows of 128 bytes, halves interleaved, several atoms.
import type { TensorMapLayout } from '../../ffi/cuda/tensor-map.ts';
import type { TensorMap } from '../../kernels/cuda/cuda-kernel.ts';

const SWIZZLED_BYTES = 128;

type Boxes = Pick<TensorMapLayout, 'sizes' | 'strides' | 'box'>;

export function layoutOf(map: TensorMap): TensorMapLayout {
  const { address, itemBytes, interleavedMatrices, boxAtoms } = map;
  const boxes =
    interleavedMatrices === undefined ? plainBoxes(map) : interleavedBoxes(map, interleavedMatrices);
  return { address, itemBytes, ...(boxAtoms === undefined ? boxes : severalAtoms(boxes, map, boxAtoms)) };
}

/**
 * The boxes cut into columns of 128 bytes, which are their last dimension: of five at most, so matrices that are interleaved are
 * one then.
 */
function severalAtoms(
  { sizes, strides, box }: Boxes,
  { itemBytes, columns }: TensorMap,
  boxAtoms: number,
): Boxes {
  const atom = SWIZZLED_BYTES / itemBytes;
  return {
    sizes: [atom, ...sizes.slice(1, 4), Math.ceil(columns / atom)],
    strides: [...strides.slice(0, 3), SWIZZLED_BYTES],
    box: [...box.slice(0, 4), boxAtoms],
  };
}

function plainBoxes({ itemBytes, rows, columns, rowBytes, boxRows }: TensorMap): Boxes {
  return { sizes: [columns, rows], strides: [rowBytes], box: [SWIZZLED_BYTES / itemBytes, boxRows] };
}

function interleavedBoxes(
  { itemBytes, rows, columns, rowBytes, boxRows }: TensorMap,
  numMatrices: number,
): Boxes {
  const matrixRows = rows / numMatrices;
  return {
    sizes: [columns, 8, 2, matrixRows / 16, numMatrices],
    strides: [rowBytes, (matrixRows / 2) * rowBytes, 8 * rowBytes, matrixRows * rowBytes],
    box: [SWIZZLED_BYTES / itemBytes, 8, 2, boxRows / 16, 1],
  };
}
