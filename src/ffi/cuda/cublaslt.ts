// cuBLASLt: matrix products D = A · B + bias by one of the algorithms that its heuristics propose for the shape.
import type { LibraryHandle } from 'koffi';
import { NeedletailError } from '../../util/errors.ts';
import type { Address } from '../native-memory.ts';
import { findCudaLibrary } from './find-library.ts';

export type MatmulDType = 'float32' | 'bfloat16' | 'float16';

const DTYPES: Readonly<Record<MatmulDType, number>> = { float32: 0, float16: 2, bfloat16: 14 };
/** Float32 accumulation; TF32 would have to be asked for by another name. */
const COMPUTE_32F = 68;
const DESC = { transA: 3, epilogue: 7, biasPointer: 8, biasDType: 26 } as const;
const PREFERENCE = { workspaceBytes: 1, alignmentA: 5, alignmentB: 6, alignmentC: 7, alignmentD: 8 } as const;
const OP_T = 1;
const EPILOGUE_BIAS = 4;
export const ALGORITHM_BYTES = 64;
/** `cublasLtMatmulHeuristicResult_t`: algorithm, workspace size, state, waves, reserved. */
const HEURISTIC_BYTES = 96;
const HEURISTIC_WORKSPACE_AT = ALGORITHM_BYTES;
const HEURISTIC_STATUS_AT = 72;

/** y [rows, outputs] = x [rows, inputs] · weightᵀ (+ bias), all row-major; the weight's rows are `inputs` apart. */
export interface MatmulShape {
  readonly rows: number;
  readonly outputs: number;
  readonly inputs: number;
  /** Elements from a row of x to the next, and of y. */
  readonly xStride: number;
  readonly yStride: number;
  /** Of x and the weight. */
  readonly dtype: MatmulDType;
  readonly outputDType: MatmulDType;
  /** Address of a bias of the output's type; 0 for none. */
  readonly bias: Address;
  /** Largest power of two that divides every address and row length in bytes, at most 256. */
  readonly alignment: number;
}

/** How cuBLASLt may do a product; means something to the same version of the library on the same kind of GPU. */
export interface MatmulAlgorithm {
  /** `cublasLtMatmulAlgo_t`. */
  readonly bytes: Uint8Array;
  readonly workspaceBytes: number;
}

/** A product described to cuBLASLt; of no algorithm yet. */
export interface Matmul {
  readonly description: Address;
  readonly weightLayout: Address;
  readonly xLayout: Address;
  readonly yLayout: Address;
}

/** Where a product's numbers lie. */
export interface MatmulPlaces {
  readonly x: Address;
  readonly weight: Address;
  readonly y: Address;
  readonly workspace: Address;
}

export class CublasLt {
  readonly path: string;
  readonly #functions: ReturnType<typeof bind>;
  readonly #handle: Address;
  readonly #one = Float32Array.of(1);
  readonly #zero = Float32Array.of(0);

  private constructor(library: LibraryHandle, path: string) {
    this.#functions = bind(library);
    this.path = path;
    this.#handle = this.#create('cublasLtCreate', (out) => this.#functions.cublasLtCreate(out));
  }

  /** Throws `unsupported_platform` if there is none of these major versions. */
  static load(majors: readonly number[]): CublasLt {
    const remedy = `install the CUDA toolkit ${majors[0]} or: pip install nvidia-cublas`;
    const { library, path } = findCudaLibrary({ name: 'cublasLt', remedy }, majors);
    return new CublasLt(library, path);
  }

  /** `130100` for 13.1.0. */
  get version(): number {
    return this.#functions.cublasLtGetVersion();
  }

  dispose(): void {
    this.#check('cublasLtDestroy', this.#functions.cublasLtDestroy(this.#handle));
  }

  describe(shape: MatmulShape): Matmul {
    const { rows, outputs, inputs, xStride, yStride, dtype, outputDType } = shape;
    // cuBLASLt thinks in columns: yᵀ [outputs, rows] = weight [inputs, outputs]ᵀ · xᵀ [inputs, rows].
    return {
      description: this.#describeOperation(shape),
      weightLayout: this.#layout(dtype, inputs, outputs, inputs),
      xLayout: this.#layout(dtype, inputs, rows, xStride),
      yLayout: this.#layout(outputDType, outputs, rows, yStride),
    };
  }

