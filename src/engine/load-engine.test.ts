import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ATTENTION_ONLY_CONFIG, attentionOnly } from '../../test/support/attention-only.ts';
import { runToEnd, toyRequest } from '../../test/support/toy-engine.ts';
import { compile } from '../compiler/compile.ts';
import { compileRequestFor } from '../compiler/compile-to-fit.ts';
import { packWeight } from '../compiler/pack-weight.ts';
import { writePlanDirectory } from '../compiler/plan-directory.ts';
import { kernelsFor } from '../device/create-device.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from './config.ts';
import type { LLMEngine } from './llm-engine.ts';
import { loadEngine } from './load-engine.ts';
import type { EngineOutput } from './protocol.ts';
import { startEngineProcess } from './process/engine-process.ts';
import { findSubject, modelToLoad, openTensors, type ModelSubject } from './subject.ts';

const SHIPPED = fileURLToPath(new URL('../../models/llama-tales-8m', import.meta.url));
const PROMPT = [0, 4, 843, 264, 2969, 779, 852, 948, 5];

const settings = (overrides: Partial<EngineConfig>): EngineConfig => ({
  ...DEFAULT_ENGINE_CONFIG,
  model: SHIPPED,
  device: 'cpu',
  dtype: 'float32',
  ...overrides,
});

async function greedy(engine: LLMEngine, maxTokens = 12): Promise<readonly number[]> {
  engine.add(toyRequest('a', PROMPT, { maxTokens }));
  return (await runToEnd(engine)).get('a/0')!.tokenIds;
}

