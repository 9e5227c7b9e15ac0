// Launch description of products of one row, for linear, weightOnlyLinear and quantizedLinear alike, with the op that makes the
// row before them.
import { isCodeDType, itemSize, type DType } from '../../tensor/dtype.ts';
import type { KernelQuery, KernelVariant } from '../kernel.ts';
import {
  byteMap,
  calibratedScales,
  COPY_ENGINE_CAPABILITY,
  cudaType,
  float,
  int,
  pointer,
  type CudaLaunch,
  type CudaMatrix,
  type Defines,
  type KernelLaunch,
  type Parameter,
  type ProductOperands,
} from './cuda-kernel.ts';

/** What makes x, unless it is there already. */
export type RowSource =
  | {
      readonly kind: 'norm';
      readonly x: CudaMatrix;
      /** What is added to x before, and where the sum goes. */
      readonly added: { readonly residual: CudaMatrix; readonly sum: CudaMatrix } | null;
      readonly weight: CudaMatrix;
      readonly eps: number;
      readonly weightOffset: number;
    }
  | { readonly kind: 'gatedActivation'; readonly x: CudaMatrix; readonly activation: string }
  /** Numbers as they are, to be rounded to codes. */
  | { readonly kind: 'copy'; readonly x: CudaMatrix };

/** With a source, x is written. A gate is Hopper's. */
export interface RowOperands extends ProductOperands {
  readonly source: RowSource | null;
  /** Scales known beforehand, if it is to be codes. */
  readonly calibrated: CudaMatrix | null;
}

/** How weights are scaled: by the whole row if `groupSize` is its length. */
interface Scaling {
  readonly groupSize: number;
  readonly hasZeros: boolean;
}

export const ROW_VARIANT: KernelVariant = { kernel: 'row', maxRows: 1 };

/** Times 128 bytes of each row in a stage of the ring. */
const STAGE_ATOMS = 8;
const ATOM_BYTES = 128;
const OUTPUTS = 16;
const WEIGHT_BOX = { boxRows: OUTPUTS, boxAtoms: STAGE_ATOMS } as const;
/** Warps that share a tile, and teams of so many: one keeps up with weights that are numbers. */
const MEMBERS = 8;
const MAX_TEAMS = 2;
/** Elements of x that a thread makes at a time. */
const PIECE = 8;
/** Of weights with several scales in a row, which are 4-bit ones with zeros: inputs that share a pair. */
const GROUP_SIZE = 128;
/** Of a block: one on each multiprocessor, with so many weights under way that memory is busy while a launch waits for another. */
const SHARED_BYTES = 200 * 1024;
/**
 * Of the ring's, that are on their way at once: enough to keep memory busy, and no more, since all that others ask of memory
 * waits behind them. 16-bit weights leave the blocks less time to spare.
 */
const MAX_STAGES_IN_FLIGHT = { codes: 3, numbers: 4 } as const;
/** Of x: what leaves the smallest chips a ring of two stages. */
const MAX_X_BYTES = 58 * 1024;

/** Whether the kernel takes a weight of numbers or codes `dtype` with so many columns. */
export function canRow({ weightColumns }: KernelQuery, dtype: DType, scaling: Scaling | null): boolean {
  const xBytes = (isMultipliedAsIntegers(dtype) ? 3 : 2) * weightColumns;
  if ((weightColumns * itemSize(dtype)) % ATOM_BYTES !== 0 || xBytes > MAX_X_BYTES) return false;
  if (dtype === 'uint4') return scaling !== null && scaling.hasZeros && scaling.groupSize === GROUP_SIZE;
  return scaling === null || (scaling.groupSize === weightColumns && !scaling.hasZeros);
}

