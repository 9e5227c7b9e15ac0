import { describe, expect, test } from 'vitest';
import { compileRequest, TINY_GPT2, TINY_LLAMA } from '../../../test/support/compile.ts';
import { interpretTwoSteps, randomTensors } from '../../../test/support/interpret.ts';
import { GraphBuilder } from '../../ir/graph-builder.ts';
import type { Graph } from '../../ir/graph.ts';
import { verifyGraph } from '../../ir/verify.ts';
import type { HFConfig } from '../../models/model-definition.ts';
import { shard } from './shard.ts';

function definitionGraph(config: HFConfig): Graph {
  const { definition, maxModelLen } = compileRequest(config);
  return definition.buildGraph(config, { kvDType: 'float32', maxModelLen });
}

function rowsOf(graph: Graph, name: string): number[] {
  const { parts } = graph.parameters.find((parameter) => parameter.name === name)!;
  return parts.map((part) => part.rowStart);
}

describe('shard', () => {
  test('one rank changes nothing', () => {
    const graph = definitionGraph(TINY_LLAMA);
    expect(shard(graph, 0, 1)).toBe(graph);
  });

  test.each([
    ['llama', TINY_LLAMA, 2],
    ['llama, fewer KV heads than ranks', TINY_LLAMA, 4],
    ['gpt2', TINY_GPT2, 2],
  ])('%s: every rank has a whole graph, and the ranks together every row', (_, config, worldSize) => {
    const whole = definitionGraph(config);
    const ranks = Array.from({ length: worldSize }, (__, rank) => shard(whole, rank, worldSize));
    for (const graph of ranks) verifyGraph(graph);
    for (const { name, shard: kind, value } of whole.parameters) {
      const sizes = ranks.map(
        (graph) => graph.parameters.find((parameter) => parameter.name === name)!.value.type.shape,
      );
      const axis = kind === 'columns' ? 1 : 0;
      const total = sizes.reduce((sum, shape) => sum + (shape[axis] as number), 0);
      const copies = kind === 'none' ? worldSize : total / (value.type.shape[axis] as number);
      expect([1, worldSize, worldSize / 2], name).toContain(copies);
    }
  });

  test('KV heads fewer than ranks are held by several of them', () => {
    const whole = definitionGraph(TINY_LLAMA); // 4 heads, 2 KV heads of 8 columns
    const ranks = [0, 1, 2, 3].map((rank) => shard(whole, rank, 4));
    const starts = (name: string) =>
      ranks.map((graph) => rowsOf(graph, `model.layers.0.self_attn.${name}.weight`)[0]);
    expect(starts('q_proj')).toEqual([0, 8, 16, 24]);
    expect(starts('k_proj')).toEqual([0, 0, 8, 8]);
    expect(starts('v_proj')).toEqual([0, 0, 8, 8]);
    expect(ranks.map((graph) => graph.kvCaches[0].numKvHeads)).toEqual([1, 1, 1, 1]);
  });

  test('the ranks’ parts of a split pair of linears add up to the whole', () => {
    const builder = new GraphBuilder('toy');
    const table = builder.parameter('table', [64, 4]);
    const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
    const up = builder.parameter('up', [8, 4], { shard: 'rows' });
    const down = builder.parameter('down', [4, 8], { shard: 'columns', transpose: true });
    const [hidden] = builder.apply('linear', 'up', [x, up]);
    const [active] = builder.apply('activation', 'act', [hidden], { kind: 'gelu' });
    const [y] = builder.apply('linear', 'down', [active, down]);
    builder.output('logits', builder.apply('gatherRows', 'rows', [y, builder.input('logitRows')])[0]);
    const graph = builder.build();
    const tensors = randomTensors(graph);
    const [whole] = interpretTwoSteps(graph, tensors);
    const parts = [0, 1].map((rank) => interpretTwoSteps(shard(graph, rank, 2), tensors)[0]);
    whole.forEach((value, i) => expect(parts[0][i] + parts[1][i]).toBeCloseTo(value, 5));
  });

  test('heads that cannot be shared out evenly are refused', () => {
    expect(() => shard(definitionGraph(TINY_LLAMA), 0, 3)).toThrow(/cannot be split over 3 ranks/);
  });
});
