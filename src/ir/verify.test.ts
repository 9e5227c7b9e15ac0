import { describe, expect, it } from 'vitest';
import type { Graph, Node, Value, ValueType } from './graph.ts';
import { GraphBuilder } from './graph-builder.ts';
import { GraphError } from './op.ts';
import { verifyGraph } from './verify.ts';

const spec = {
  layer: 0,
  numKvHeads: 1,
  keyHeadDim: 4,
  valueHeadDim: 4,
  window: null,
  dtype: 'float32',
} as const;
const attention = {
  ...{ layer: 0, numHeads: 1, numKvHeads: 1, headDim: 4, valueHeadDim: 4 },
  ...{ scale: 1, window: null, softcap: null, alibiSlopes: null },
};

/** embedding → kvWrite → attention → gatherRows → linear. */
function smallGraph(): Graph {
  const builder = new GraphBuilder('small');
  const table = builder.parameter('table', [8, 4]);
  const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
  const group = builder.kvCache(spec);
  const [token] = builder.apply('kvWrite', 'attn', [x, x, builder.input('slotMapping', group)], { layer: 0 });
  const step = [
    builder.input('blockTables', group),
    builder.input('cuSeqlensQ'),
    builder.input('contextLens'),
  ];
  const [attended] = builder.apply('attention', 'attn', [x, token, ...step], attention);
  const [rows] = builder.apply('gatherRows', 'head', [attended, builder.input('logitRows')]);
  const [logits] = builder.apply('linear', 'head', [rows, table]);
  builder.output('logits', logits);
  return builder.build();
}

function withNode(graph: Graph, op: string, change: (node: Node) => Node): Graph {
  return { ...graph, nodes: graph.nodes.map((node) => (node.op === op ? change(node) : node)) };
}

function retyped(value: Value, type: Partial<ValueType>): Value {
  return { ...value, type: { ...value.type, ...type } };
}

describe('verifyGraph', () => {
  it('accepts a sound graph, whatever float types its values have', () => {
    const graph = smallGraph();
    verifyGraph(graph);
    const asBfloat16 = (value: Value): Value =>
      value.type.dtype === 'float32' ? retyped(value, { dtype: 'bfloat16' }) : value;
    verifyGraph({
      ...graph,
      parameters: graph.parameters.map((parameter) => ({ ...parameter, value: asBfloat16(parameter.value) })),
      nodes: graph.nodes.map((node) => ({
        ...node,
        inputs: node.inputs.map(asBfloat16),
        outputs: node.outputs.map(asBfloat16),
      })),
      outputs: graph.outputs.map(({ name, value }) => ({ name, value: asBfloat16(value) })),
    });
  });

  const breaks: Record<string, readonly [(graph: Graph) => Graph, string]> = {
    'a use before the definition': [
      (graph) => ({ ...graph, nodes: graph.nodes.toReversed() }),
      'which is not defined before it',
    ],
    'a value defined twice': [
      (graph) => ({ ...graph, nodes: [graph.nodes[0], ...graph.nodes] }),
      'value embed.embedding is defined twice, the second time by embedding at embed',
    ],
    'an unknown op': [
      (graph) => withNode(graph, 'linear', (node) => ({ ...node, op: 'matmul' })),
      'no op is called matmul',
    ],
    'a wrong output type': [
      (graph) =>
        withNode(graph, 'linear', (node) => ({
          ...node,
          outputs: [retyped(node.outputs[0], { shape: ['numLogitRows', 9] })],
        })),
      'linear at head yields float32 [numLogitRows, 8], but the graph says float32 [numLogitRows, 9]',
    ],
    'a stale input type': [
      (graph) =>
        withNode(graph, 'gatherRows', (node) => ({
          ...node,
          inputs: [retyped(node.inputs[0], { shape: ['numTokens', 5] }), node.inputs[1]],
        })),
      'takes attn.attention for float32 [numTokens, 5], but it is float32 [numTokens, 4]',
    ],
    'a second write of a layer': [
      (graph) => {
        const write = graph.nodes.find((node) => node.op === 'kvWrite')!;
        const again = { ...write, outputs: [{ ...write.outputs[0], id: 99 }] };
        return { ...graph, nodes: graph.nodes.flatMap((node) => (node === write ? [write, again] : [node])) };
      },
      'kvWrite at attn writes layer 0 a second time',
    ],
    "a read by another layer's token": [
      (graph) => ({
        ...withNode(graph, 'attention', (node) => ({
          ...node,
          attributes: { ...node.attributes, layer: 1 },
        })),
        kvCaches: [spec, { ...spec, layer: 1 }],
      }),
      'attention at attn reads layer 1, but attn.kvWrite does not write it',
    ],
    'a layer without a cache': [
      (graph) => ({ ...graph, kvCaches: [] }),
      'uses layer 0, which has no KV cache',
    ],
    'a cache of another geometry': [
      (graph) => ({ ...graph, kvCaches: [{ ...spec, keyHeadDim: 8 }] }),
      "the columns of k must be 8, as layer 0's KV cache says; not 4",
    ],
    'a cache of another window': [
      (graph) => ({ ...graph, kvCaches: [{ ...spec, window: 16 }] }),
      "attention at attn: window must be 16, as layer 0's KV cache says; not null",
    ],
    'two caches of a layer': [(graph) => ({ ...graph, kvCaches: [spec, spec] }), 'a layer has two KV caches'],
    'two parameters of one name': [
      (graph) => ({
        ...graph,
        parameters: [
          ...graph.parameters,
          { ...graph.parameters[0], value: { ...graph.parameters[0].value, id: 98 } },
        ],
      }),
      'two parameters are called table',
    ],
    'parts that do not fill their parameter': [
      (graph) => ({
        ...graph,
        parameters: graph.parameters.map((parameter) => ({
          ...parameter,
          parts: parameter.parts.map((part) => ({ ...part, rowCount: 7 })),
        })),
      }),
      'the parts of parameter table do not fill [8, 4]',
    ],
    'an input of a group that is not there': [
      (graph) => ({ ...graph, inputs: graph.inputs.map((input) => ({ ...input, group: 1 })) }),
      'belongs to group 1 of 1',
    ],
    'no logits': [(graph) => ({ ...graph, outputs: [] }), 'no output is called logits'],
    'an output from nowhere': [
      (graph) => ({ ...graph, outputs: [{ name: 'logits', value: { ...graph.outputs[0].value, id: 97 } }] }),
      'output logits uses head.linear, which is not defined before it',
    ],
  };

  it.each(Object.entries(breaks))('refuses %s', (_, [breakIt, message]) => {
    const graph = breakIt(smallGraph());
    expect(() => verifyGraph(graph)).toThrow(GraphError);
    expect(() => verifyGraph(graph)).toThrow(message);
  });
});

describe('GraphBuilder', () => {
  it('gives one value for an input asked for twice', () => {
    const builder = new GraphBuilder('g');
    expect(builder.input('tokenIds')).toBe(builder.input('tokenIds'));
    expect(builder.input('slotMapping', 1)).not.toBe(builder.input('slotMapping', 0));
  });

  it('refuses a parameter defined twice', () => {
    const builder = new GraphBuilder('g');
    builder.parameter('w', [2, 2]);
    expect(() => builder.parameter('w', [2, 2])).toThrow('parameter w is defined twice');
  });

  it('puts layers of equal geometry and window into one group', () => {
    const builder = new GraphBuilder('g');
    const groups = [null, 16, null, 16].map((window, layer) => builder.kvCache({ ...spec, layer, window }));
    expect(groups).toEqual([0, 1, 0, 1]);
  });
});