export function row(launch: CudaLaunch, operands: RowOperands): KernelLaunch {
  const { source, calibrated, x, xScales, weight, scales, bias, y, yScales, gate } = operands;
  const isGrouped = weight.dtype === 'uint4';
  const stageBytes = OUTPUTS * ATOM_BYTES * (STAGE_ATOMS + (isGrouped ? 1 : 0));
  const numHalves = (2 * weight.columns * itemSize(weight.dtype)) / ATOM_BYTES;
  const besides = keptBytes(x.dtype, weight) + (isGrouped ? 4 * numHalves : 0);
  const room = Math.min(SHARED_BYTES, launch.gpu.maxSharedMemoryPerBlock - 4096);
  const numStages = Math.max(2, Math.floor((room - besides) / stageBytes));
  const teams = isCodeDType(weight.dtype) && numStages >= 2 * MAX_TEAMS ? MAX_TEAMS : 1;
  const stages = Math.floor(numStages / teams);
  const numTiles = Math.ceil(weight.rows / OUTPUTS);
  const gated = gate === null ? {} : { interleavedMatrices: 1 };
  const inFlight = MAX_STAGES_IN_FLIGHT[isCodeDType(weight.dtype) ? 'codes' : 'numbers'];
  return {
    kind: 'kernel',
    source: 'linear-row.cu',
    entry: 'linear_row',
    defines: {
      X: cudaType(x.dtype),
      CODES: cudaType(weight.dtype),
      BIAS: cudaType(bias?.dtype ?? 'float32'),
      Y: cudaType(y.dtype),
      TEAMS: teams,
      STAGE_ATOMS,
      STAGES: stages,
      IN_FLIGHT: Math.min(stages, inFlight),
      GROUPED: isGrouped ? 1 : 0,
      ...(gate === null ? {} : { OUTPUT_GATE: gate }),
      ...sourceDefines(source, x),
    },
    block: 32 * (teams * MEMBERS + 1),
    sharedBytes: teams * stages * stageBytes + besides,
    overlaps: true,
    grid: (counts) => [
      counts[launch.rows] === 0 ? 0 : Math.min(numTiles, launch.gpu.numMultiprocessors),
      1,
      1,
    ],
    parameters: [
      ...sourceParameters(source, x),
      pointer(x.address),
      pointer(xScales?.address ?? 0),
      ...calibratedScales(calibrated),
      ...(launch.gpu.computeCapability >= COPY_ENGINE_CAPABILITY
        ? [
            byteMap(weight, { ...WEIGHT_BOX, ...gated }),
            byteMap(isGrouped ? scales! : weight, { boxRows: OUTPUTS, ...gated }),
          ]
        : [weight, isGrouped ? scales! : weight].map(({ address }) => pointer(address))),
      pointer(isGrouped ? 0 : (scales?.address ?? 0)),
      pointer(bias?.address ?? 0),
      pointer(y.address),
      ...calibratedScales(yScales?.calibrated ?? null),
      pointer(yScales?.ofRows.address ?? 0),
      int(weight.columns),
      int(weight.rows),
    ],
  };
}

function isMultipliedAsIntegers(dtype: DType): boolean {
  return dtype === 'int8' || dtype === 'uint4';
}

/** x as the products take it: row-x.cuh's `Kept`. */
function keptBytes(x: DType, { dtype, columns }: CudaMatrix): number {
  if (x === 'int8') return columns;
  const pad = dtype === 'int8' ? 64 : 16;
  return isMultipliedAsIntegers(dtype) ? 3 * (columns + pad) : 2 * columns;
}

function sourceDefines(source: RowSource | null, x: CudaMatrix): Defines {
  const isOfCodes = isCodeDType(x.dtype);
  const from = source?.x ?? x;
  const common = {
    A: cudaType(from.dtype),
    W: cudaType((source?.kind === 'norm' ? source.weight : from).dtype),
    PIECES: Math.ceil(x.columns / PIECE / (32 * MEMBERS)),
    QUANTIZE: isOfCodes ? (source ? 1 : 2) : 0,
  };
  if (source?.kind === 'gatedActivation') return { ...common, NORM: 0, GATE: source.activation };
  if (source?.kind !== 'norm') return { ...common, NORM: 0 };
  return { ...common, NORM: source.added ? 2 : 1 };
}

/** `x`: where the row is if it has no source. */
function sourceParameters(source: RowSource | null, x: CudaMatrix): readonly Parameter[] {
  const norm = source?.kind === 'norm' ? source : null;
  const operands = [source?.x ?? x, norm?.added?.residual, norm?.added?.sum, norm?.weight];
  return [
    ...operands.map((operand) => pointer(operand?.address ?? 0)),
    float(norm?.eps ?? 0),
    float(norm?.weightOffset ?? 0),
  ];
}
