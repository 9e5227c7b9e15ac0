// Runs a graph by its ops' own definitions: slow, plain, and what every device is compared with.
import { assembleWeight, type ReadTensor } from './assemble-weight.ts';
import type { Graph, Node } from './graph.ts';
import type { HostTensor } from './host-tensor.ts';
import { kvCacheGroups } from './kv-cache-groups.ts';
import { OPS } from './ops/index.ts';
import { PagedKVCaches } from './paged-kv-cache.ts';
import { stepInput, type StepArrays } from './step-inputs.ts';

export interface InterpreterOptions {
  /** Tensors of the checkpoint by the names that the parameters' parts give. */
  readonly readTensor: ReadTensor;
  /** Blocks of each group of layers that share a block table. */
  readonly numBlocks: number;
  /** Tokens in a block. */
  readonly blockSize: number;
}

/** A graph with its weights and KV cache. */
export class Interpreter {
  readonly #graph: Graph;
  readonly #weights: ReadonlyMap<number, HostTensor>;
  readonly #caches: PagedKVCaches;

  constructor(graph: Graph, { readTensor, numBlocks, blockSize }: InterpreterOptions) {
    this.#graph = graph;
    this.#weights = new Map(
      graph.parameters.map((parameter) => [
        parameter.value.id,
        {
          shape: parameter.value.type.shape as readonly number[],
          data: assembleWeight(parameter, readTensor),
        },
      ]),
    );
    const groups = kvCacheGroups(graph.kvCaches);
    this.#caches = new PagedKVCaches(
      groups,
      blockSize,
      groups.map(() => numBlocks),
    );
  }

  /** One step; returns the graph's outputs by name. Keys and values stay in the cache for the next step. */
  run(step: StepArrays): ReadonlyMap<string, HostTensor> {
    this.#caches.copyBlocks(step.blockCopies);
    const values = new Map(this.#weights);
    for (const { name, group, value } of this.#graph.inputs) {
      values.set(value.id, stepInput(step, name, group));
    }
    for (const node of this.#graph.nodes) this.#runNode(node, values);
    return new Map(this.#graph.outputs.map(({ name, value }) => [name, values.get(value.id)!]));
  }

  #runNode(node: Node, values: Map<number, HostTensor>): void {
    const inputs = node.inputs.map((input) => values.get(input.id)!);
    const outputs = OPS.get(node.op)!.interpret(inputs, node.attributes, this.#caches);
    node.outputs.forEach((output, i) => values.set(output.id, outputs[i]));
  }
}
