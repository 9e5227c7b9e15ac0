import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compileRequest, TINY_GPT2, TINY_LLAMA } from '../../../test/support/compile.ts';
import { GraphBuilder } from '../../ir/graph-builder.ts';
import type { Graph, Value } from '../../ir/graph.ts';
import { itemSize } from '../../tensor/dtype.ts';
import { resolveDim } from '../../tensor/shape.ts';
import { compile } from '../compile.ts';
import { opOf } from '../op-of.ts';
import type { StepLimits } from '../plan.ts';
import { stepDims } from '../step-dims.ts';
import { planMemory, type MemoryPlan } from './plan-memory.ts';

const LIMITS: StepLimits = { maxNumBatchedTokens: 5, maxNumSeqs: 3, maxNumLogitRows: 2 };

/**
 * Plays the graph on an arena that holds, for each element, which value wrote it: whatever reads a value must find
 * that value and no other, and so must who reads the outputs at the end.
 */
function playOwners(graph: Graph, plan: MemoryPlan): void {
  const owners = new Int32Array(plan.arenaBytes / 4).fill(-1);
  const roots = new Map<number, number>(); // views own what they look at
  const cells = (value: Value): number[] => {
    const { id, columnStart, columns, rowStride } = plan.operands.get(value.id)!;
    const { offset, bytes, dtype } = plan.buffers[id];
    expect(itemSize(dtype)).toBe(4);
    const numRows = resolveDim(value.type.shape[0], stepDims(LIMITS));
    expect(numRows * rowStride * 4).toBeLessThanOrEqual(bytes);
    const start = offset / 4 + columnStart;
    return Array.from({ length: numRows * columns }, (_, i) => {
      return start + Math.floor(i / columns) * rowStride + (i % columns);
    });
  };
  const check = (value: Value, reader: string): void => {
    if (!plan.operands.has(value.id)) return;
    const expected = roots.get(value.id) ?? value.id;
    for (const cell of cells(value)) expect(owners[cell], `${reader} reads ${value.name}`).toBe(expected);
  };
  for (const node of graph.nodes) {
    const [first] = node.inputs;
    if (opOf(node).isView) {
      roots.set(node.outputs[0].id, roots.get(first.id) ?? first.id); // and read nothing
      continue;
    }
    for (const input of node.inputs) check(input, node.label);
    for (const output of node.outputs) {
      if (output.type.dtype !== 'token') for (const cell of cells(output)) owners[cell] = output.id;
    }
  }
  for (const { name, value } of graph.outputs) check(value, `output ${name}`);
}

/** Bytes alive at once, at least: no plan can do with less. */
function leastArena(graph: Graph): number {
  const sizeOf = (value: Value) =>
    resolveDim(value.type.shape[0], stepDims(LIMITS)) * (value.type.shape[1] as number) * 4;
  const widest = graph.nodes.map((node) => {
    const values = [...node.inputs, ...node.outputs].filter(
      (value) => typeof value.type.shape[0] === 'string',
    );
    return Math.max(0, ...values.filter((value) => value.type.shape.length === 2).map(sizeOf));
  });
  return Math.max(...widest);
}

/** The last graph that the compiler makes. */
function compiledGraph(config: Parameters<typeof compileRequest>[0]): Graph {
  let last: Graph | null = null;
  compile(compileRequest(config), (_, graph) => (last = graph));
  return last!;
}

/** A random graph over `[numTokens, 8]`: each choice appends a node that reads earlier values. */
function randomGraph(choices: readonly { op: string; a: number; b: number }[]): Graph {
  const builder = new GraphBuilder('random');
  const table = builder.parameter('table', [16, 8]);
  const weight = builder.parameter('weight', [8, 8]);
  const norm = builder.parameter('norm', [8]);
  const values = [...builder.apply('embedding', 'embed', [builder.input('tokenIds'), table])];
  for (const [i, { op, a, b }] of choices.entries()) {
    const [x, y] = [values[a % values.length], values[b % values.length]];
    const label = `${i}.${op}`;
    const half = (value: Value, start: number) =>
      builder.apply('slice', label, [value], { start, columns: 4 })[0];
    if (op === 'linear') values.push(...builder.apply('linear', label, [x, weight]));
    else if (op === 'addRmsNorm') {
      values.push(...builder.apply(op, label, [x, y, norm], { eps: 1e-5, weightOffset: 0 }));
    } else if (op === 'halves') {
      // The product of two halves, doubled: 4 columns, brought back to 8 by a wide linear.
      const [product] = builder.apply('multiply', label, [half(x, 0), half(y, 4)]);
      const wide = builder.parameter(`wide${i}`, [8, 4]);
      values.push(...builder.apply('linear', label, [product, wide]));
    } else values.push(...builder.apply(op, label, [x, y]));
  }
  values.forEach((value, i) => {
    if (i % 4 === 3) builder.output(`value${i}`, value);
  });
  builder.output('logits', values.at(-1)!);
  return builder.build();
}

describe('planMemory', () => {
  test('no reader ever finds another value’s bytes, in random graphs', () => {
    const op = fc.constantFrom('linear', 'addRmsNorm', 'halves', 'add', 'multiply');
    const choice = fc.record({ op, a: fc.nat(20), b: fc.nat(20) });
    fc.assert(
      fc.property(fc.array(choice, { minLength: 1, maxLength: 15 }), (choices) => {
        const graph = randomGraph(choices);
        playOwners(graph, planMemory(graph, LIMITS));
      }),
      { numRuns: 150 },
    );
  });

  test.each([
    ['llama', TINY_LLAMA],
    ['gpt2', TINY_GPT2],
  ])('%s: nor in a compiled model, whose arena is near the least possible', (_, config) => {
    const graph = compiledGraph(config);
    const plan = planMemory(graph, LIMITS);
    playOwners(graph, plan);
    expect(plan.arenaBytes).toBeLessThanOrEqual(3 * leastArena(graph));
  });

  test('the arena does not grow with the number of layers', () => {
    const arenaOf = (numLayers: number) => {
      const graph = compiledGraph({ ...TINY_LLAMA, num_hidden_layers: numLayers });
      return planMemory(graph, LIMITS).arenaBytes;
    };
    expect(arenaOf(12)).toBe(arenaOf(3));
  });

  test('queries turn in place, inside the merged product', () => {
    const plan = compile(compileRequest(TINY_LLAMA));
    const turn = plan.launches.find(({ op }) => op === 'ropeKvWrite')!;
    expect(turn.outputs[0]).toEqual(turn.inputs[0]);
    expect(turn.inputs[0]).toMatchObject({ columnStart: 0, columns: 32, rowStride: 64 });
    expect(turn.inputs.slice(1, 3)).toMatchObject([
      { columnStart: 32, columns: 16 },
      { columnStart: 48, columns: 16 },
    ]);
  });
});
