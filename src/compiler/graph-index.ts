// Who makes and who reads each value of a graph: what passes ask while they match and rewrite.
import type { Graph, Node, Parameter, Value } from '../ir/graph.ts';

export class GraphIndex {
  readonly graph: Graph;
  readonly #producers = new Map<number, Node>();
  readonly #positions = new Map<Node, number>();
  readonly #users = new Map<number, Node[]>();
  readonly #parameters: ReadonlyMap<number, Parameter>;
  readonly #outputs: ReadonlySet<number>;
  #nextId: number;

  constructor(graph: Graph) {
    this.graph = graph;
    for (const [position, node] of graph.nodes.entries()) {
      this.#positions.set(node, position);
      for (const output of node.outputs) this.#producers.set(output.id, node);
      for (const id of new Set(node.inputs.map((input) => input.id))) {
        this.#users.set(id, [...(this.#users.get(id) ?? []), node]);
      }
    }
    this.#parameters = new Map(graph.parameters.map((parameter) => [parameter.value.id, parameter]));
    this.#outputs = new Set(graph.outputs.map((output) => output.value.id));
    this.#nextId = 1 + Math.max(0, ...allValues(graph).map((value) => value.id));
  }

  producer(value: Value): Node | null {
    return this.#producers.get(value.id) ?? null;
  }

  /** Where the node stands in execution order. */
  position(node: Node): number {
    return this.#positions.get(node)!;
  }

  /** Each node once, however often it reads the value. */
  users(value: Value): readonly Node[] {
    return this.#users.get(value.id) ?? [];
  }

  /** The node that alone reads the value; null if there are several, or the graph gives it out. */
  soleUser(value: Value): Node | null {
    const users = this.users(value);
    return users.length === 1 && !this.isOutput(value) ? users[0] : null;
  }

  parameter(value: Value): Parameter | null {
    return this.#parameters.get(value.id) ?? null;
  }

  isOutput(value: Value): boolean {
    return this.#outputs.has(value.id);
  }

  /** A value of an id that the graph does not have yet. */
  newValue(name: string, type: Value['type']): Value {
    return { id: this.#nextId++, name, type };
  }
}

function allValues(graph: Graph): readonly Value[] {
  return [
    ...graph.inputs.map((input) => input.value),
    ...graph.parameters.map((parameter) => parameter.value),
    ...graph.nodes.flatMap((node) => node.outputs),
  ];
}
