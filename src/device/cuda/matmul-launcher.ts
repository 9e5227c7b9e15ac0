// A product that cuBLASLt does, with an algorithm chosen once for each number of rows.
import type { Matmul, MatmulDType } from '../../ffi/cuda/cublaslt.ts';
import type { Address } from '../../ffi/cuda/driver.ts';
import type { CudaMatrix, MatmulLaunch, StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import { itemSize } from '../../tensor/dtype.ts';
import { NeedletailError } from '../../util/errors.ts';
import type { CudaRuntime } from './cuda-runtime.ts';

/** Numbers of rows are rounded up to a multiple, so that few algorithms are chosen; what is beyond a step's rows is ignored. */
const ROW_STEP = 8;
const MAX_ALIGNMENT = 256;

/** Where cuBLASLt may work. */
export interface MatmulWorkspace {
  readonly address: Address;
  readonly bytes: number;
}

export class MatmulLauncher {
  readonly #runtime: CudaRuntime;
  readonly #launch: MatmulLaunch;
  readonly #workspace: MatmulWorkspace;
  readonly #products = new Map<number, Matmul>();

  constructor(runtime: CudaRuntime, launch: MatmulLaunch, workspace: MatmulWorkspace) {
    this.#runtime = runtime;
    this.#launch = launch;
    this.#workspace = workspace;
  }

  run(counts: StepCounts): void {
    const { x, weight, y, rows } = this.#launch;
    if (counts[rows] === 0) return;
    const product = this.#product(Math.min(y.rows, Math.ceil(counts[rows] / ROW_STEP) * ROW_STEP));
    const { cublasLt, stream } = this.#runtime;
    cublasLt.run(product, x.address, weight.address, y.address, this.#workspace.address, stream);
  }

  release(): void {
    for (const product of this.#products.values()) this.#runtime.cublasLt.release(product);
    this.#products.clear();
  }

  #product(rows: number): Matmul {
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
    const product = this.#runtime.cublasLt.prepare(shape, this.#workspace.bytes);
    if (!product) {
      const text = `[${rows}, ${x.columns}] · [${y.columns}, ${x.columns}]ᵀ in ${x.dtype}`;
      throw new NeedletailError('device_failed', `cuBLASLt has no algorithm for ${text}`);
    }
    this.#products.set(rows, product);
    return product;
  }
}

/** The largest power of two that divides the address and the rows' length, in bytes. */
function alignmentOf({ address, dtype, rowStride }: CudaMatrix): number {
  const rowBytes = rowStride * itemSize(dtype);
  let alignment = MAX_ALIGNMENT;
  while (address % alignment !== 0 || rowBytes % alignment !== 0) alignment /= 2;
  return alignment;
}