describe('loadEngine', () => {
  let expected: readonly number[];
  beforeAll(async () => {
    const engine = await loadEngine(settings({}));
    expect(engine.info).toMatchObject({
      maxModelLen: 1024,
      vocabSize: 6144,
      recipe: 'float32',
      quality: null,
      numBlocks: 4096,
      shortenedFrom: null,
    });
    expected = await greedy(engine);
    await engine.close();
  });

  test('reports how far it is', async () => {
    const stages = new Set<string>();
    let lastFraction = 0;
    const engine = await loadEngine(settings({}), {
      onProgress: (done, total, stage) => {
        stages.add(stage);
        lastFraction = done / total;
      },
    });
    expect([...stages]).toEqual(['weights']);
    expect(lastFraction).toBe(1);
    await engine.close();
  });

  test('two engines side by side', async () => {
    const engines = await Promise.all([loadEngine(settings({})), loadEngine(settings({ blockSize: 8 }))]);
    expect(await Promise.all(engines.map((engine) => greedy(engine)))).toEqual([expected, expected]);
    for (const engine of engines) await engine.close();
  });

  test('random weights for a preset', async () => {
    const dummy = settings({ model: 'llama-tales-8m', loadFormat: 'dummy', maxModelLen: 64 });
    const runs = [];
    for (const seed of [1, 1, 2]) {
      const engine = await loadEngine({ ...dummy, seed });
      runs.push(await greedy(engine));
      await engine.close();
    }
    expect(runs[0]).toEqual(runs[1]);
    expect(runs[0]).not.toEqual(runs[2]);
  });

  test('a context shortened to what the cache holds, if none was asked for', async () => {
    const engine = await loadEngine(settings({ kvCacheMemoryBytes: 1e6 }));
    // Eight layers of two KV heads of 64 in float32: 131 072 bytes a block.
    expect(engine.info).toMatchObject({ numBlocks: 7, maxModelLen: 7 * 16, shortenedFrom: 1024 });
    await engine.close();
  });

  test('in a process of its own', async () => {
    const engine = await startEngineProcess(settings({}));
    const outputs: EngineOutput[] = [];
    for await (const output of engine.generate(toyRequest('a', PROMPT, { maxTokens: 12 })))
      outputs.push(output);
    expect(outputs.flatMap(({ tokenIds }) => tokenIds)).toEqual(expected);
    await engine.close();
  });

  test.each<[string, Partial<EngineConfig>, string, RegExp]>([
    ['a context beyond the model', { maxModelLen: 1025 }, 'invalid_request', /1025 .*1024/],
    [
      'a cache too small',
      { kvCacheMemoryBytes: 1e6, maxModelLen: 1024 },
      'out_of_memory',
      /--kv-cache-memory-bytes/,
    ],
    ['no model', { model: 'nowhere' }, 'model_not_found', /nowhere/],
    ['a preset without weights', { model: 'gpt2' }, 'model_not_found', /--load-format dummy/],
    ['a budget below the sequences', { maxNumSeqs: 600 }, 'invalid_request', /--max-num-batched-tokens 512/],
    ['a block of half a token', { blockSize: 0.5 }, 'invalid_request', /blockSize/],
    ['no threads', { numThreads: 0 }, 'invalid_request', /numThreads/],
    ['more memory than there is', { memoryUtilization: 1.5 }, 'invalid_request', /memoryUtilization/],
    [
      'an unknown policy',
      { batchingPolicy: 'greedy' as 'static' },
      'invalid_request',
      /one of max-utilization/,
    ],
  ])('refuses %s', async (_, overrides, code, message) => {
    await expect(loadEngine(settings(overrides))).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
  });

  test('refuses a checkpoint whose weights are pickled, naming the conversion', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
    cpSync(path.join(SHIPPED, 'config.json'), path.join(folder, 'config.json'));
    writeFileSync(path.join(folder, 'pytorch_model.bin'), 'x');
    const loading = loadEngine(settings({ model: folder, maxModelLen: 64 }));
    await expect(loading).rejects.toThrow(/pytorch_model\.bin, a pickle.*safe_serialization=True/);
    const random = await loadEngine(settings({ model: folder, maxModelLen: 64, loadFormat: 'dummy' }));
    await random.close();
    rmSync(folder, { recursive: true });
  });

  describe('smaller numbers', () => {
    const small = (overrides: Partial<EngineConfig>) =>
      settings({ device: 'reference', dtype: 'auto', maxNumSeqs: 2, maxNumBatchedTokens: 16, ...overrides });

    test('tell a story all the same', async () => {
      const engine = await loadEngine(small({ quantization: 'int8', kvCacheDType: 'int8' }));
      expect(engine.info.recipe).toBe('bfloat16, int8 weights, int8 KV cache');
      expect(await greedy(engine, 4)).toEqual(expected.slice(0, 4));
      await engine.close();
    });

    test('may be random, calibrated ones too', async () => {
      const engine = await loadEngine(
        small({ quantization: 'awq', loadFormat: 'dummy', kvCacheDType: 'fp8' }),
      );
      expect(engine.info.recipe).toBe('bfloat16, awq weights, float8_e4m3fn KV cache');
      expect(await greedy(engine, 2)).toHaveLength(2);
      await engine.close();
    });

    test('may be random as a config says that they were published', async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
      const model = path.join(folder, 'config.json');
      const config = JSON.parse(readFileSync(path.join(SHIPPED, 'config.json'), 'utf8')) as object;
      const quantizationConfig = { quant_method: 'modelopt', quant_algo: 'FP8' };
      writeFileSync(model, JSON.stringify({ ...config, quantization_config: quantizationConfig }));
      const engine = await loadEngine(small({ model, loadFormat: 'dummy' }));
      expect(engine.info.recipe).toBe('bfloat16, fp8 weights');
      expect(await greedy(engine, 2)).toHaveLength(2);
      await engine.close();
      const subject = await findSubject(small({ model }));
      const target = { kind: 'reference', arch: 'interpreter' } as const;
      const random = modelToLoad(
        subject as ModelSubject,
        small({ loadFormat: 'dummy' }),
        target,
        kernelsFor(target),
      );
      const name = 'model.layers.0.mlp.down_proj.weight';
      expect(random.tensors!.get(name)!.quantized!.activations!.isStatic).toBe(true);
      expect(random.tensors!.get(name.replace('weight', 'input_scale'))!.shape).toEqual([1]);
      rmSync(folder, { recursive: true });
    });

    test.each<[Partial<EngineConfig>, string]>([
      [{ quantization: 'awq' }, '--quantization awq needs calibration: needletail build'],
      [{ quantization: 'int3' as 'int4' }, 'quantization must be one of null, int8, int4'],
      [{ kvCacheDType: 'int4' as 'int8' }, 'kvCacheDType must be one of auto, fp8'],
      [{ quantization: 'int4', quantizationGroupSize: 0 }, 'quantizationGroupSize must be a whole number'],
      [{ quantization: 'int4', quantizationGroupSize: 96 }, '--quantization-group-size 64'],
      [{ quantizationKeep: 'lm_head' as unknown as string[] }, 'quantizationKeep must be a list of patterns'],
    ])('%j is refused', async (overrides, message) => {
      await expect(loadEngine(small(overrides))).rejects.toMatchObject({
        code: 'invalid_request',
        message: expect.stringContaining(message) as string,
      });
    });
  });

  describe("a model of the user's own", () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
    const model = path.join(folder, 'config.json');
    const module = fileURLToPath(new URL('../../test/support/attention-only.ts', import.meta.url));
    const own = (overrides: Partial<EngineConfig>) => settings({ model, loadFormat: 'dummy', ...overrides });
    beforeAll(() => writeFileSync(model, JSON.stringify(ATTENTION_ONLY_CONFIG)));
    afterAll(() => rmSync(folder, { recursive: true }));

    test('runs on the cpu as on the interpreter, here and in a process of its own', async () => {
      const engines = [
        await loadEngine(own({ device: 'reference' }), { models: [attentionOnly] }),
        await loadEngine(own({}), { models: [attentionOnly] }),
        await loadEngine(own({ modelDefinitions: [pathToFileURL(module).href] })),
      ];
      const [expected, ...others] = await Promise.all(engines.map((engine) => greedy(engine)));
      expect(expected).toHaveLength(12);
      expect(others).toEqual([expected, expected]);
      for (const engine of engines) await engine.close();
      const process = await startEngineProcess(own({ modelDefinitions: [module] }));
      const outputs: EngineOutput[] = [];
      for await (const output of process.generate(toyRequest('a', PROMPT, { maxTokens: 12 })))
        outputs.push(output);
      expect(outputs.flatMap(({ tokenIds }) => tokenIds)).toEqual(expected);
      await process.close();
    });

    test.each<[string, Partial<EngineConfig>, string, RegExp]>([
      [
        'is not known where nothing defines it',
        {},
        'unsupported_model',
        /AttentionOnly.* not supported.*Llama/,
      ],
      [
        'cannot come from a module without a definition',
        { modelDefinitions: ['src/util/version.ts'] },
        'invalid_request',
        /version.ts exports no model definition; export what defineModel/,
      ],
      [
        'cannot come from nowhere',
        { modelDefinitions: ['./no/such/model.js'] },
        'invalid_request',
        /no\/such\/model.js cannot be imported/,
      ],
      [
        'is named by its module',
        { modelDefinitions: [3] as never },
        'invalid_request',
        /modelDefinitions must be/,
      ],
    ])('%s', async (_, overrides, code, message) => {
      await expect(loadEngine(own(overrides))).rejects.toMatchObject({
        code,
        message: expect.stringMatching(message) as string,
      });
    });
  });

  describe('a plan directory', () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
    const directory = path.join(folder, 'plan');
    beforeAll(async () => {
      const subject = await findSubject(settings({}));
      if (subject.kind !== 'model') throw new Error('the shipped model is no checkpoint');
      const target = { kind: 'reference', arch: 'interpreter' } as const;
      const built = settings({ maxNumSeqs: 4, maxNumBatchedTokens: 32, maxModelLen: 128 });
      const plan = compile(compileRequestFor(subject.model, built, target, kernelsFor(target)));
      const source = openTensors(subject, plan, built);
      const { config } = subject.model;
      await writePlanDirectory(directory, {
        plan,
        config,
        pack: (spec) => packWeight(spec, source),
        files: [],
      });
      source.close();
    });
    afterAll(() => rmSync(folder, { recursive: true }));

    const planned = (overrides: Partial<EngineConfig>) =>
      settings({ model: directory, device: 'reference', ...overrides });

    test('is loaded within its own limits', async () => {
      const engine = await loadEngine(planned({}));
      expect(engine.info).toMatchObject({ maxNumSeqs: 4, maxNumBatchedTokens: 32, maxModelLen: 128 });
      expect(await greedy(engine, 3)).toEqual(expected.slice(0, 3));
      await engine.close();
    });

    test.each<[string, Partial<EngineConfig>]>([
      ['--max-model-len 129', { maxModelLen: 129 }],
      ['--max-num-seqs 5', { maxNumSeqs: 5 }],
      ['--block-size 32', { blockSize: 32 }],
      ['--dtype bfloat16', { dtype: 'bfloat16' }],
      ['--batch-invariant', { batchInvariant: true }],
      ['--quantization int8', { quantization: 'int8' }],
      ['--quantization-group-size 64', { quantizationGroupSize: 64 }],
      ['--quantization-keep lm_head', { quantizationKeep: ['lm_head'] }],
      ['--load-format dummy', { loadFormat: 'dummy' }],
      ['--kv-cache-dtype fp8', { kvCacheDType: 'fp8' }],
    ])('refuses %s, which it was not built for', async (flag, overrides) => {
      await expect(loadEngine(planned(overrides))).rejects.toMatchObject({
        code: 'bad_plan',
        message: expect.stringContaining(`again with ${flag}`) as string,
      });
    });
  });
});
