import { describe, expect, test } from 'vitest';
import { expectClose } from '../../../test/support/check-launch.ts';
import { compileRequest, plainKernels } from '../../../test/support/compile.ts';
import { interpretTwoSteps, randomTensors } from '../../../test/support/interpret.ts';
import { loadReference } from '../../../test/support/reference-checkpoint.ts';
import type { Graph } from '../../ir/graph.ts';
import { GATED_PRODUCTS } from '../../ir/ops/gated-products.ts';
import { verifyGraph } from '../../ir/verify.ts';
import type { KernelDescription } from '../../kernels/kernel.ts';
import type { CompileRequest } from '../request.ts';
import { quantizationRules } from '../quantization-rules.ts';
import { mergeExperts } from './merge-experts.ts';
import { quantize } from './quantize.ts';

const GATED_KERNELS: readonly KernelDescription[] = GATED_PRODUCTS.map(({ name }) => ({
  op: name,
  weightLayout: () => 'rowMajor',
  variants: () => [{ kernel: name, maxRows: null }],
  workspaceBytes: () => 0,
}));

/** The model's graph, and what to compile it for: a target that has products with an activation behind them. */
function modelOf(name: string): { readonly graph: Graph; readonly request: CompileRequest } {
  const { config } = loadReference(name);
  const kernels = [...plainKernels(), ...GATED_KERNELS];
  const request = compileRequest(config, { kernels });
  const graph = request.definition.buildGraph(config, {
    kvDType: 'float32',
    maxModelLen: request.maxModelLen,
  });
  return { graph, request };
}

/** But for the rounding of what is not written any more. */
function expectSameMeaning(after: Graph, before: Graph, readTensor: (name: string) => Float32Array): void {
  const expected = interpretTwoSteps(before, readTensor);
  interpretTwoSteps(after, readTensor).forEach((logits, step) => expectClose(logits, expected[step], 1e-5));
}

const count = (graph: Graph, op: string): number => graph.nodes.filter((node) => node.op === op).length;

describe('mergeExperts', () => {
  test.each(['mixtral', 'qwen3_moe', 'deepseek_v3'])('leaves the meaning of %s alone', (name) => {
    const { graph, request } = modelOf(name);
    const after = mergeExperts(graph, request);
    verifyGraph(after);
    expect(count(after, 'gatedGroupedLinear')).toBeGreaterThan(0);
    expectSameMeaning(after, graph, randomTensors(graph));
  });

  test.each(['int8', 'fp8'] as const)('joins codes and their scales (%s)', (recipe) => {
    const { graph, request } = modelOf('mixtral');
    const quantization = quantizationRules(recipe, null, []);
    const before = quantize(graph, { ...request, recipe: { ...request.recipe, quantization } });
    const after = mergeExperts(before, request);
    verifyGraph(after);
    expect(after.nodes.filter(({ op }) => op.startsWith('gated')).length).toBeGreaterThan(0);
    expectSameMeaning(after, before, randomTensors(graph));
  });

  test('a weight has the rows of the gate, then those of the up, of each expert', () => {
    const { graph, request } = modelOf('mixtral');
    const { parameters } = mergeExperts(graph, request);
    const joined = parameters.find(({ name }) => name.includes('{w1,w3}'))!;
    expect(joined.parts.slice(0, 4).map(({ name }) => name.split('.').slice(-3, -1))).toEqual([
      ['0', 'w1'],
      ['0', 'w3'],
      ['1', 'w1'],
      ['1', 'w3'],
    ]);
  });

  test('nothing changes where the target has no such op, or something stands between', () => {
    const { graph, request } = modelOf('mixtral');
    expect(mergeExperts(graph, { ...request, kernels: plainKernels() })).toEqual(graph);
    const clamped = modelOf('gpt_oss');
    expect(mergeExperts(clamped.graph, clamped.request)).toEqual(clamped.graph);
  });
});