  /** The most promising first; none if cuBLASLt cannot do it. */
  propose(
    { description, weightLayout, xLayout, yLayout }: Matmul,
    { alignment }: MatmulShape,
    maxWorkspaceBytes: number,
    maxCount: number,
  ): MatmulAlgorithm[] {
    const preference = this.#prefer(alignment, maxWorkspaceBytes);
    const results = new Uint8Array(HEURISTIC_BYTES * maxCount);
    const count = new Int32Array(1);
    const status = this.#functions.cublasLtMatmulAlgoGetHeuristic(
      this.#handle,
      description,
      ...[weightLayout, xLayout, yLayout, yLayout],
      preference,
      maxCount,
      results,
      count,
    );
    this.#functions.cublasLtMatmulPreferenceDestroy(preference);
    if (status !== 0) return [];
    return Array.from({ length: count[0] }, (_, i) =>
      readProposal(results.subarray(i * HEURISTIC_BYTES, (i + 1) * HEURISTIC_BYTES)),
    ).filter((proposal) => proposal !== null);
  }

  /** The algorithm with the workspace that it wants for this product; null if it cannot do it. */
  check(matmul: Matmul, { bytes }: MatmulAlgorithm): MatmulAlgorithm | null {
    const { description, weightLayout, xLayout, yLayout } = matmul;
    const result = new Uint8Array(HEURISTIC_BYTES);
    const status = this.#functions.cublasLtMatmulAlgoCheck(
      this.#handle,
      description,
      ...[weightLayout, xLayout, yLayout, yLayout],
      bytes,
      result,
    );
    if (status !== 0) return null;
    const { workspaceBytes } = readProposal(result) ?? { workspaceBytes: 0 };
    return { bytes, workspaceBytes };
  }

  release({ description, weightLayout, xLayout, yLayout }: Matmul): void {
    for (const layout of [weightLayout, xLayout, yLayout])
      this.#functions.cublasLtMatrixLayoutDestroy(layout);
    this.#functions.cublasLtMatmulDescDestroy(description);
  }

  run(
    { description, weightLayout, xLayout, yLayout }: Matmul,
    { bytes, workspaceBytes }: MatmulAlgorithm,
    { x, weight, y, workspace }: MatmulPlaces,
    stream: Address,
  ): void {
    const status = this.#functions.cublasLtMatmul(
      this.#handle,
      description,
      this.#one,
      ...[weight, weightLayout],
      ...[x, xLayout],
      this.#zero,
      ...[y, yLayout],
      ...[y, yLayout],
      bytes,
      workspace,
      workspaceBytes,
      stream,
    );
    this.#check('cublasLtMatmul', status);
  }

  #describeOperation({ bias, outputDType }: MatmulShape): Address {
    const f = this.#functions;
    const description = this.#create('cublasLtMatmulDescCreate', (out) =>
      f.cublasLtMatmulDescCreate(out, COMPUTE_32F, DTYPES.float32),
    );
    const set = (attribute: number, value: NodeJS.TypedArray): void =>
      this.#check(
        'cublasLtMatmulDescSetAttribute',
        f.cublasLtMatmulDescSetAttribute(description, attribute, value, value.byteLength),
      );
    set(DESC.transA, Int32Array.of(OP_T));
    if (bias === 0) return description;
    set(DESC.epilogue, Int32Array.of(EPILOGUE_BIAS));
    set(DESC.biasPointer, BigUint64Array.of(BigInt(bias)));
    set(DESC.biasDType, Int32Array.of(DTYPES[outputDType]));
    return description;
  }

  #layout(dtype: MatmulDType, rows: number, columns: number, stride: number): Address {
    return this.#create('cublasLtMatrixLayoutCreate', (out) =>
      this.#functions.cublasLtMatrixLayoutCreate(out, DTYPES[dtype], rows, columns, stride),
    );
  }

  #prefer(alignment: number, maxWorkspaceBytes: number): Address {
    const f = this.#functions;
    const preference = this.#create('cublasLtMatmulPreferenceCreate', (out) =>
      f.cublasLtMatmulPreferenceCreate(out),
    );
    const set = (attribute: number, value: NodeJS.TypedArray): void =>
      this.#check(
        'cublasLtMatmulPreferenceSetAttribute',
        f.cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, value.byteLength),
      );
    set(PREFERENCE.workspaceBytes, BigUint64Array.of(BigInt(maxWorkspaceBytes)));
    const { alignmentA, alignmentB, alignmentC, alignmentD } = PREFERENCE;
    for (const which of [alignmentA, alignmentB, alignmentC, alignmentD])
      set(which, Int32Array.of(alignment));
    return preference;
  }

  #create(what: string, call: (out: BigUint64Array) => number): Address {
    const out = new BigUint64Array(1);
    this.#check(what, call(out));
    return Number(out[0]);
  }

  #check(what: string, status: number): void {
    if (status === 0) return;
    const text = this.#functions.cublasLtGetStatusString(status);
    throw new NeedletailError('device_failed', `${what} failed: ${text}`);
  }
}

