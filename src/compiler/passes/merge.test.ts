import { describe, expect, test } from 'vitest';
import { compileRequest, TINY_GPT2, TINY_LLAMA } from '../../../test/support/compile.ts';
import { GraphBuilder } from '../../ir/graph-builder.ts';
import type { Graph, Value } from '../../ir/graph.ts';
import { verifyGraph } from '../../ir/verify.ts';
import type { HFConfig } from '../../models/model-definition.ts';
import { merge, mergedName } from './merge.ts';

function definitionGraph(config: HFConfig): Graph {
  const { definition, maxModelLen } = compileRequest(config);
  return definition.buildGraph(config, { kvDType: 'float32', maxModelLen });
}

function numLinears(graph: Graph): number {
  return graph.nodes.filter((node) => node.op === 'linear').length;
}

/** `logits` is the sum of what `build` makes of an embedded input `[numTokens, 4]`. */
function toy(build: (builder: GraphBuilder, x: Value) => readonly Value[]): Graph {
  const builder = new GraphBuilder('toy');
  const table = builder.parameter('table', [8, 4]);
  const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
  const outputs = build(builder, x);
  const sum = outputs.reduce((a, b) => builder.apply('add', 'sum', [a, b])[0]);
  builder.output('logits', sum);
  return builder.build();
}

const linear = (builder: GraphBuilder, name: string, x: Value, bias = false): Value => {
  const weight = builder.parameter(`${name}.weight`, [4, 4]);
  const biases = bias ? [builder.parameter(`${name}.bias`, [4])] : [];
  return builder.apply('linear', name, [x, weight, ...biases])[0];
};

describe('merge', () => {
  test('queries, keys and values become one product, gate and up another, under readable names', () => {
    const before = definitionGraph(TINY_LLAMA);
    const after = merge(before);
    verifyGraph(after);
    expect(numLinears(before) - numLinears(after)).toBe(2 * (2 + 1));
    const names = after.parameters.map((parameter) => parameter.name);
    expect(names).toContain('model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight');
    expect(names).toContain('model.layers.1.mlp.{gate_proj,up_proj}.weight');
    const qkv = after.parameters.find(({ name }) => name.includes('{q_proj'))!;
    expect(qkv.parts.map(({ name, rowCount }) => [name.split('.').at(-2), rowCount])).toEqual([
      ['q_proj', 32],
      ['k_proj', 16],
      ['v_proj', 16],
    ]);
  });

  test('biases are stacked with their weights', () => {
    const after = merge(definitionGraph(TINY_GPT2));
    const biases = after.parameters.filter(
      ({ parts }) => parts.length === 3 && parts[0].tensorShape.length === 1,
    );
    expect(biases.map((parameter) => parameter.value.type.shape)).toEqual([[96], [96]]);
  });

  test('linears with and without bias stay apart', () => {
    const graph = merge(toy((b, x) => [linear(b, 'a', x), linear(b, 'b', x, true), linear(b, 'c', x)]));
    verifyGraph(graph);
    expect(numLinears(graph)).toBe(2);
  });

  test('linears of different inputs stay apart', () => {
    const graph = toy((b, x) => [
      linear(b, 'a', x),
      linear(b, 'b', b.apply('scale', 'twice', [x], { factor: 2 })[0]),
    ]);
    expect(merge(graph)).toEqual(graph);
  });

  test('a weight that two layers share is left alone', () => {
    const graph = toy((b, x) => {
      const shared = b.parameter('shared', [4, 4]);
      return [b.apply('linear', 'a', [x, shared])[0], b.apply('linear', 'b', [x, shared])[0]];
    });
    expect(merge(graph)).toEqual(graph);
  });
});

describe('mergedName', () => {
  test.each([
    [['a.q.weight', 'a.k.weight'], 'a.{q,k}.weight'],
    [['a.w[0:4]', 'a.w[4:8]'], 'a.{w[0:4],w[4:8]}'],
    [['q', 'k'], '{q,k}'],
    [['a.b', 'a.b'], 'a.b'],
    [['a.b.c', 'a.c'], 'a.{b,}.c'],
  ])('%j is %s', (names, merged) => {
    expect(mergedName(names)).toBe(merged);
  });
});
