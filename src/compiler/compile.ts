// The compiler: a model's graph goes through the passes below, one after the other, and comes out as a plan.
// Pure: the same request gives the same plan, byte for byte.
import type { Graph } from '../ir/graph.ts';
import { verifyGraph } from '../ir/verify.ts';
import { checkRequest } from './check-request.ts';
import { emitPlan } from './emit-plan.ts';
import { bindTensors } from './passes/bind-tensors.ts';
import { chooseKernels } from './passes/choose-kernels.ts';
import { fuse } from './passes/fuse.ts';
import { hoistGather } from './passes/hoist-gather.ts';
import { merge } from './passes/merge.ts';
import { mergeExperts } from './passes/merge-experts.ts';
import { planMemory } from './passes/plan-memory.ts';
import { quantize } from './passes/quantize.ts';
import { removeDead } from './passes/remove-dead.ts';
import { shard } from './passes/shard.ts';
import type { Plan } from './plan.ts';
import { activationDTypeOf, type CompileRequest } from './request.ts';

export type { CompileRecipe, CompileRequest } from './request.ts';

/** Graph to graph, in this order; the graph is verified after each. */
export const GRAPH_PASSES: readonly {
  readonly name: string;
  readonly run: (graph: Graph, request: CompileRequest) => Graph;
}[] = [
  { name: 'bind-tensors', run: bindTensors },
  { name: 'shard', run: (graph, { rank = 0, worldSize = 1 }) => shard(graph, rank, worldSize) },
  { name: 'hoist-gather', run: hoistGather },
  { name: 'quantize', run: quantize },
  { name: 'merge', run: merge },
  { name: 'merge-experts', run: mergeExperts },
  { name: 'fuse', run: fuse },
  { name: 'remove-dead', run: removeDead },
];

/**
 * Compile a model for a target. Throws `invalid_request` for limits that the model does not allow, `bad_checkpoint` for
 * tensors that do not fit it, `unsupported_model` for what the definition or the target's kernels lack.
 * `observe` is shown the graph after the definition and after each pass.
 */
export function compile(request: CompileRequest, observe?: (pass: string, graph: Graph) => void): Plan {
  const facts = request.definition.facts(request.config);
  checkRequest(request, facts);
  let graph = request.definition.buildGraph(request.config, {
    kvDType: request.recipe.kvDType,
    maxModelLen: request.maxModelLen,
  });
  observe?.('definition', graph);
  const numParameters = countElements(graph);
  for (const pass of GRAPH_PASSES) {
    graph = pass.run(graph, request);
    verifyGraph(graph);
    observe?.(pass.name, graph);
  }
  const kernels = chooseKernels(graph, request);
  const memory = planMemory(graph, request.limits, activationDTypeOf(request));
  return emitPlan(graph, kernels, memory, request, facts, numParameters);
}

/** Of all parameters as they are published: what loading makes of them is another matter. */
function countElements({ parameters }: Graph): number {
  const sizes = parameters.map(({ value }) =>
    (value.type.shape as readonly number[]).reduce((product, size) => product * size, 1),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}
