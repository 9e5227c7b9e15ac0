// Chooses the kernels of every launch and the layout of every weight matrix, through the target's launch descriptions.
import type { Graph, Node, Parameter } from '../../ir/graph.ts';
import type { KernelDescription, KernelQuery, KernelVariant, WeightLayout } from '../../kernels/kernel.ts';
import { NeedletailError } from '../../util/errors.ts';
import { GraphIndex } from '../graph-index.ts';
import { kernelQuery, matrixOf, rowsOf, type KernelRequest } from '../kernel-query.ts';
import { opOf } from '../op-of.ts';
import type { Launch } from '../plan.ts';

/** How one node is launched. */
export interface ChosenKernel {
  readonly node: Node;
  readonly rows: Launch['rows'];
  readonly variants: readonly KernelVariant[];
  /** Layout of the node's weight matrix; null if it has none. */
  readonly layout: WeightLayout | null;
  /** Of its scales, if it has any. */
  readonly scalesLayout: WeightLayout;
  readonly workspaceBytes: number;
}

/** One entry per node that needs a launch (views do not), in execution order. */
export function chooseKernels(graph: Graph, request: KernelRequest): readonly ChosenKernel[] {
  const index = new GraphIndex(graph);
  const kernels = new Map(request.kernels.map((kernel) => [kernel.op, kernel]));
  const candidates = graph.nodes
    .filter((node) => !opOf(node).isView)
    .map((node) => candidateFor(node, index, kernels, request));
  const layouts = wantedLayouts(candidates);
  return candidates.map(({ node, rows, kernel, query, matrix }) => ({
    node,
    rows,
    variants: checkedVariants(kernel, query),
    layout: matrix && layoutFor(kernel, query, layouts.get(matrix.value.id)),
    scalesLayout: kernel.scalesLayout?.(query) ?? 'rowMajor',
    workspaceBytes: kernel.workspaceBytes(query),
  }));
}

interface Candidate {
  readonly node: Node;
  readonly rows: Launch['rows'];
  readonly kernel: KernelDescription;
  readonly query: KernelQuery;
  readonly matrix: Parameter | null;
}

function candidateFor(
  node: Node,
  index: GraphIndex,
  kernels: ReadonlyMap<string, KernelDescription>,
  request: KernelRequest,
): Candidate {
  const kernel = kernels.get(node.op);
  if (!kernel) throw missingKernel(node, request);
  const matrix = matrixOf(node, index);
  const rows = rowsOf(node);
  const query = kernelQuery(node, index, request);
  const lack = kernel.lacks?.(query) ?? null;
  if (lack !== null) throw missingKernel(node, request, lack);
  return { node, rows, kernel, query, matrix };
}

function missingKernel(
  node: Node,
  { target, kernels }: KernelRequest,
  lack: string | null = null,
): NeedletailError {
  if (lack !== null) {
    return new NeedletailError(
      'invalid_request',
      `target ${target.kind} ${target.arch} has no ${node.op} kernel for ${lack} (${node.label}); take another type`,
    );
  }
  const known = kernels.map((kernel) => kernel.op).join(', ');
  return new NeedletailError(
    'unsupported_model',
    `no kernel for op ${node.op} (${node.label}) on target ${target.kind} ${target.arch}; it has: ${known}`,
  );
}

function checkedVariants(kernel: KernelDescription, query: KernelQuery): readonly KernelVariant[] {
  const variants = kernel.variants(query);
  const largest = variants.at(-1)?.maxRows;
  if (largest === null || (largest !== undefined && largest >= query.maxRows)) return variants;
  throw new Error(`the kernels of ${kernel.op} on ${query.arch} end before ${query.maxRows} rows`);
}

/** Layouts that kernels insist on, per weight. */
function wantedLayouts(candidates: readonly Candidate[]): ReadonlyMap<number, WeightLayout> {
  const picky = candidates.filter((candidate) => candidate.matrix && !candidate.kernel.acceptsAnyLayout);
  return new Map(picky.map(({ matrix, kernel, query }) => [matrix!.value.id, kernel.weightLayout(query)]));
}

/** A kernel that reads any layout takes what another launch of the same weight insists on: one copy serves both. */
function layoutFor(
  kernel: KernelDescription,
  query: KernelQuery,
  wanted: WeightLayout | undefined,
): WeightLayout {
  return kernel.acceptsAnyLayout && wanted !== undefined ? wanted : kernel.weightLayout(query);
}
