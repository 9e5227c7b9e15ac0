// Launch descriptions of grouped products, of numbers and of codes, alone or with the gatedActivation after them: weights streamed for
// few rows of each matrix, Hopper's products for many, and plain kernels for shapes and types that neither takes.
import { itemSize, type DType } from '../../tensor/dtype.ts';
import type { KernelQuery, KernelVariant } from '../kernel.ts';
import {
  cudaType,
  hasAlignedRows,
  int,
  matrixOf,
  optionalMatrix,
  pointer,
  rowCount,
  singleKernel,
  vectorWidth,
  view,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type CudaOperand,
  type KernelLaunch,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import {
  columnsPerSlot,
  gatherRows,
  groupBytes,
  groupRows,
  idsView,
  maxTiles,
  rowGroups,
  type GroupedOperands,
} from './group-rows.ts';
import { groupedStream, groupedStreamVariants, isGroupedStream, LISTED_VARIANT } from './grouped-stream.ts';
import { hasWgmma, isWgmma, tileTokens, wgmma } from './linear-wgmma.ts';
import { codesLayout, lacksCodes, plainParameters, types } from './quantized-linear.ts';

interface Grouping {
  readonly numMatrices: number;
  readonly matricesPerToken: number;
}

/** Hopper's tiles, by the mean of the matrices' rows up to which each is taken. */
const WGMMA_MEANS = { wgmma128: 96, wgmma256: Infinity } as const;
const PLAIN: KernelVariant = { kernel: 'plain', maxRows: null };
/** Of a single token no two rows share a matrix: there is nothing to gather. */
const PLAIN_ROW: KernelVariant = { ...PLAIN, maxRows: 1 };

export const groupedLinear: CudaKernelDescription = {
  ...singleKernel('groupedLinear', (launch) => {
    const [x, weight, ids, bias] = launch.inputs;
    return product(launch, { x, weight, ids, bias });
  }),
  variants: (query) =>
    query.weightDType === query.activationDType ? variantsOf(query, query.weightDType, true) : [PLAIN],
  workspaceBytes: (query) => workspaceBytes(groupedLinear, query, query.activationDType),
};

export const weightOnlyGroupedLinear: CudaKernelDescription = {
  ...singleKernel('weightOnlyGroupedLinear', (launch) => {
    const [x, weight, scales, ids, bias] = launch.inputs;
    return product(launch, { x, weight, scales, ids, bias });
  }),
  weightLayout: codesLayout,
  lacks: lacksCodes,
  variants: (query) => (isScaledByRow(query) ? variantsOf(query, query.weightFormat!.dtype, true) : [PLAIN]),
  workspaceBytes: (query) => workspaceBytes(weightOnlyGroupedLinear, query, query.activationDType),
};

export const quantizedGroupedLinear: CudaKernelDescription = {
  ...singleKernel('quantizedGroupedLinear', (launch) => {
    const [x, xScales, weight, scales, ids, bias] = launch.inputs;
    return product(launch, { x, xScales, weight, scales, ids, bias });
  }),
  weightLayout: codesLayout,
  lacks: lacksCodes,
  variants: (query) => {
    const isPerRow = isScaledByRow(query) && query.attributes['xGroupSize'] === query.weightColumns;
    return isPerRow ? variantsOf(query, query.weightFormat!.dtype, false) : [PLAIN];
  },
  workspaceBytes: (query) => workspaceBytes(quantizedGroupedLinear, query, query.weightFormat!.dtype),
};

export const gatedGroupedLinear = gated('gatedGroupedLinear', groupedLinear);
export const gatedWeightOnlyGroupedLinear = gated('gatedWeightOnlyGroupedLinear', weightOnlyGroupedLinear);
export const gatedQuantizedGroupedLinear = gated('gatedQuantizedGroupedLinear', quantizedGroupedLinear);

function gated(op: string, description: CudaKernelDescription): CudaKernelDescription {
  return {
    ...description,
    op,
    // Hopper's tiles have eight rows of either half in turn.
    isWanted: ({ weightRows, attributes }) => (weightRows / Number(attributes['numMatrices'])) % 16 === 0,
  };
}

function isScaledByRow({ weightFormat, weightColumns, attributes }: KernelQuery): boolean {
  const { dtype, hasZeros } = weightFormat!;
  return dtype !== 'uint4' && !hasZeros && attributes['groupSize'] === weightColumns;
}

/** `isOfNumbers`: x is of numbers of 16 bits or more, not of codes. */
function variantsOf(query: KernelQuery, weightDType: DType, isOfNumbers: boolean): readonly KernelVariant[] {
  const { activationDType, weightColumns, attributes, batchInvariant } = query;
  const { numMatrices, matricesPerToken: slots } = attributes as unknown as Grouping;
  const canTile = (weightColumns * itemSize(weightDType)) % 16 === 0;
  const isFloat32 = isOfNumbers && activationDType === 'float32';
  if (batchInvariant || !canTile || isFloat32) return [PLAIN];
  const isOfWeightType = !isOfNumbers || itemSize(weightDType) === 2;
  const ofRow = isOfNumbers && isOfWeightType ? [PLAIN_ROW] : [];
  const streams = isOfNumbers ? groupedStreamVariants(numMatrices, slots) : [];
  if (!hasWgmma(query) || !isOfWeightType)
    return isOfNumbers ? [...ofRow, ...streams, LISTED_VARIANT] : [PLAIN];
  // Of more rows, weights arrive as fast through Hopper's products.
  const few = streams.slice(0, 1).map(({ kernel }) => ({ kernel, maxRows: Math.floor(numMatrices / slots) }));
  return [...ofRow, ...few.filter(({ maxRows }) => maxRows > 1), ...wgmmaVariants(numMatrices / slots)];
}

/** `share`: tokens for each row of a matrix. */
function wgmmaVariants(share: number): readonly KernelVariant[] {
  return Object.entries(WGMMA_MEANS).map(([kernel, mean]) => ({
    kernel,
    maxRows: mean === Infinity ? null : Math.floor(mean * share),
  }));
}

function workspaceBytes(description: CudaKernelDescription, query: KernelQuery, xDType: DType): number {
  const { numMatrices, matricesPerToken: slots } = query.attributes as unknown as Grouping;
  const { kernel } = description.variants(query).at(-1)!;
  if (kernel === PLAIN.kernel) return 0;
  const rowBytes = isWgmma(kernel) ? query.weightColumns * itemSize(xDType) : 0;
  return groupBytes(query.maxRows * slots, numMatrices, rowBytes);
}

interface GivenOperands {
  readonly x: CudaOperand;
  readonly xScales?: CudaOperand;
  readonly weight: CudaOperand;
  readonly scales?: CudaOperand;
  readonly ids?: CudaOperand | undefined;
  readonly bias?: CudaOperand | undefined;
}

/** The plain kernels do what views make too crooked for the others. */
function product(launch: CudaLaunch, given: GivenOperands): readonly PreparedLaunch[] {
  const { numMatrices, matricesPerToken: slots } = launch.attributes as unknown as Grouping;
  const operands: GroupedOperands = {
    x: matrixOf(given.x),
    xScales: optionalMatrix(given.xScales),
    weight: matrixOf(given.weight),
    scales: optionalMatrix(given.scales),
    ids: optionalMatrix(given.ids),
    bias: optionalMatrix(given.bias),
    y: matrixOf(launch.outputs[0]),
    yScales: null,
    gate: (launch.attributes['kind'] as string | undefined) ?? null,
    numMatrices,
    slots,
  };
  const isStraight = hasAlignedRows(operands.x) && operands.y.rowStride === operands.y.columns;
  if (isStraight && isGroupedStream(launch.kernel)) return groupedStream(launch, operands);
  if (isStraight && isWgmma(launch.kernel)) return hopper(launch, operands);
  return [operands.scales ? plainOfCodes(launch, operands, operands.scales) : plain(launch, operands)];
}

/** Rows listed by matrix and gathered, then multiplied tile by tile. */
function hopper(launch: CudaLaunch, operands: GroupedOperands): readonly PreparedLaunch[] {
  const { weight, scales, bias, y, gate, numMatrices, slots } = operands;
  const tileRows = tileTokens(launch.kernel);
  const outputs = weight.rows / numMatrices / (gate === null ? 1 : 2);
  const { x, xScales, launch: gather } = gatherRows(launch, operands, tileRows);
  const grouped = {
    ...{ x, xScales, weight, scales, bias, gate, yScales: null },
    y: { ...y, rows: y.rows * slots, columns: outputs, rowStride: outputs },
    groups: {
      ...rowGroups(launch, operands),
      numMatrices,
      maxTiles: (numTokens: number) => maxTiles(numTokens * slots, numMatrices, tileRows),
    },
  };
  return [groupRows(launch, operands, tileRows), gather, wgmma(launch, grouped)];
}

function plain(launch: CudaLaunch, operands: GroupedOperands): KernelLaunch {
  const { x, weight, bias, y, gate, slots } = operands;
  const [inputs, outputs] = [weight.columns, y.columns / slots];
  return {
    kind: 'kernel',
    source: 'experts.cu',
    entry: 'grouped_linear',
    defines: {
      X: cudaType(x.dtype),
      W: cudaType(weight.dtype),
      VEC: vectorWidth(inputs, [x, weight]),
      ...(gate === null ? {} : { GATE: gate }),
    },
    block: 256,
    sharedBytes: 0,
    overlaps: true,
    grid: (counts) => [counts[launch.rows] * slots, Math.ceil(outputs / 8), 1],
    parameters: [
      rowCount(launch),
      ...view(x),
      pointer(weight.address),
      ...idsView(operands),
      pointer(bias?.address ?? 0),
      ...view(y),
      ...[slots, inputs, outputs, columnsPerSlot(operands)].map(int),
    ],
  };
}

function plainOfCodes(launch: CudaLaunch, operands: GroupedOperands, scales: CudaMatrix): KernelLaunch {
  const { y, gate, slots } = operands;
  const outputs = y.columns / slots;
  return {
    kind: 'kernel',
    source: 'quantized-tiled.cu',
    entry: 'quantized_grouped',
    defines: { ...types({ ...operands, scales }), ...(gate === null ? {} : { GATE: gate }) },
    block: 256,
    sharedBytes: 0,
    grid: (counts) => [counts[launch.rows] * slots, Math.ceil(outputs / 8), 1],
    parameters: [
      ...plainParameters(launch, { ...operands, scales }, outputs),
      ...idsView(operands),
      ...[slots, columnsPerSlot(operands)].map(int),
    ],
  };
}
