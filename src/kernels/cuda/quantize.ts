// Launch descriptions of quantize, alone and after gatedActivation.
import { itemSize } from '../../tensor/dtype.ts';
import {
  calibratedScales,
  cudaType,
  int,
  matrixOf,
  optionalMatrix,
  rowCount,
  rowBlocks,
  rowGrid,
  singleKernel,
  threadsFor,
  vectorWidth,
  view,
  type CudaLaunch,
  type Defines,
  type KernelLaunch,
} from './cuda-kernel.ts';

const MAX_THREADS = 512;
/** Of a thread, where so many threads are enough. */
const PIECES = 2;

interface Format {
  readonly dtype: string;
  readonly groupSize: number;
}

function quantizing(launch: CudaLaunch, { groupSize }: Format, defines: Defines): KernelLaunch {
  const [x, staticScales] = [matrixOf(launch.inputs[0]), optionalMatrix(launch.inputs[1])];
  const [codes, scales] = launch.outputs.map(matrixOf);
  const vec = Math.min(vectorWidth(groupSize, [x, codes]), 16 / itemSize(x.dtype));
  const block = threadsFor(groupSize / vec / PIECES, MAX_THREADS);
  const pieces = Math.ceil(groupSize / vec / block);
  // A row, and what gates it, and the next one.
  const numVectors = 'OP' in defines ? 3 : 2;
  const numBlocks = rowBlocks(block, pieces * Math.ceil((numVectors * vec * itemSize(x.dtype)) / 4));
  return {
    kind: 'kernel',
    source: 'quantize.cu',
    entry: 'quantize',
    defines: {
      X: cudaType(x.dtype),
      CODE: cudaType(codes.dtype),
      VEC: vec,
      PIECES: pieces,
      THREADS: block,
      MIN_BLOCKS: numBlocks,
      ...defines,
    },
    block,
    sharedBytes: 0,
    overlaps: true,
    grid: rowGrid(launch, numBlocks, codes.columns / groupSize),
    parameters: [
      rowCount(launch),
      ...view(x),
      ...calibratedScales(staticScales),
      ...view(codes),
      ...view(scales),
      int(groupSize),
    ],
  };
}

export const quantize = singleKernel('quantize', (launch) => [
  quantizing(launch, launch.attributes as unknown as Format, {}),
]);

export const gatedActivationQuantize = singleKernel('gatedActivationQuantize', (launch) => [
  quantizing(launch, launch.attributes['quantize'] as Format, { OP: String(launch.attributes['kind']) }),
]);
