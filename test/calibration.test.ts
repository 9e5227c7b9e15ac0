// Calibrated recipes: factors that move from one weight to another leave a model as it was, and a checkpoint of codes that
// was calibrated runs, in memory as from a plan directory, closer to the float model than plain rounding does.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { compileRequestFor } from '../src/compiler/compile-to-fit.ts';
import { GraphIndex } from '../src/compiler/graph-index.ts';
import { packWeight } from '../src/compiler/pack-weight.ts';
import { readPlanDirectory, writePlanDirectory } from '../src/compiler/plan-directory.ts';
import type { Plan } from '../src/compiler/plan.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../src/engine/config.ts';
import { findSubject, type ModelSubject } from '../src/engine/subject.ts';
import { calibrateModel } from '../src/eval/calibrate-model.ts';
import type { Graph } from '../src/ir/graph.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import type { HFConfig } from '../src/models/model-definition.ts';
import { findModel } from '../src/models/registry.ts';
import type { CalibratedRecipe } from '../src/quantization/calibrate.ts';
import { GPTQ_OPTIONS } from '../src/quantization/gptq.ts';
import { columnsOf, weightOf, type Product } from '../src/quantization/products.ts';
import { ScaledWeights } from '../src/quantization/scaled-weights.ts';
import { findScalingGroups } from '../src/quantization/scaling-groups.ts';
import { isComparable } from '../src/quantization/stages.ts';
import { decodeTensor } from '../src/tensor/codes.ts';
import type { PackedWeightSource, TensorSource, TensorView } from '../src/tensor/tensor-source.ts';
import { interpretTwoSteps, randomTensors } from './support/interpret.ts';
import { loadReference, writeReference } from './support/reference-checkpoint.ts';
import { SMALL_CONFIGS } from './support/small-configs.ts';
import { SMALL_EXPERT_CONFIGS } from './support/small-expert-configs.ts';
import { stepBatch } from './support/step-batch.ts';

function productsOf(index: GraphIndex): readonly Product[] {
  const format = { dtype: 'int8', groupSize: null, hasZeros: false } as const;
  return index.graph.nodes.flatMap((node) => {
    const weight = weightOf(node, index);
    return weight === null ? [] : [{ node, weight, format }];
  });
}

function graphOf(config: HFConfig): Graph {
  return findModel(config).buildGraph(config, { kvDType: 'float32', maxModelLen: 32 });
}

function floatSource(graph: Graph): TensorSource {
  const read = randomTensors(graph);
  const parts = graph.parameters.flatMap((parameter) => parameter.parts);
  const shapes = new Map(parts.map((part) => [part.tensor, part.tensorShape]));
  return {
    read: (name) => ({
      dtype: 'float32',
      shape: shapes.get(name)!,
      bytes: new Uint8Array(read(name).buffer),
    }),
    close: () => undefined,
  };
}

describe('folding factors', () => {
  it.each([...SMALL_CONFIGS, ...SMALL_EXPERT_CONFIGS])('leaves %s as it was', (_, configs) => {
    const check = (config: HFConfig, seed: number): void => {
      const graph = graphOf(config);
      const index = new GraphIndex(graph);
      const source = floatSource(graph);
      const weights = new ScaledWeights(source);
      for (const group of findScalingGroups(index, productsOf(index))) {
        const random = (i: number): number => 2 ** (2 * Math.sin(seed + i * i));
        weights.fold(
          group,
          Float64Array.from({ length: group.numFactors }, (_factor, i) => random(i)),
        );
      }
      const changed = weights.changedTensors(new Set());
      const expected = interpretTwoSteps(graph, randomTensors(graph));
      const actual = interpretTwoSteps(graph, (name) =>
        decodeTensor(changed.get(name)?.() ?? source.read(name)),
      );
      expected.forEach((logits, step) => {
        const scale = Math.max(...logits.map(Math.abs));
        const error = Math.max(...logits.map((value, i) => Math.abs(value - actual[step][i])));
        expect(error / scale).toBeLessThan(1e-3);
      });
    };
    fc.assert(fc.property(configs, fc.nat(1000), check), { numRuns: 3 });
  });

  it.each([
    // q, k and v; the values for the output projection; gate and up; up for down.
    ['llama3_gqa', 4],
    // GELU lets no factors through to the last.
    ['gpt2', 3],
    // ReLU does.
    ['opt', 4],
    // Experts with their router; their outputs.
    ['mixtral', 4],
    // Norms stand behind the products here: only values and gates.
    ['olmo2', 2],
  ])('%s has %i places a layer for them', (name, count) => {
    const { config } = loadReference(name);
    const index = new GraphIndex(graphOf(config));
    const isHead = ({ node }: Product): boolean => index.isOutput(node.outputs[0]);
    const groups = findScalingGroups(index, productsOf(index)).filter(
      ({ products }) => !products.every(isHead),
    );
    const numLayers = (config['num_hidden_layers'] ?? config['n_layer']) as number;
    expect(groups.length).toBe(count * numLayers);
  });
});

