// The kernels that make a part of a weight out of its tensor, as the checkpoint stores it, on the GPU.
import type { WeightSpec } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { WeightPart } from '../../ir/graph.ts';
import { cudaType, int, pointer, type KernelLaunch, type Parameter } from '../../kernels/cuda/cuda-kernel.ts';
import { itemSize, type DType } from '../../tensor/dtype.ts';
import { asMatrix } from '../../tensor/shape.ts';

const THREADS = 256;
const GROUPS_PER_BLOCK = THREADS / 32;
const TILE = 32;

/** A part with its tensor on the device, and where its rows go. */
export interface PlacedPart {
  readonly part: WeightPart;
  /** Where the tensor's first element would be: rows that the part is not cut from are not there. */
  readonly tensor: Address;
  /** The tensor's type. */
  readonly from: DType;
  readonly weight: WeightSpec;
  readonly target: Address;
}

/** A kernel that packs. */
export type Launch = Omit<KernelLaunch, 'kind' | 'sharedBytes'>;

/** Cuts, transposes and converts; brings `uint4` codes into their layout. */
export function packingLaunch(placed: PlacedPart): Launch {
  const { part, from, weight, target } = placed;
  const { rowCount, columnCount } = part;
  if (weight.dtype === 'uint4') return nibblesLaunch(placed);
  const { address, rowStep, columnStep } = elementsOf(placed);
  const name = (dtype: DType): string => (itemSize(dtype) === 1 ? 'u8' : cudaType(dtype));
  return {
    source: 'pack-weight.cu',
    entry: 'pack_weight',
    defines: { SOURCE: name(from), TARGET: name(weight.dtype) },
    block: THREADS,
    grid: () => [Math.ceil(rowCount / TILE), Math.ceil(columnCount / TILE), 1],
    parameters: [
      pointer(address),
      pointer(target),
      { int64: rowStep },
      { int64: columnStep },
      int(rowCount),
      int(columnCount),
    ],
  };
}

/** Scales, then the codes under them; groups without a finite scale are counted at `numBad`. */
export function quantizingLaunches(placed: PlacedPart, scales: Address, numBad: Address): readonly Launch[] {
  const { part, from, weight, target } = placed;
  const { rowCount, columnCount } = part;
  const { format } = weight.quantization!;
  const groupSize = format.groupSize ?? columnCount;
  const { address, rowStep, columnStep } = elementsOf(placed);
  const shared: readonly Parameter[] = [
    pointer(address),
    { int64: rowStep },
    { int64: columnStep },
    int(rowCount),
    int(columnCount),
    int(groupSize),
    pointer(scales),
  ];
  const numGroups = rowCount * (columnCount / groupSize);
  const numBytes = rowCount * columnCount * itemSize(weight.dtype);
  const common = {
    source: 'quantize-weight.cu',
    defines: {
      SOURCE: cudaType(from),
      CODES: cudaType(format.dtype),
      HAS_ZEROS: format.hasZeros ? 1 : 0,
    },
    block: THREADS,
  };
  return [
    {
      ...common,
      entry: 'weight_scales',
      grid: () => [Math.ceil(numGroups / GROUPS_PER_BLOCK), 1, 1],
      parameters: [...shared, pointer(numBad)],
    },
    {
      ...common,
      entry: 'weight_codes',
      grid: () => [Math.ceil(numBytes / THREADS), 1, 1],
      parameters: [...shared, pointer(target)],
    },
  ];
}

function nibblesLaunch({ part, tensor, target }: PlacedPart): Launch {
  const { rowStart, rowCount, rowStep, columnStart, columnCount, transpose } = part;
  if (transpose) throw new Error('codes of 4 bits are not transposed on the GPU');
  const [, stride] = asMatrix(part.tensorShape);
  return {
    source: 'pack-nibbles.cu',
    entry: 'pack_nibbles',
    defines: {},
    block: THREADS,
    grid: () => [Math.ceil((rowCount * columnCount) / 8 / THREADS), 1, 1],
    parameters: [
      pointer(tensor),
      pointer(target),
      { int64: rowStart * stride + columnStart },
      { int64: rowStep * stride },
      int(rowCount),
      int(columnCount),
    ],
  };
}

/** Where the part's first element lies, and elements from a row to the next, and from a column. */
function elementsOf({ part, tensor, from }: PlacedPart): {
  address: Address;
  rowStep: number;
  columnStep: number;
} {
  const [, stride] = asMatrix(part.tensorShape);
  const [row, columnStep] = part.transpose ? [1, stride] : [stride, 1];
  const first = part.rowStart * row + part.columnStart * columnStep;
  return { address: tensor + first * itemSize(from), rowStep: row * part.rowStep, columnStep };
}
