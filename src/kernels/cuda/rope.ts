// Launch descriptions of rope, kvWrite and their fusion.
import { itemSize } from '../../tensor/dtype.ts';
import {
  cacheOf,
  cudaType,
  inputOf,
  int,
  matrixOf,
  pointer,
  rowCount,
  singleKernel,
  threadsFor,
  vectorWidth,
  view,
  type CudaLaunch,
  type CudaMatrix,
  type CudaOperand,
  type KernelLaunch,
} from './cuda-kernel.ts';

interface Rotation {
  readonly rotaryDim: number;
  readonly interleaved: boolean;
}

function tableOf(operand: CudaOperand | undefined): number {
  if (operand?.kind === 'ropeTable') return operand.address;
  throw new Error(`a rotary kernel wants a table of angles, not ${operand?.kind ?? 'nothing'}`);
}

const BLOCK_THREADS = 128;

/** Columns per access: they divide the pairs that turn, the columns that do not, and the values' heads. */
function pieceWidth(
  headDim: number,
  rotaryDim: number,
  valueHeadDim: number,
  matrices: readonly CudaMatrix[],
): number {
  return vectorWidth([rotaryDim / 2, headDim - rotaryDim, valueHeadDim].reduce(greatestDivisor), matrices);
}

/** Greatest common divisor. */
function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

/** Threads of a head of `numPieces` pieces, and blocks and threads for a token's heads. */
function shapeOf(numHeads: number, numPieces: number): { lanes: number; block: number; numChunks: number } {
  const lanes = [2, 4, 8, 16].find((count) => count >= numPieces) ?? 32;
  const block = threadsFor(numHeads * lanes, BLOCK_THREADS);
  return { lanes, block, numChunks: Math.ceil((numHeads * lanes) / block) };
}

export const rope = singleKernel('rope', (launch) => {
  const [x, y] = [matrixOf(launch.inputs[0]), matrixOf(launch.outputs[0])];
  const headDim = Number(launch.attributes['headDim']);
  const { rotaryDim, interleaved } = launch.attributes['rope'] as Rotation;
  const type = cudaType(x.dtype);
  const vec = pieceWidth(headDim, rotaryDim, 0, [x, y]);
  const numHeads = x.columns / headDim;
  const { lanes, block, numChunks } = shapeOf(numHeads, (headDim - rotaryDim / 2) / vec);
  return [
    {
      kind: 'kernel',
      source: 'rope.cu',
      entry: 'rope',
      defines: {
        X: type,
        C: type,
        VEC: vec,
        LANES: lanes,
        INTERLEAVED: interleaved ? 1 : 0,
        BLOCK_SIZE: launch.blockSize,
        HEAD_DIM: headDim,
        VALUE_HEAD_DIM: headDim,
        ROTARY_DIM: rotaryDim,
      },
      block,
      sharedBytes: 0,
      overlaps: true,
      grid: (counts) => [counts[launch.rows], numChunks, 1],
      parameters: [
        rowCount(launch),
        ...view(x),
        ...view(y),
        pointer(inputOf(launch.inputs[1]).address),
        pointer(tableOf(launch.inputs[2])),
        int(numHeads),
      ],
    },
  ];
});

interface CacheWrite {
  /** Queries to turn, and where they go. */
  readonly queries: { readonly q: CudaMatrix; readonly y: CudaMatrix; readonly numHeads: number } | null;
  readonly k: CudaMatrix;
  readonly v: CudaMatrix;
  readonly slots: number;
  readonly cache: Extract<CudaOperand, { kind: 'kvCache' }>;
  readonly rotation: (Rotation & { readonly positions: number; readonly table: number }) | null;
}

/** Columns per access to a cache; behind scales rows start at any even byte where blocks are small. */
function cacheWidth({ dtype }: CacheWrite['cache'], { blockSize }: CudaLaunch): number {
  const widest = 16 / itemSize(dtype);
  return dtype === 'int8' ? greatestDivisor(widest, 2 * blockSize) : widest;
}

function writeCache(launch: CudaLaunch, { queries, k, v, slots, cache, rotation }: CacheWrite): KernelLaunch {
  const { numKvHeads, keyHeadDim, valueHeadDim } = cache;
  const numHeads = queries?.numHeads ?? 0;
  const rotaryDim = rotation?.rotaryDim ?? 0;
  const matrices = [queries?.q ?? k, queries?.y ?? k, k, v];
  const vec = Math.min(cacheWidth(cache, launch), pieceWidth(keyHeadDim, rotaryDim, valueHeadDim, matrices));
  // A thread has one piece of a head of keys and two of one of values, as a rule.
  const numPieces = Math.max(keyHeadDim - rotaryDim / 2, valueHeadDim / 2) / vec;
  const { lanes, block, numChunks } = shapeOf(Math.max(numHeads, numKvHeads), numPieces);
  return {
    kind: 'kernel',
    source: 'rope.cu',
    entry: 'rope_kv_write',
    defines: {
      X: cudaType(k.dtype),
      C: cudaType(cache.dtype),
      VEC: vec,
      LANES: lanes,
      INTERLEAVED: rotation?.interleaved ? 1 : 0,
      BLOCK_SIZE: launch.blockSize,
      HEAD_DIM: keyHeadDim,
      VALUE_HEAD_DIM: valueHeadDim,
      ROTARY_DIM: rotaryDim,
    },
    block,
    sharedBytes: 0,
    overlaps: true,
    grid: (counts) => [counts.numTokens, numChunks, 1],
    parameters: [
      pointer(launch.addresses.numTokens),
      ...matrices.flatMap(view),
      pointer(rotation?.positions ?? 0),
      pointer(slots),
      pointer(rotation?.table ?? 0),
      pointer(cache.keys),
      pointer(cache.values),
      ...[numHeads, numKvHeads].map(int),
    ],
  };
}

export const kvWrite = singleKernel('kvWrite', (launch) => {
  const [k, v, slots] = launch.inputs;
  return [
    writeCache(launch, {
      queries: null,
      k: matrixOf(k),
      v: matrixOf(v),
      slots: inputOf(slots).address,
      cache: cacheOf(launch.outputs[0]),
      rotation: null,
    }),
  ];
});

export const ropeKvWrite = singleKernel('ropeKvWrite', (launch) => {
  const [q, k, v, positions, slots, table] = launch.inputs;
  const { rope: rotation, numHeads } = launch.attributes as { rope: Rotation; numHeads: number };
  return [
    writeCache(launch, {
      queries: { q: matrixOf(q), y: matrixOf(launch.outputs[0]), numHeads },
      k: matrixOf(k),
      v: matrixOf(v),
      slots: inputOf(slots).address,
      cache: cacheOf(launch.outputs[1]),
      rotation: { ...rotation, positions: inputOf(positions).address, table: tableOf(table) },
    }),
  ];
});
