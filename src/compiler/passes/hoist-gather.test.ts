import { describe, expect, test } from 'vitest';
import { compileRequest, TINY_GPT2, TINY_LLAMA } from '../../../test/support/compile.ts';
import { GraphBuilder } from '../../ir/graph-builder.ts';
import type { Graph } from '../../ir/graph.ts';
import { verifyGraph } from '../../ir/verify.ts';
import { hoistGather } from './hoist-gather.ts';

const rowsOf = (graph: Graph, op: string) =>
  graph.nodes.filter((node) => node.op === op).map((node) => node.outputs[0].type.shape[0]);

describe('hoistGather', () => {
  test.each([
    ['llama', TINY_LLAMA],
    ['gpt2', TINY_GPT2],
  ])('%s: what follows the last attention is computed for logit rows only', (_, config) => {
    const { definition, maxModelLen } = compileRequest(config);
    const graph = hoistGather(definition.buildGraph(config, { kvDType: 'float32', maxModelLen }));
    verifyGraph(graph);
    const lastAttention = graph.nodes.findLastIndex((node) => node.op === 'attention');
    const after = graph.nodes.slice(lastAttention + 1);
    const before = graph.nodes.slice(0, lastAttention + 1);
    expect(after.filter((node) => node.op === 'gatherRows')).toHaveLength(2); // attention's output and the residual
    expect(new Set(after.map((node) => node.outputs[0].type.shape[0]))).toEqual(new Set(['numLogitRows']));
    expect(before.some((node) => node.outputs[0].type.shape[0] === 'numLogitRows')).toBe(false);
  });

  test('a value that others want whole is gathered where it was', () => {
    const builder = new GraphBuilder('toy');
    const table = builder.parameter('table', [8, 4]);
    const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
    const [y] = builder.apply('scale', 'twice', [x], { factor: 2 });
    const [logits] = builder.apply('gatherRows', 'rows', [y, builder.input('logitRows')]);
    builder.output('logits', logits);
    builder.output('all', y);
    const graph = builder.build();
    expect(hoistGather(graph)).toEqual(graph);
  });

  test('two gathers of one value become one', () => {
    const builder = new GraphBuilder('toy');
    const table = builder.parameter('table', [8, 4]);
    const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
    const rows = builder.input('logitRows');
    const [a] = builder.apply('gatherRows', 'a', [builder.apply('scale', 's', [x], { factor: 2 })[0], rows]);
    const [b] = builder.apply('gatherRows', 'b', [x, rows]);
    builder.output('logits', builder.apply('add', 'sum', [a, b])[0]);
    const graph = hoistGather(builder.build());
    verifyGraph(graph);
    expect(rowsOf(graph, 'gatherRows')).toHaveLength(1);
    expect(rowsOf(graph, 'scale')).toEqual(['numLogitRows']);
  });
});
