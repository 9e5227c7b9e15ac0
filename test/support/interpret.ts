// Runs a graph on random weights, to show that a pass left its meaning alone.
import type { StepBatch } from '../../src/device/step.ts';
import type { Graph } from '../../src/ir/graph.ts';
import { Interpreter } from '../../src/ir/interpret.ts';
import { kvCacheGroups } from '../../src/ir/kv-cache-groups.ts';
import type { TensorSource } from '../../src/tensor/tensor-source.ts';
import { randomValues } from './check-launch.ts';
import { stepBatch } from './step-batch.ts';

/**
 * Tensors that depend on their name alone, sized so that every part of a model shows in its logits: matrices keep the
 * length of what they multiply, norm weights lie around 1.
 */
export function randomTensors(graph: Graph): (name: string) => Float32Array {
  const parts = graph.parameters.flatMap((parameter) => parameter.parts);
  const shapes = new Map(parts.map((part) => [part.tensor, part.tensorShape]));
  return (name) => {
    const shape = shapes.get(name)!;
    const size = shape.reduce((product, dim) => product * dim, 1);
    const seed = [...name].reduce((hash, char) => Math.imul(hash ^ char.charCodeAt(0), 0x01000193), 7);
    const isNorm = shape.length === 1 && !name.endsWith('bias');
    const amplitude = shape.length === 1 ? 0.4 : 2 / Math.sqrt(shape.at(-1)!);
    return randomValues(size, seed).map((value) => (isNorm ? 1 : 0) + amplitude * value);
  };
}

/** `randomTensors` as a checkpoint would give them. */
export function randomSource(graph: Graph): TensorSource {
  const readTensor = randomTensors(graph);
  const parts = graph.parameters.flatMap((parameter) => parameter.parts);
  const shapes = new Map(parts.map((part) => [part.tensor, part.tensorShape]));
  return {
    read(name) {
      const values = readTensor(name);
      return { dtype: 'float32', shape: shapes.get(name)!, bytes: new Uint8Array(values.buffer) };
    },
    close: () => undefined,
  };
}

/** Two steps: prompts of unequal length, then one decoded token and one chunk that wants all its rows. */
export function twoSteps(graph: Graph, blockSize: number): readonly StepBatch[] {
  const numGroups = kvCacheGroups(graph.kvCaches).length;
  const [a, b] = [
    [0, 1, 2],
    [7, 5, 6, 3],
  ];
  return [
    stepBatch(
      [
        { tokenIds: [5, 9, 11, 2, 7], numCached: 0, blocks: a },
        { tokenIds: [3, 14, 15, 9, 26, 5, 35], numCached: 0, blocks: b },
      ],
      blockSize,
      numGroups,
    ),
    stepBatch(
      [
        { tokenIds: [8], numCached: 5, blocks: a },
        { tokenIds: [1, 2, 3], numCached: 7, blocks: b, logitRows: [0, 1, 2] },
      ],
      blockSize,
      numGroups,
    ),
  ];
}

/** Logits of `twoSteps`. */
export function interpretTwoSteps(graph: Graph, readTensor: (name: string) => Float32Array): Float32Array[] {
  const blockSize = 4;
  const interpreter = new Interpreter(graph, { readTensor, numBlocks: 16, blockSize });
  return twoSteps(graph, blockSize).map((step) => interpreter.run(step).get('logits')!.data as Float32Array);
}
