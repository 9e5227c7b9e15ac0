// Launch descriptions of linear for plans whose results must not depend on the batch: tiles for few, some and many rows that
// all add up the inputs in one order.
import type { KernelVariant } from '../kernel.ts';
import { cudaType, type CudaLaunch, type CudaMatrix, type KernelLaunch } from './cuda-kernel.ts';

interface TileShape {
  readonly maxRows: number | null;
  readonly outputTiles: number;
  readonly outputWarps: number;
  readonly rowTiles: number;
  readonly rowWarps: number;
  readonly stages: number;
}

const SHAPES: Readonly<Record<string, TileShape>> = {
  invariant8: { maxRows: 8, outputTiles: 1, outputWarps: 2, rowTiles: 1, rowWarps: 1, stages: 6 },
  invariant64: { maxRows: 64, outputTiles: 1, outputWarps: 2, rowTiles: 4, rowWarps: 2, stages: 4 },
  invariant128: { maxRows: null, outputTiles: 4, outputWarps: 2, rowTiles: 4, rowWarps: 4, stages: 2 },
};
/** As in the source: elements of a row in shared memory. */
const ROW_STRIDE = 72;
const BYTES = 2;

export const INVARIANT_VARIANTS: readonly KernelVariant[] = Object.entries(SHAPES).map(
  ([kernel, { maxRows }]) => ({ kernel, maxRows }),
);

export function isInvariant(kernel: string): boolean {
  return kernel in SHAPES;
}

/** `parameters` are those of every kernel of linear. */
export function invariant(
  launch: CudaLaunch,
  { x, y, bias }: { readonly x: CudaMatrix; readonly y: CudaMatrix; readonly bias: CudaMatrix | null },
  parameters: KernelLaunch['parameters'],
): KernelLaunch {
  const { outputTiles, outputWarps, rowTiles, rowWarps, stages } = SHAPES[launch.kernel];
  const outputs = 16 * outputTiles * outputWarps;
  const rows = 8 * rowTiles * rowWarps;
  return {
    kind: 'kernel',
    source: 'linear-invariant.cu',
    entry: 'linear_invariant',
    defines: {
      X: cudaType(x.dtype),
      W: cudaType((bias ?? x).dtype),
      Y: cudaType(y.dtype),
      OUTPUT_TILES: outputTiles,
      OUTPUT_WARPS: outputWarps,
      ROW_TILES: rowTiles,
      ROW_WARPS: rowWarps,
      STAGES: stages,
    },
    block: 32 * outputWarps * rowWarps,
    sharedBytes: stages * (outputs + rows) * ROW_STRIDE * BYTES,
    grid: (counts) => [Math.ceil(y.columns / outputs), Math.ceil(counts[launch.rows] / rows), 1],
    parameters,
  };
}
