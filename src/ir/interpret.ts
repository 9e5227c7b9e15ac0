// Runs a graph by its ops' own definitions: slow, plain, and what every device is compared with.
import { assembleWeight, type ReadTensor } from './assemble-weight.ts';
import type { Graph, Node } from './graph.ts';
import type { HostTensor } from './host-tensor.ts';
import type { InterpretContext } from './op.ts';
import { OPS } from './ops/index.ts';
import { PagedKVCache } from './paged-kv-cache.ts';
import { stepInput, type StepArrays } from './step-inputs.ts';

export interface InterpreterOptions {
  /** Tensors of the checkpoint by the names that the parameters' parts give. */
  readonly readTensor: ReadTensor;
  /** Blocks in each layer's KV cache. */
  readonly numBlocks: number;
  /** Tokens in a block. */
  readonly blockSize: number;
}

/** A graph with its weights and KV cache. */
export class Interpreter {
  readonly #graph: Graph;
  readonly #weights: ReadonlyMap<number, HostTensor>;
  readonly #context: InterpretContext;

  constructor(graph: Graph, options: InterpreterOptions) {
    this.#graph = graph;
    this.#weights = new Map(
      graph.parameters.map(({ value, parts }) => [
        value.id,
        { shape: value.type.shape as readonly number[], data: assembleWeight(parts, options.readTensor) },
      ]),
    );
    const caches = new Map(
      graph.kvCaches.map((spec) => [spec.layer, new PagedKVCache({ ...spec, ...options })]),
    );
    this.#context = { kvCache: (layer) => caches.get(layer)! };
  }

  /** One step; returns the graph's outputs by name. Keys and values stay in the cache for the next step. */
  run(step: StepArrays): ReadonlyMap<string, HostTensor> {
    const values = new Map(this.#weights);
    for (const { name, group, value } of this.#graph.inputs)
      values.set(value.id, stepInput(step, name, group));
    for (const node of this.#graph.nodes) this.#runNode(node, values);
    return new Map(this.#graph.outputs.map(({ name, value }) => [name, values.get(value.id)!]));
  }

  #runNode(node: Node, values: Map<number, HostTensor>): void {
    const inputs = node.inputs.map((input) => values.get(input.id)!);
    const outputs = OPS.get(node.op)!.interpret(inputs, node.attributes, this.#context);
    node.outputs.forEach((output, i) => values.set(output.id, outputs[i]));
  }
}
