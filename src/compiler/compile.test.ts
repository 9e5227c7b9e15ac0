import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  compileRequest,
  panelKernels,
  plainKernels,
  TINY_GPT2,
  TINY_LLAMA,
} from '../../test/support/compile.ts';
import { interpretTwoSteps, randomTensors } from '../../test/support/interpret.ts';
import { loadReference, REFERENCE_NAMES } from '../../test/support/reference-checkpoint.ts';
import type { Graph } from '../ir/graph.ts';
import type { HFConfig } from '../models/model-definition.ts';
import { findPreset, presetNames } from '../models/presets.ts';
import { checkPlan } from './check-plan.ts';
import { compile, GRAPH_PASSES } from './compile.ts';
import { serializePlan } from './serialize.ts';

const SHIPPED_CONFIG = JSON.parse(
  readFileSync(new URL('../../models/llama-tales-8m/config.json', import.meta.url), 'utf8'),
) as HFConfig;

const BIASED = { ...TINY_LLAMA, attention_bias: true, mlp_bias: true, tie_word_embeddings: false };
const WINDOWED = {
  ...TINY_LLAMA,
  architectures: ['MistralForCausalLM'],
  model_type: 'mistral',
  sliding_window: 4,
  head_dim: 16,
};

/** The graph after the definition and after each pass. */
function stages(config: HFConfig): { pass: string; graph: Graph }[] {
  const seen: { pass: string; graph: Graph }[] = [];
  compile(compileRequest(config), (pass, graph) => seen.push({ pass, graph }));
  return seen;
}

describe('every pass keeps the meaning of the graph', () => {
  test.each([
    ['llama', TINY_LLAMA],
    ['llama with biases', BIASED],
    ['mistral', WINDOWED],
    ['gpt2', TINY_GPT2],
  ])('%s', (_, config) => {
    const [definition, ...passes] = stages(config);
    expect(passes.map(({ pass }) => pass)).toEqual(GRAPH_PASSES.map(({ name }) => name));
    const tensors = randomTensors(definition.graph);
    const expected = interpretTwoSteps(definition.graph, tensors);
    for (const { pass, graph } of passes) {
      interpretTwoSteps(graph, tensors).forEach((logits, step) => {
        const error = Math.max(...logits.map((logit, i) => Math.abs(logit - expected[step][i])));
        expect(error, `${pass}, step ${step}`).toBeLessThan(1e-5);
      });
    }
  });
});

describe('plans', () => {
  test.each(REFERENCE_NAMES)('%s compiles from its checkpoint’s tensors', (name) => {
    const { config, catalog } = loadReference(name);
    const plan = compile(compileRequest(config, { tensors: catalog, checkpointHash: 'abc' }));
    expect(checkPlan(plan)).toBeNull();
    const read = plan.weights.flatMap((weight) => weight.parts.map((part) => part.tensor));
    expect(new Set(read)).toEqual(new Set(catalog.keys()));
  });

  test.each(presetNames().map((name) => [name]))('%s compiles from its config alone', (name) => {
    const { config } = findPreset(name)!;
    expect(checkPlan(compile(compileRequest(config, { kernels: panelKernels() })))).toBeNull();
  });

  test('the shipped model launches nine kernels a layer', () => {
    const { launches, model } = compile(compileRequest(SHIPPED_CONFIG));
    const perLayer = launches.filter(({ label }) => /\.layers\.[0-6]\./.test(label)).length / 7;
    expect(perLayer).toBe(9);
    expect(model).toMatchObject({ numLayers: 8, numParameters: 7_868_672, vocabSize: 6144 });
  });

  test('the same request gives the same plan, byte for byte', () => {
    const plan = () => serializePlan(compile(compileRequest(TINY_LLAMA, { kernels: panelKernels() })));
    expect(plan()).toBe(plan());
  });

  test('numParameters counts a tied table once, as the definition does', () => {
    for (const config of [TINY_LLAMA, BIASED, TINY_GPT2]) {
      const request = compileRequest(config);
      expect(compile(request).model.numParameters).toBe(request.definition.facts(config).numParameters);
    }
  });
});