it('drift is looked for in all inputs but those that chosen experts read of their own', () => {
  const index = new GraphIndex(graphOf(loadReference('mixtral').config));
  const apart = productsOf(index).filter(
    ({ node, weight }) => !isComparable(node.inputs[0], columnsOf(weight)),
  );
  expect(apart.map(({ weight }) => weight.parts[0].tensor)).toEqual(
    [0, 1].map((layer) => `model.layers.${layer}.block_sparse_moe.experts.0.w2.weight`),
  );
});

const RECIPES: readonly (readonly [
  quantization: 'awq' | 'gptq' | 'smoothquant' | 'fp8',
  CalibratedRecipe,
])[] = [
  ['awq', { name: 'awq', maxNumStages: 4 }],
  ['gptq', { name: 'gptq', maxNumStages: 4, options: GPTQ_OPTIONS }],
  ['smoothquant', { name: 'smoothquant', alpha: 0.5 }],
  ['fp8', { name: 'fp8', range: 'absmax' }],
];

describe('calibrated checkpoints', () => {
  let device: CpuDevice;
  let folder: string;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2 });
    folder = mkdtempSync(path.join(tmpdir(), 'needletail-calibrated-'));
    const ids = Array.from({ length: 2048 }, (_, i) => (i * i * 31 + (i >> 9) * 77 + 7 * i) % 512);
    writeFileSync(path.join(folder, 'ids.json'), JSON.stringify(ids));
    writeFileSync(path.join(folder, 'few.json'), JSON.stringify(ids.slice(0, 100)));
  });
  afterAll(async () => {
    await device.dispose();
    rmSync(folder, { recursive: true });
  });

  async function open(name: string): Promise<{ subject: ModelSubject; config: EngineConfig }> {
    const directory = path.join(folder, name);
    await writeReference(name, directory);
    const config = {
      ...DEFAULT_ENGINE_CONFIG,
      model: directory,
      device: 'cpu',
      maxModelLen: 128,
      maxNumSeqs: 2,
      maxNumBatchedTokens: 64,
      quantizationGroupSize: null,
    } as const;
    return { subject: (await findSubject(config)) as ModelSubject, config };
  }

  function planOf(model: ModelSubject['model'], config: EngineConfig): Plan {
    return compile(compileRequestFor(model, config, device.target, CPU_KERNELS));
  }

  async function logitsOf(
    plan: Plan,
    source: TensorSource | PackedWeightSource,
    prompt: readonly number[],
  ): Promise<Float32Array> {
    const executable = await device.load(plan, source, { numBlocks: plan.kvCacheGroups.map(() => 8) });
    const rows = prompt.map((_, row) => row);
    const chunk = { tokenIds: prompt, numCached: 0, blocks: [2, 0, 5, 1], logitRows: rows };
    const step = stepBatch([chunk], plan.blockSize, plan.kvCacheGroups.length);
    const { logits } = await executable.run(step);
    await executable.dispose();
    return logits!;
  }

  const cases = ['llama3_gqa', 'gpt2', 'gpt_oss', 'deepseek_v2'].flatMap((name, i) =>
    RECIPES.filter((_, recipe) => recipe >= 2 || recipe === i % 2).map(
      ([quantization, recipe]) => [name, quantization, recipe] as const,
    ),
  );

  it.each(cases)('%s in %s', async (name, quantization, recipe) => {
    const { subject, config } = await open(name);
    const request = { recipe, file: path.join(folder, 'ids.json'), numTokens: 1024 };
    const groups = quantization === 'awq' || quantization === 'gptq' ? 32 : null;
    const settings = { ...config, quantization, quantizationGroupSize: groups };
    const { catalog, source } = await calibrateModel(subject, settings, request);
    const plan = planOf({ ...subject.model, tensors: catalog }, settings);
    expect(plan.header.recipe).toContain(quantization);
    // None of the text that was learned from, and long: a handful of tokens says as much about luck.
    const prompt = Array.from({ length: 64 }, (_, i) => (i * i * 53 + 111 * i + 101) % 500);
    const logits = await logitsOf(plan, source, prompt);

    const directory = path.join(folder, `${name}-${quantization}`);
    const pack = (weight: Plan['weights'][number]) => packWeight(weight, source);
    await writePlanDirectory(directory, { plan, config: subject.model.config, pack, files: [] });
    const stored = await readPlanDirectory(directory, { target: device.target });
    expect(await logitsOf(stored.plan, stored.weights, prompt)).toEqual(logits);
    stored.weights.close();

    const floatSource = subject.checkpoint!.source;
    const exact = await logitsOf(planOf(subject.model, config), floatSource, prompt);
    const rounding = { awq: 'int4', gptq: 'int4', smoothquant: 'int8', fp8: 'fp8' } as const;
    const plain = { ...settings, quantization: rounding[quantization] };
    const rounded = await logitsOf(planOf(subject.model, plain), floatSource, prompt);
    const error = distance(logits, exact) / distance(rounded, exact);
    // Beside rounding that leaves activations alone, or scales them anew for each group or token; experts may be chosen otherwise.
    expect(error).toBeLessThan({ awq: 1.1, gptq: 1, smoothquant: 1.5, fp8: 1.2 }[quantization]);
  });

  it('refuses a text that is too short, and says how long it must be', async () => {
    const { subject, config } = await open('llama2');
    const few = { recipe: { name: 'awq', maxNumStages: 4 }, file: path.join(folder, 'few.json') } as const;
    await expect(calibrateModel(subject, config, { ...few, numTokens: null })).rejects.toThrow(
      /few\.json has 100 tokens, and calibration needs 4096/,
    );
    await expect(calibrateModel(subject, config, { ...few, numTokens: 101 })).rejects.toThrow(
      /needs 101: .*smaller --calibration-tokens/,
    );
  });

  it('refuses tokens that the model does not have', async () => {
    const { subject, config } = await open('llama2');
    const file = path.join(folder, 'foreign.json');
    writeFileSync(file, JSON.stringify([1, 2, 60000, 3]));
    const request = { recipe: { name: 'awq', maxNumStages: 4 }, file, numTokens: 4 } as const;
    await expect(calibrateModel(subject, config, request)).rejects.toThrow(
      /token 60000 is outside of the vocabulary/,
    );
  });

  it('stops when it is told to', async () => {
    const { subject, config } = await open('llama2');
    const stop = new AbortController();
    const request = {
      recipe: { name: 'awq', maxNumStages: 4 },
      file: path.join(folder, 'ids.json'),
      numTokens: 1024,
    } as const;
    const stages = new Set<string>();
    const running = calibrateModel(subject, config, request, {
      signal: stop.signal,
      onProgress: (_done, _total, stage) => {
        stages.add(stage);
        if (stage === 'scaling') stop.abort(new Error('enough'));
      },
    });
    await expect(running).rejects.toThrow('enough');
    expect([...stages]).toEqual(['reading', 'scaling']);
  });

  const damages = ['model.layers.0.mlp.up_proj.weight', 'model.layers.1.input_layernorm.weight'].flatMap(
    (damaged) => RECIPES.map(([quantization, recipe]) => [quantization, damaged, recipe] as const),
  );

  it.each(damages)('%s refuses a checkpoint whose %s is damaged', async (quantization, damaged, recipe) => {
    const { subject, config } = await open('llama3_gqa');
    const { source } = subject.checkpoint!;
    const read = (name: string): TensorView => {
      const view = source.read(name);
      if (name !== damaged) return view;
      const values = decodeTensor(view).fill(NaN, 3, 4);
      return { dtype: 'float32', shape: view.shape, bytes: new Uint8Array(values.buffer) };
    };
    const broken = { ...subject.checkpoint!, source: { read, close: () => source.close() } };
    const request = { recipe, file: path.join(folder, 'ids.json'), numTokens: 1024 };
    const settings = { ...config, quantization };
    await expect(calibrateModel({ ...subject, checkpoint: broken }, settings, request)).rejects.toThrow(
      /NaN or infinite/,
    );
  });

  it('refuses groups that do not fit, naming those that do', async () => {
    const { subject, config } = await open('llama2');
    const request = {
      recipe: { name: 'awq', maxNumStages: 4 },
      file: path.join(folder, 'ids.json'),
      numTokens: 1024,
    } as const;
    await expect(calibrateModel(subject, { ...config, quantizationGroupSize: 200 }, request)).rejects.toThrow(
      /--quantization-group-size 128/,
    );
  });
});

function distance(a: Float32Array, b: Float32Array): number {
  return Math.sqrt(a.reduce((sum, value, i) => sum + (value - b[i]) ** 2, 0));
}
