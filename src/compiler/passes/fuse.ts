// Fuses neighbouring ops into the ones that kernels do in a single sweep over memory. Each rule is a file in fusions/.
import type { Graph, Node } from '../../ir/graph.ts';
import { fuseAddNorm } from '../fusions/add-norm.ts';
import type { FusionRule } from '../fusions/fusion.ts';
import { fuseGatedActivation } from '../fusions/gated-activation.ts';
import { fuseGatedProduct } from '../fusions/gated-product.ts';
import { fuseProduct } from '../fusions/product.ts';
import { fuseQuantize } from '../fusions/quantize.ts';
import { fuseRopeKvWrite } from '../fusions/rope-kv-write.ts';
import { GraphIndex } from '../graph-index.ts';
import { kernelQuery, type KernelRequest } from '../kernel-query.ts';

const RULES: readonly FusionRule[] = [
  fuseAddNorm,
  fuseGatedActivation,
  fuseGatedProduct,
  fuseRopeKvWrite,
  fuseQuantize,
  fuseProduct,
];

/** Makes only ops that the target's kernels have and want. */
export function fuse(graph: Graph, request: KernelRequest): Graph {
  return RULES.reduce((fused, rule) => applyRule(fused, rule, request), graph);
}

/** One sweep: every match whose nodes no earlier match has taken. */
function applyRule(graph: Graph, rule: FusionRule, request: KernelRequest): Graph {
  const index = new GraphIndex(graph);
  const replaced = new Set<Node>();
  const fusedAt = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const fusion = rule(node, index);
    if (fusion === null || fusion.replaces.some((part) => replaced.has(part))) continue;
    if (!isWanted(fusion.fused, index, request)) continue;
    for (const part of fusion.replaces) replaced.add(part);
    fusedAt.set(fusion.at, fusion.fused);
  }
  const nodes = graph.nodes.flatMap((node) => fusedAt.get(node) ?? (replaced.has(node) ? [] : [node]));
  return { ...graph, nodes };
}

/** Whether the target has the op, and prefers it to its parts. */
export function isWanted(node: Node, index: GraphIndex, request: KernelRequest): boolean {
  const kernel = request.kernels.find(({ op }) => op === node.op);
  return kernel !== undefined && (kernel.isWanted?.(kernelQuery(node, index, request)) ?? true);
}
