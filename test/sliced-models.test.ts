// A model that begins with values which an earlier reading left computes what the whole one does, to the last bit, and of
// what is before these values nothing.
import { describe, expect, it } from 'vitest';
import { GraphIndex } from '../src/compiler/graph-index.ts';
import { valuesBefore, stagesOf } from '../src/quantization/stages.ts';
import { inputsOf, weightOf, type Product } from '../src/quantization/products.ts';
import { sliceGraph, valueName } from '../src/eval/slice-graph.ts';
import type { StepBatch } from '../src/device/step.ts';
import type { Graph, Value } from '../src/ir/graph.ts';
import { Interpreter } from '../src/ir/interpret.ts';
import { findModel } from '../src/models/registry.ts';
import { randomTensors, twoSteps } from './support/interpret.ts';
import { loadReference, REFERENCE_NAMES } from './support/reference-checkpoint.ts';

const BLOCK_SIZE = 4;

function productsOf(index: GraphIndex): readonly Product[] {
  const format = { dtype: 'int8', groupSize: null, hasZeros: false } as const;
  return index.graph.nodes.flatMap((node) => {
    const weight = weightOf(node, index);
    return weight === null || index.isOutput(node.outputs[0]) ? [] : [{ node, weight, format }];
  });
}

type Read = (name: string) => Float32Array;
type Rows = ReadonlyMap<number, Float32Array>;

/** Of each value its rows in all steps, one after the other. */
function observe(
  graph: Graph,
  values: readonly Value[],
  steps: readonly StepBatch[],
  readTensor: Read,
): Rows {
  const interpreter = new Interpreter(graph, { readTensor, numBlocks: 16, blockSize: BLOCK_SIZE });
  const results = steps.map((step) => interpreter.run(step));
  return new Map(
    values.map(({ id }) => {
      const pieces = results.map((result) => [...(result.get(valueName(id))!.data as Float32Array)]);
      return [id, Float32Array.from(pieces.flat())];
    }),
  );
}

/** The steps with the numbers of their rows in the place of tokens. */
function numbered(steps: readonly StepBatch[]): readonly StepBatch[] {
  let start = 0;
  return steps.map((step) => {
    const tokenIds = step.tokenIds.map((_, row) => start + row);
    start += step.numTokens;
    return { ...step, tokenIds };
  });
}

describe.each(REFERENCE_NAMES)('%s', (name) => {
  const { config } = loadReference(name);
  const graph = findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: 64 });
  const index = new GraphIndex(graph);
  const products = productsOf(index);
  const steps = twoSteps(graph, BLOCK_SIZE);
  const numRows = steps.reduce((sum, { numTokens }) => sum + numTokens, 0);
  const read = randomTensors(graph);

  it('continues stage by stage', () => {
    const stages = stagesOf(products, 5).map((stage, i, all) => ({
      wanted: inputsOf(stage).map(({ value }) => value),
      kept: valuesBefore(all.slice(i).flat(), index),
      products: stage,
    }));
    const values = [...new Set(stages.flatMap(({ wanted, kept }) => [...wanted, ...kept]))];
    const whole = observe(sliceGraph(graph, values, [])!, values, steps, read);
    const tables = new Map([...whole].map(([id, rows]) => [valueName(id), rows]));
    let numSliced = 0;
    stages.slice(1).forEach(({ wanted, kept }, i) => {
      const known = stages[i].kept.map((value) => ({ value, numRows }));
      const given = [...new Set([...wanted, ...kept])];
      const slice = sliceGraph(graph, given, known);
      if (slice === null) return;
      numSliced++;
      const seen = observe(slice, given, numbered(steps), (tensor) => tables.get(tensor) ?? read(tensor));
      for (const [id, rows] of seen) expect(rows).toEqual(whole.get(id));
      const inSlice = new Set(slice.nodes.map(({ outputs }) => outputs[0].id));
      const computed = products.filter(({ node }) => inSlice.has(node.outputs[0].id));
      const stageOf = computed.map((product) =>
        stages.findIndex((other) => other.products.includes(product)),
      );
      expect(Math.min(...stageOf)).toBeGreaterThanOrEqual(i - 1);
    });
    expect(numSliced).toBe(stages.length - 1);
  });
});