/** Out of a `cublasLtMatmulHeuristicResult_t`; null if it says that the algorithm does not work. */
function readProposal(result: Uint8Array): MatmulAlgorithm | null {
  const view = new DataView(result.buffer, result.byteOffset, result.byteLength);
  if (view.getInt32(HEURISTIC_STATUS_AT, true) !== 0) return null;
  const workspaceBytes = Number(view.getBigUint64(HEURISTIC_WORKSPACE_AT, true));
  return { bytes: result.slice(0, ALGORITHM_BYTES), workspaceBytes };
}

type Call = (...args: readonly unknown[]) => number;

function bind(library: LibraryHandle) {
  const call = (signature: string): Call => library.func(`int ${signature}`) as Call;
  return {
    cublasLtGetStatusString: library.func('const char *cublasLtGetStatusString(int status)') as (
      status: number,
    ) => string,
    cublasLtGetVersion: library.func('size_t cublasLtGetVersion()') as () => number,
    cublasLtCreate: call('cublasLtCreate(void *handle)'),
    cublasLtDestroy: call('cublasLtDestroy(uintptr_t handle)'),
    cublasLtMatmulDescCreate: call('cublasLtMatmulDescCreate(void *desc, int compute, int scale)'),
    cublasLtMatmulDescDestroy: call('cublasLtMatmulDescDestroy(uintptr_t desc)'),
    cublasLtMatmulDescSetAttribute: call(
      'cublasLtMatmulDescSetAttribute(uintptr_t desc, int attribute, const void *value, size_t bytes)',
    ),
    cublasLtMatrixLayoutCreate: call(
      'cublasLtMatrixLayoutCreate(void *layout, int type, uint64_t rows, uint64_t columns, int64_t stride)',
    ),
    cublasLtMatrixLayoutDestroy: call('cublasLtMatrixLayoutDestroy(uintptr_t layout)'),
    cublasLtMatmulPreferenceCreate: call('cublasLtMatmulPreferenceCreate(void *preference)'),
    cublasLtMatmulPreferenceDestroy: call('cublasLtMatmulPreferenceDestroy(uintptr_t preference)'),
    cublasLtMatmulPreferenceSetAttribute: call(
      'cublasLtMatmulPreferenceSetAttribute(uintptr_t preference, int attribute, const void *value, size_t bytes)',
    ),
    cublasLtMatmulAlgoGetHeuristic: call(
      'cublasLtMatmulAlgoGetHeuristic(uintptr_t handle, uintptr_t desc, uintptr_t a, uintptr_t b, uintptr_t c, ' +
        'uintptr_t d, uintptr_t preference, int requested, void *results, void *count)',
    ),
    cublasLtMatmulAlgoCheck: call(
      'cublasLtMatmulAlgoCheck(uintptr_t handle, uintptr_t desc, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, ' +
        'const void *algorithm, void *result)',
    ),
    cublasLtMatmul: call(
      'cublasLtMatmul(uintptr_t handle, uintptr_t desc, const void *alpha, uintptr_t a, uintptr_t aLayout, ' +
        'uintptr_t b, uintptr_t bLayout, const void *beta, uintptr_t c, uintptr_t cLayout, uintptr_t d, ' +
        'uintptr_t dLayout, const void *algorithm, uintptr_t workspace, size_t workspaceBytes, uintptr_t stream)',
    ),
  };
}
