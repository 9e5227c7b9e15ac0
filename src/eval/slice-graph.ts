// The part of a model's graph that some values take, if others are known already.
import type { Graph, Node, Parameter, Value } from '../ir/graph.ts';

/** A value that was computed before, for every token of a text: `[numRows, columns]`. */
export interface KnownValue {
  readonly value: Value;
  readonly numRows: number;
}

/** What an output that gives out the value is called, and a tensor that holds it for all tokens. */
export function valueName(valueId: number): string {
  return `value.${valueId}`;
}

/**
 * A graph whose outputs are these values, and logits that mean nothing: every plan has some. Known values are rows of
 * tensors of float32: token ids are row numbers then. null where known values do not spare the reading of tokens.
 */
export function sliceGraph(
  graph: Graph,
  wanted: readonly Value[],
  known: readonly KnownValue[],
): Graph | null {
  const ids = new IdSource(graph);
  const tokens = graph.inputs.find(({ name }) => name === 'tokenIds')!.value;
  const tables = known.map((one) => tableOf(one, ids));
  const lookups = known.map(({ value }, i): Node => {
    const inputs = [tokens, tables[i].value];
    return { op: 'embedding', label: valueName(value.id), inputs, outputs: [value], attributes: {} };
  });
  const isKnown = new Set(known.map(({ value }) => value.id));
  const computed = graph.nodes.map((node) => ({
    ...node,
    outputs: node.outputs.map((value) => (isKnown.has(value.id) ? { ...value, id: ids.next() } : value)),
  }));
  const nodes = withoutLogits([...lookups, ...computed], wanted);
  const further = wanted.map((value) => ({ name: valueName(value.id), value }));
  const outputs = [...graph.outputs, ...further];
  const live = liveNodes(
    nodes,
    outputs.map(({ value }) => value),
  );
  const readsTokens = live.some((node) => !lookups.includes(node) && node.inputs.includes(tokens));
  if (known.length > 0 && readsTokens) return null;
  return { ...graph, parameters: [...graph.parameters, ...tables], nodes: live, outputs };
}

/** Ids that no value has. */
class IdSource {
  #last: number;

  constructor({ nodes, parameters, inputs }: Graph) {
    const values = [...nodes.flatMap((node) => [...node.inputs, ...node.outputs])];
    values.push(...parameters.map(({ value }) => value), ...inputs.map(({ value }) => value));
    this.#last = values.reduce((most, { id }) => Math.max(most, id), 0);
  }

  next(): number {
    return ++this.#last;
  }
}

function tableOf({ value, numRows }: KnownValue, ids: IdSource): Parameter {
  const name = valueName(value.id);
  const shape = [numRows, value.type.shape[1] as number] as const;
  const rows = { rowStart: 0, rowCount: numRows, rowStep: 1, columnStart: 0, columnCount: shape[1] };
  return {
    name,
    value: { id: ids.next(), name, type: { dtype: 'float32', shape } },
    parts: [{ name, tensor: name, tensorShape: shape, transpose: false, ...rows }],
    shard: 'none',
    storedAs: 'float32',
  };
}

/** Logits come from a value that there is anyway, if one has the shape of what they are gathered from. */
function withoutLogits(nodes: readonly Node[], wanted: readonly Value[]): readonly Node[] {
  const needed = liveNodes(nodes, wanted);
  const values = [...needed, ...nodes].flatMap(({ outputs }) => outputs);
  return nodes.map((node) => {
    if (node.op !== 'gatherRows' || needed.includes(node)) return node;
    const [gathered, ...others] = node.inputs;
    const alike = values.find(({ type }) => JSON.stringify(type) === JSON.stringify(gathered.type));
    return { ...node, inputs: [alike ?? gathered, ...others] };
  });
}

/** Those that the values depend on. Of caches, too, only what is read is written. */
function liveNodes(nodes: readonly Node[], values: readonly Value[]): readonly Node[] {
  const live = new Set(values.map(({ id }) => id));
  const isLive = nodes.toReversed().filter(({ inputs, outputs }) => {
    if (!outputs.some(({ id }) => live.has(id))) return false;
    for (const { id } of inputs) live.add(id);
    return true;
  });
  return isLive.toReversed();
}
