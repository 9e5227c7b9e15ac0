// What a node asks of the target's kernels.
import type { Node, Parameter } from '../ir/graph.ts';
import type { KernelQuery } from '../kernels/kernel.ts';
import type { Shape } from '../tensor/shape.ts';
import { resolveDim } from '../tensor/shape.ts';
import type { GraphIndex } from './graph-index.ts';
import { opOf } from './op-of.ts';
import type { Launch } from './plan.ts';
import { activationDTypeOf, type CompileRequest } from './request.ts';
import { stepDims } from './step-dims.ts';

export type KernelRequest = Pick<CompileRequest, 'kernels' | 'target' | 'recipe' | 'limits'>;

export function kernelQuery(node: Node, index: GraphIndex, request: KernelRequest): KernelQuery {
  const matrix = matrixOf(node, index);
  const [weightRows, weightColumns] = (matrix?.value.type.shape ?? [0, 0]) as readonly number[];
  const { weightDType, kvDType, activationPrecision, batchInvariant = false } = request.recipe;
  return {
    arch: request.target.arch,
    weightDType,
    weightFormat: matrix?.quantization?.format ?? null,
    kvDType,
    activationPrecision,
    activationDType: activationDTypeOf(request),
    batchInvariant,
    maxRows: resolveDim(rowsOf(node), stepDims(request.limits)),
    weightRows,
    weightColumns,
    attributes: node.attributes,
  };
}

/** The node's weight matrix; null if it has none. */
export function matrixOf(node: Node, index: GraphIndex): Parameter | null {
  const { matrixInput } = opOf(node);
  return matrixInput === null ? null : index.parameter(node.inputs[matrixInput]);
}

/** The symbol that counts a node's rows: its first output's, or for a pure effect its first input's. */
export function rowsOf(node: Node): Launch['rows'] {
  const shapes: readonly Shape[] = [...node.outputs, ...node.inputs].map((value) => value.type.shape);
  const rows = shapes.find((shape) => typeof shape[0] === 'string')?.[0];
  if (typeof rows === 'string') return rows;
  throw new Error(`${node.op} at ${node.label} has no rows that follow the step`);
}
