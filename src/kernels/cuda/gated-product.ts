// Launch descriptions of products fused with the gatedActivation after them: one kernel for many rows and for one;
// for few, where the product is bound by its weight, the launches of both.
import type { KernelQuery } from '../kernel.ts';
import {
  matrixOf,
  optionalMatrix,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import { gatedActivation } from './elementwise.ts';
import { row, ROW_VARIANT } from './linear-row.ts';
import { isWgmma, wgmma } from './linear-wgmma.ts';
import { CUBLASLT_WORKSPACE_BYTES, linear } from './linear.ts';
import { quantizedLinear } from './quantized-linear.ts';

const MAX_ITEM_BYTES = 4;

export const gatedLinear = gated('gatedLinear', linear);
export const gatedQuantizedLinear = gated('gatedQuantizedLinear', quantizedLinear);

function gated(op: string, product: CudaKernelDescription): CudaKernelDescription {
  return {
    ...product,
    op,
    isWanted: (query) => {
      const isForMany = isWgmma(product.variants(query).at(-1)!.kernel);
      return isForMany && !query.batchInvariant && query.weightRows % 16 === 0;
    },
    workspaceBytes: (query) =>
      CUBLASLT_WORKSPACE_BYTES + MAX_ITEM_BYTES * mostUnfusedRows(product, query) * query.weightRows,
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
  const { inputs, outputs, attributes } = launch;
  const isOfCodes = launch.op === gatedQuantizedLinear.op;
  const [x, weight] = [inputs[0], inputs[isOfCodes ? 2 : 1]].map(matrixOf);
  const operands = {
    x,
    xScales: isOfCodes ? matrixOf(inputs[1]) : null,
    weight,
    scales: isOfCodes ? matrixOf(inputs[3]) : null,
    bias: optionalMatrix(inputs[isOfCodes ? 4 : 2]),
    y: matrixOf(outputs[0]),
    gate: String(attributes['kind']),
  };
  return isWgmma(launch.kernel)
    ? wgmma(launch, { ...operands, groups: null })
    : row(launch, { ...operands, source: null });
}

/** What stands between the two is behind cuBLASLt's workspace. */
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
  const { kind } = launch.attributes;
  const ofActivation = {
    ...launch,
    op: gatedActivation.op,
    kernel: gatedActivation.op,
    attributes: { kind },
  };
  return [
    ...product.prepare({ ...launch, op: product.op, outputs: [whole] }),
    ...gatedActivation.prepare({ ...ofActivation, inputs: [whole] }),
  ];
}
