// Fuses neighbouring ops into the ones that kernels do in a single sweep over memory. Each rule is a file in fusions/.
import type { Graph, Node } from '../../ir/graph.ts';
import { fuseAddNorm } from '../fusions/add-norm.ts';
import type { FusionRule } from '../fusions/fusion.ts';
import { fuseGatedActivation } from '../fusions/gated-activation.ts';
import { fuseQuantize } from '../fusions/quantize.ts';
import { fuseRopeKvWrite } from '../fusions/rope-kv-write.ts';
import { GraphIndex } from '../graph-index.ts';
import type { CompileRequest } from '../request.ts';

const RULES: readonly FusionRule[] = [fuseAddNorm, fuseGatedActivation, fuseRopeKvWrite, fuseQuantize];

/** Makes only ops that `kernels` have. */
export function fuse(graph: Graph, { kernels }: Pick<CompileRequest, 'kernels'>): Graph {
  const ops = new Set(kernels.map(({ op }) => op));
  return RULES.reduce((fused, rule) => applyRule(fused, rule, ops), graph);
}

/** One sweep: every match whose nodes no earlier match has taken. */
function applyRule(graph: Graph, rule: FusionRule, ops: ReadonlySet<string>): Graph {
  const index = new GraphIndex(graph);
  const replaced = new Set<Node>();
  const fusedAt = new Map<Node, Node>();
  for (const node of graph.nodes) {
    const fusion = rule(node, index);
    if (fusion === null || !ops.has(fusion.fused.op) || fusion.replaces.some((part) => replaced.has(part)))
      continue;
    for (const part of fusion.replaces) replaced.add(part);
    fusedAt.set(fusion.at, fusion.fused);
  }
  const nodes = graph.nodes.flatMap((node) => fusedAt.get(node) ?? (replaced.has(node) ? [] : [node]));
  return { ...graph, nodes };
}
