// Launch descriptions of products fused with the gatedActivation after them, and the quantize after that: one kernel for many rows and
// for one; for few, where the product is bound by its weight, the launches of both.
import { itemSize } from '../../tensor/dtype.ts';
import type { KernelQuery } from '../kernel.ts';
import {
  matrixOf,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import { gatedActivation } from './elementwise.ts';
import { row, ROW_VARIANT } from './linear-row.ts';
import { hasWgmma, isWgmma, wgmma } from './linear-wgmma.ts';
import { CUBLASLT_WORKSPACE_BYTES, linear } from './linear.ts';
import { productOperands } from './product-operands.ts';
import { quantizedLinear, weightOnlyLinear } from './quantized-linear.ts';

export const gatedLinear = gated('gatedLinear', linear);
export const gatedWeightOnlyLinear = gated('gatedWeightOnlyLinear', weightOnlyLinear);
export const gatedQuantizedLinear = gated('gatedQuantizedLinear', quantizedLinear);

/** Where no launch has the quantize to itself. */
export const gatedQuantizedLinearQuantize: CudaKernelDescription = {
  ...quantizedLinear,
  op: 'gatedQuantizedLinearQuantize',
  isWanted: (query) =>
    gatedQuantizedLinear.isWanted!(query) &&
    quantizedLinear.variants(query).every(({ kernel }) => isFused(kernel)),
  prepare: (launch) => [fused(launch)],
};

function gated(op: string, product: CudaKernelDescription): CudaKernelDescription {
  return {
    ...product,
    op,
    isWanted: (query) => {
      const variants = product.variants(query);
      const isFusedSometimes =
        hasWgmma(query) && [variants[0], variants.at(-1)!].some(({ kernel }) => isFused(kernel));
      return isFusedSometimes && !query.batchInvariant && query.weightRows % 16 === 0;
    },
    workspaceBytes: (query) =>
      Math.max(CUBLASLT_WORKSPACE_BYTES, product.workspaceBytes(query)) +
      itemSize(query.activationDType) * mostUnfusedRows(product, query) * query.weightRows,
    prepare: (launch) => (isFused(launch.kernel) ? [fused(launch)] : unfused(launch, product)),
  };
}

function isFused(kernel: string): boolean {
  return isWgmma(kernel) || kernel === ROW_VARIANT.kernel;
}

function mostUnfusedRows(product: CudaKernelDescription, query: KernelQuery): number {
  const variants = product.variants(query).filter(({ kernel }) => !isFused(kernel));
  return Math.max(0, ...variants.map(({ maxRows }) => maxRows ?? query.maxRows));
}

function fused(launch: CudaLaunch): PreparedLaunch {
  const operands = productOperands(launch);
  return isWgmma(launch.kernel)
    ? wgmma(launch, { ...operands, groups: null })
    : row(launch, { ...operands, source: null, calibrated: null });
}

/** What stands between the two is behind cuBLASLt's workspace, and the product's own behind that. */
function unfused(launch: CudaLaunch, product: CudaKernelDescription): readonly PreparedLaunch[] {
  const { dtype, rows, columns } = matrixOf(launch.outputs[0]);
  const whole: CudaMatrix = {
    kind: 'matrix',
    address: launch.workspace + CUBLASLT_WORKSPACE_BYTES,
    dtype,
    rows,
    columns: 2 * columns,
    rowStride: 2 * columns,
  };
  const wholeBytes = itemSize(dtype) * rows * whole.columns;
  const { kind } = launch.attributes;
  const ofActivation = {
    ...launch,
    op: gatedActivation.op,
    kernel: gatedActivation.op,
    attributes: { kind },
  };
  return [
    ...product.prepare({
      ...launch,
      op: product.op,
      outputs: [whole],
      workspace: launch.workspace + wholeBytes,
    }),
    ...gatedActivation.prepare({ ...ofActivation, inputs: [whole] }),
  ];
}