describe('weights', () => {
  test('a tied table is stored once, in the layout that the product wants', () => {
    const plan = compile(compileRequest(TINY_LLAMA, { kernels: panelKernels() }));
    const tables = plan.weights.filter((weight) => weight.name === 'model.embed_tokens.weight');
    expect(tables).toMatchObject([{ layout: 'panel16', shape: [96, 32] }]);
    const readers = plan.launches.filter(({ inputs }) =>
      inputs.some((operand) => operand.kind === 'weight' && operand.id === tables[0].id),
    );
    expect(readers.map(({ op }) => op)).toEqual(['embedding', 'linear']);
  });

  test('a tied table is stored twice if the kernels insist on different layouts', () => {
    const kernels = plainKernels({ linear: { weightLayout: () => 'panel16x2' } });
    const plan = compile(compileRequest(TINY_LLAMA, { kernels }));
    const tables = plan.weights.filter((weight) => weight.name === 'model.embed_tokens.weight');
    expect(tables.map((table) => table.layout)).toEqual(['rowMajor', 'panel16x2']);
    expect(plan.model.numParameters).toBe(compile(compileRequest(TINY_LLAMA)).model.numParameters);
  });

  test('matrices take the recipe’s type; vectors stay float32 on the cpu', () => {
    const recipe = {
      weightDType: 'bfloat16',
      quantization: null,
      kvDType: 'bfloat16',
      activationPrecision: 'auto',
    } as const;
    const plan = compile(compileRequest(BIASED, { recipe }));
    for (const { dtype, shape } of plan.weights)
      expect(dtype).toBe(shape.length === 2 ? 'bfloat16' : 'float32');
    expect(plan.kvCacheGroups[0].layers[0].dtype).toBe('bfloat16');
    expect(plan.activationDType).toBe('float32');
  });

  test('rope tables of equal angles are one, as long as the context', () => {
    const plan = compile(compileRequest(TINY_LLAMA, { maxModelLen: 40 }));
    expect(plan.ropeTables).toMatchObject([{ numPositions: 40, rotaryDim: 8, bytes: 40 * 8 * 4 }]);
    expect(plan.launches.filter(({ inputs }) => inputs.at(-1)?.kind === 'ropeTable')).toHaveLength(2);
  });
});

describe('bad requests', () => {
  const failure = (changes: Parameters<typeof compileRequest>[1], config: HFConfig = TINY_LLAMA) =>
    expect(() => compile(compileRequest(config, changes)));

  test('a context longer than the model’s is refused with both numbers', () => {
    failure({ maxModelLen: 65 }).toThrow(/--max-model-len 65 .* 64 positions/);
  });

  test('limits must be positive whole numbers', () => {
    failure({ blockSize: 0 }).toThrow(/blockSize must be a whole number above 0, not 0/);
    failure({ limits: { maxNumBatchedTokens: NaN, maxNumSeqs: 1, maxNumLogitRows: 1 } }).toThrow(
      /maxNumBatchedTokens must be/,
    );
  });

  test('several ranks are refused until there is an all-reduce', () => {
    failure({ worldSize: 2 }).toThrow(/2 ranks needs an all-reduce/);
  });

  test('results that do not depend on the batch are refused on the cpu', () => {
    const { recipe } = compileRequest(TINY_LLAMA);
    failure({ recipe: { ...recipe, batchInvariant: true }, target: { kind: 'cpu', arch: 'any' } }).toThrow(
      /leave --batch-invariant out, or use --device cuda/,
    );
  });

  test('an op that no kernel fuses stays apart', () => {
    const kernels = plainKernels().filter((kernel) => kernel.op !== 'addRmsNorm');
    const ops = compile(compileRequest(TINY_LLAMA, { kernels })).launches.map(({ op }) => op);
    expect(ops).toContain('rmsNorm');
    expect(ops).not.toContain('addRmsNorm');
  });

  test('a missing kernel is an error that names op and target', () => {
    const kernels = plainKernels().filter((kernel) => kernel.op !== 'attention');
    failure({ kernels }).toThrow(/no kernel for op attention \(model\.layers\.0.*\) on target reference any/);
  });
});
