// A product that cuBLASLt does, with the algorithm that the tuner found best for its shape.
import type {
  Matmul,
  MatmulAlgorithm,
  MatmulDType,
  MatmulPlaces,
  MatmulShape,
} from '../../ffi/cuda/cublaslt.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { CudaMatrix, MatmulLaunch, StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import { itemSize } from '../../tensor/dtype.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { CudaRuntime } from './cuda-runtime.ts';

/** Numbers of rows are rounded up to a multiple, so that few products are described; what is beyond a step's rows is ignored. */
const ROW_STEP = 8;
const MAX_ALIGNMENT = 256;

/** Where cuBLASLt may work. */
export interface MatmulWorkspace {
  readonly address: Address;
  readonly bytes: number;
}

interface Product {
  readonly matmul: Matmul;
  readonly algorithm: MatmulAlgorithm;
}

export class MatmulLauncher {
  readonly #runtime: CudaRuntime;
  readonly #launch: MatmulLaunch;
  readonly #places: MatmulPlaces;
  readonly #maxWorkspaceBytes: number;
  readonly #products = new Map<number, Product>();

  constructor(runtime: CudaRuntime, launch: MatmulLaunch, workspace: MatmulWorkspace) {
    const { x, weight, y } = launch;
    this.#runtime = runtime;
    this.#launch = launch;
    this.#places = { x: x.address, weight: weight.address, y: y.address, workspace: workspace.address };
    this.#maxWorkspaceBytes = workspace.bytes;
  }

  run(counts: StepCounts): void {
    const { y, rows } = this.#launch;
    if (counts[rows] === 0) return;
    const { matmul, algorithm } = this.#product(
      Math.min(y.rows, Math.ceil(counts[rows] / ROW_STEP) * ROW_STEP),
    );
    this.#runtime.cublasLt.run(matmul, algorithm, this.#places, this.#runtime.stream);
  }

  release(): void {
    for (const { matmul } of this.#products.values()) this.#runtime.cublasLt.release(matmul);
    this.#products.clear();
  }

  #product(rows: number): Product {
    const known = this.#products.get(rows);
    if (known) return known;
    const { x, weight, y, bias } = this.#launch;
    const shape = {
      rows,
      outputs: y.columns,
      inputs: x.columns,
      xStride: x.rowStride,
      yStride: y.rowStride,
      dtype: x.dtype as MatmulDType,
      outputDType: y.dtype as MatmulDType,
      bias: bias?.address ?? 0,
      alignment: Math.min(...[x, weight, y].map(alignmentOf)),
    };
    const matmul = this.#runtime.cublasLt.describe(shape);
    const algorithm = this.#algorithm(shape, matmul);
    if (!algorithm) {
      this.#runtime.cublasLt.release(matmul);
      const text = `[${rows}, ${x.columns}] · [${y.columns}, ${x.columns}]ᵀ in ${x.dtype}`;
      throw new NeedletailError('device_failed', `cuBLASLt has no algorithm for ${text}`);
    }
    const product = { matmul, algorithm };
    this.#products.set(rows, product);
    return product;
  }

  /** The tuner's choice if it does exactly this product too. */
  #algorithm(shape: MatmulShape, matmul: Matmul): MatmulAlgorithm | null {
    const { cublasLt, tuner } = this.#runtime;
    const { x, y } = this.#launch;
    const maxBytes = this.#maxWorkspaceBytes;
    const chosen = tuner.choose(shape, Math.min(x.rows, y.rows), this.#places, maxBytes);
    const checked = chosen && cublasLt.check(matmul, chosen);
    if (checked && checked.workspaceBytes <= maxBytes) return checked;
    return cublasLt.propose(matmul, shape, maxBytes, 1)[0] ?? null;
  }
}

/** The largest power of two that divides the address and the rows' length, in bytes. */
function alignmentOf({ address, dtype, rowStride }: CudaMatrix): number {
  const rowBytes = rowStride * itemSize(dtype);
  let alignment = MAX_ALIGNMENT;
  while (address % alignment !== 0 || rowBytes % alignment !== 0) alignment /= 2;
  return alignment;
}
