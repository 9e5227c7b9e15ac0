// Launch descriptions of the products with weights of codes, plain and grouped.
import type { CodeDType } from '../../tensor/dtype.ts';
import type { KernelQuery } from '../kernel.ts';
import { int, type CpuKernelDescription, type LaunchAttributes, type Parameter } from './cpu-kernel.ts';

/** Words of a packed row's factors for each run of columns that share their scales. */
const FACTOR_WORDS = 3;
/** Sums of more products of codes may not fit into 32 bits. */
const MAX_CHUNK_COLUMNS = 65536;

interface ProductAttributes {
  readonly weightDType: CodeDType;
  readonly groupSize: number;
  readonly hasZeros: boolean;
  /** Absent: activations are floats. */
  readonly xGroupSize?: number;
}

const KERNEL_SUFFIX: Readonly<Record<CodeDType, string>> = {
  int8: 'int8',
  uint4: 'uint4',
  float8_e4m3fn: 'fp8',
};

function attributesOf({ attributes }: KernelQuery): ProductAttributes {
  return attributes as unknown as ProductAttributes;
}

/** Columns that a word of a weight holds. */
function wordColumns({ weightDType }: ProductAttributes): number {
  return weightDType === 'uint4' ? 8 : 4;
}

/** Columns that share all scales. */
function chunkColumns({ groupSize, xGroupSize = groupSize }: ProductAttributes): number {
  return Math.min(greatestCommonDivisor(groupSize, xGroupSize), MAX_CHUNK_COLUMNS);
}

function greatestCommonDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestCommonDivisor(b, a % b);
}

/** Columns of activations that a packed 32-bit word holds. */
function packedColumns({ weightDType, xGroupSize }: ProductAttributes, arch: string): number {
  if (xGroupSize === undefined || weightDType === 'float8_e4m3fn') return 1;
  return arch === 'avx512' || arch === 'x86-64-v3' ? 2 : 4;
}

function lacks(query: KernelQuery): string | null {
  const attributes = attributesOf(query);
  const chunk = chunkColumns(attributes);
  const isWholeRow = chunk === query.weightColumns;
  if (isWholeRow || chunk % wordColumns(attributes) === 0) return null;
  return `scales of ${chunk} columns of ${attributes.weightDType}, no multiple of ${wordColumns(attributes)}`;
}

/** Packed rows, each with its factors. */
function packedBytes(query: KernelQuery, maxRows: number): number {
  const attributes = attributesOf(query);
  const columns = Math.ceil(query.weightColumns / wordColumns(attributes)) * wordColumns(attributes);
  const numChunks = Math.ceil(query.weightColumns / chunkColumns(attributes));
  return maxRows * 4 * (columns / packedColumns(attributes, query.arch) + FACTOR_WORDS * numChunks);
}

function productParameters({ groupSize, hasZeros, xGroupSize }: LaunchAttributes): readonly Parameter[] {
  return [int(groupSize), int(hasZeros), int(xGroupSize ?? 0)];
}

function product(op: string, kernel: string): CpuKernelDescription {
  return {
    op,
    lacks,
    weightLayout: () => 'panel16words',
    scalesLayout: () => 'panel16',
    variants: (query) => [
      { kernel: `${kernel}_${KERNEL_SUFFIX[attributesOf(query).weightDType]}`, maxRows: null },
    ],
    workspaceBytes: (query) => packedBytes(query, query.maxRows),
    encode: (attributes) => ({ values: productParameters(attributes) }),
  };
}

/** As a plain product, on rows sorted by the matrix that they go through. */
function groupedProduct(op: string, kernel: string): CpuKernelDescription {
  return {
    ...product(op, kernel),
    /** The packed rows, one for each matrix of each token, then their order, and where each matrix's begin. */
    workspaceBytes(query) {
      const { numMatrices, matricesPerToken } = query.attributes as {
        numMatrices: number;
        matricesPerToken: number;
      };
      const maxRows = query.maxRows * matricesPerToken;
      return packedBytes(query, maxRows) + 4 * (maxRows + numMatrices + 1);
    },
    encode: (attributes) => ({
      values: [
        int(attributes['numMatrices']),
        int(attributes['matricesPerToken']),
        ...productParameters(attributes),
      ],
    }),
  };
}

export const weightOnlyLinear = product('weightOnlyLinear', 'weight_only_linear');
export const quantizedLinear = product('quantizedLinear', 'quantized_linear');
export const weightOnlyGroupedLinear = groupedProduct(
  'weightOnlyGroupedLinear',
  'weight_only_grouped_linear',
);
export const quantizedGroupedLinear = groupedProduct('quantizedGroupedLinear', 'quantized_grouped_linear');
