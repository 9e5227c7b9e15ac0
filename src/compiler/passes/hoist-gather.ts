// Moves the gather of logit rows up through ops that treat each row alone: what follows the last attention is then
// computed for the rows that are projected to logits, not for every token of a prompt.
import type { Graph, Node, Value } from '../../ir/graph.ts';
import { GraphIndex } from '../graph-index.ts';
import { opOf } from '../op-of.ts';

export function hoistGather(graph: Graph): Graph {
  const rows = graph.inputs.find((input) => input.name === 'logitRows')?.value;
  if (!rows) return graph;
  const index = new GraphIndex(graph);
  const rewrite = new GatheredRewrite(index, rows, narrowNodes(index, rows));
  const nodes = graph.nodes.flatMap((node) => rewrite.visit(node));
  const outputs = graph.outputs.map((output) => ({ ...output, value: rewrite.replaced(output.value) }));
  return { ...graph, nodes, outputs };
}

function isGather(node: Node, rows: Value): boolean {
  return node.op === 'gatherRows' && node.inputs[1].id === rows.id;
}

/** Nodes all of whose results are wanted at the gathered rows only. */
function narrowNodes(index: GraphIndex, rows: Value): ReadonlySet<Node> {
  const narrow = new Set<Node>();
  const isNarrowUse = (user: Node): boolean => narrow.has(user) || isGather(user, rows);
  for (const node of index.graph.nodes.toReversed()) {
    const users = node.outputs.flatMap((output) => index.users(output));
    const isWantedWhole = node.outputs.some((output) => index.isOutput(output)) || !users.every(isNarrowUse);
    if (users.length > 0 && !isWantedWhole && canNarrow(node)) narrow.add(node);
  }
  return narrow;
}

/** The op treats rows alone, and every operand with rows is a matrix that a gather can shorten. */
function canNarrow(node: Node): boolean {
  const { isRowwise, hasEffect } = opOf(node);
  const hasOnlyMatrices = node.inputs.filter(hasTokenRows).every((input) => input.type.shape.length === 2);
  return isRowwise && !hasEffect && node.op !== 'gatherRows' && hasOnlyMatrices;
}

function hasTokenRows(value: Value): boolean {
  return value.type.shape[0] === 'numTokens';
}

/** Rebuilds the nodes in order, keeping for each value its gathered form and for each dropped gather its stand-in. */
class GatheredRewrite {
  readonly #index: GraphIndex;
  readonly #rows: Value;
  readonly #narrow: ReadonlySet<Node>;
  readonly #gathered = new Map<number, Value>();
  readonly #replaced = new Map<number, Value>();

  constructor(index: GraphIndex, rows: Value, narrow: ReadonlySet<Node>) {
    this.#index = index;
    this.#rows = rows;
    this.#narrow = narrow;
  }

  replaced(value: Value): Value {
    return this.#replaced.get(value.id) ?? value;
  }

  visit(node: Node): readonly Node[] {
    if (this.#narrow.has(node)) return this.#narrowed(node);
    if (isGather(node, this.#rows)) return this.#keptGather(node);
    return [{ ...node, inputs: node.inputs.map((input) => this.replaced(input)) }];
  }

  /** A gather stays if nothing gathered its input before. */
  #keptGather(node: Node): readonly Node[] {
    const [input] = node.inputs;
    const [output] = node.outputs;
    const gathered = this.#gathered.get(input.id);
    if (gathered) this.#replaced.set(output.id, gathered);
    else this.#gathered.set(input.id, output);
    return gathered ? [] : [node];
  }

  #narrowed(node: Node): readonly Node[] {
    const gathers: Node[] = [];
    const inputs = node.inputs.map((input) =>
      hasTokenRows(input) ? this.#gather(input, node, gathers) : input,
    );
    const types = opOf(node).infer({ ...node, inputs: inputs.map((input) => input.type) });
    const outputs = node.outputs.map((output, i) => this.#index.newValue(output.name, types[i]));
    node.outputs.forEach((output, i) => this.#gathered.set(output.id, outputs[i]));
    return [...gathers, { ...node, inputs, outputs }];
  }

  #gather(value: Value, node: Node, gathers: Node[]): Value {
    const known = this.#gathered.get(value.id);
    if (known) return known;
    const [, columns] = value.type.shape;
    const output = this.#index.newValue(value.name, { ...value.type, shape: ['numLogitRows', columns] });
    const inputs = [value, this.#rows];
    gathers.push({ op: 'gatherRows', label: node.label, inputs, outputs: [output], attributes: {} });
    this.#gathered.set(value.id, output);
    return output;
  }
}
