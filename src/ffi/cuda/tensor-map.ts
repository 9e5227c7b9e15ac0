// What Hopper's copy engine is told of a matrix: its dimensions, and the boxes of it that it moves.

export const TENSOR_MAP_BYTES = 128;
/** Values of `cuTensorMapEncodeTiled`'s enumerations. */
export const TENSOR_MAP = {
  unsigned8: 0,
  unsigned16: 1,
  plain: 0,
  swizzle128: 3,
  fillZeros: 0,
} as const;
const SWIZZLED_BYTES = 128;

/**
 * A row-major matrix of 1- or 2-byte items, and the boxes of it that the copy engine moves: `boxRows` rows of 128 bytes, or
 * `boxAtoms` times so many, one after the other.
 */
export interface TensorMapOptions {
  readonly address: number;
  readonly itemBytes: number;
  readonly rows: number;
  readonly columns: number;
  readonly rowBytes: number;
  readonly boxRows: number;
  /**
   * The rows stack so many matrices, of each of which come eight rows of the first half, then eight of the second; boxes count
   * dimensions [bytes, 8, 2, groups, matrices].
   */
  readonly interleavedMatrices?: number;
  readonly boxAtoms?: number;
}

/** Dimensions of a tensor map, the innermost first. */
export interface Boxes {
  readonly sizes: readonly number[];
  /** Bytes, of all dimensions but the first. */
  readonly strides: readonly number[];
  readonly box: readonly number[];
}

export function boxesOf(options: TensorMapOptions): Boxes {
  const { interleavedMatrices, boxAtoms } = options;
  const boxes =
    interleavedMatrices === undefined ? plainBoxes(options) : interleavedBoxes(options, interleavedMatrices);
  return boxAtoms === undefined ? boxes : severalAtoms(boxes, options, boxAtoms);
}

/**
 * The boxes cut into columns of 128 bytes, which are their last dimension: of five at most, so matrices that are interleaved are
 * one then.
 */
function severalAtoms(
  { sizes, strides, box }: Boxes,
  { itemBytes, columns }: TensorMapOptions,
  boxAtoms: number,
): Boxes {
  const atom = SWIZZLED_BYTES / itemBytes;
  return {
    sizes: [atom, ...sizes.slice(1, 4), Math.ceil(columns / atom)],
    strides: [...strides.slice(0, 3), SWIZZLED_BYTES],
    box: [...box.slice(0, 4), boxAtoms],
  };
}

function plainBoxes({ itemBytes, rows, columns, rowBytes, boxRows }: TensorMapOptions): Boxes {
  return { sizes: [columns, rows], strides: [rowBytes], box: [SWIZZLED_BYTES / itemBytes, boxRows] };
}

function interleavedBoxes(
  { itemBytes, rows, columns, rowBytes, boxRows }: TensorMapOptions,
  numMatrices: number,
): Boxes {
  const matrixRows = rows / numMatrices;
  return {
    sizes: [columns, 8, 2, matrixRows / 16, numMatrices],
    strides: [rowBytes, (matrixRows / 2) * rowBytes, 8 * rowBytes, matrixRows * rowBytes],
    box: [SWIZZLED_BYTES / itemBytes, 8, 2, boxRows / 16, 1],
  };
}
