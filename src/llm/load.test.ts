import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ATTENTION_ONLY_CONFIG, attentionOnly } from '../../test/support/attention-only.ts';
import { MODEL_FOLDER } from '../../test/support/test-server.ts';
import { LLM } from './llm.ts';
import type { LoadOptions } from './load.ts';

const inProcess = { inProcess: true, device: 'reference' } as const;

describe('a checkpoint', () => {
  test('brings its tokenizer, template, end tokens and sampling defaults', async () => {
    const stages = new Set<string>();
    await using llm = await LLM.load(MODEL_FOLDER, {
      ...inProcess,
      onProgress: (_done, _total, stage) => stages.add(stage),
    });
    expect(llm.defaults).toMatchObject({
      temperature: 0.7,
      topP: 0.9,
      topK: 0,
      maxTokens: null,
      eosTokenIds: [1],
    });
    const result = await llm
      .chat([{ role: 'user', content: 'Hello' }], { maxTokens: 2, temperature: 0 })
      .collect();
    expect(result.text.length).toBeGreaterThan(0);
    expect(stages).toContain('weights');
  });

  test('leaves sampling alone with generationConfig none, but not its end tokens', async () => {
    await using llm = await LLM.load(MODEL_FOLDER, { ...inProcess, generationConfig: 'none' });
    expect(llm.defaults).toMatchObject({ temperature: 1, topP: 1, eosTokenIds: [1] });
  });

  test('runs without its tokenizer', async () => {
    await using llm = await LLM.load(MODEL_FOLDER, { ...inProcess, skipTokenizerInit: true });
    const result = await llm.generate({ promptTokenIds: [0, 5] }, { maxTokens: 1 }).collect();
    expect(result.choices[0]).toMatchObject({ text: '', finishReason: 'length' });
    expect(result.choices[0].tokenIds).toHaveLength(1);
  });
});

describe('options that exclude each other', () => {
  test.each([{ tokenizer: MODEL_FOLDER }, { chatTemplate: '{{ messages }}' }])(
    'are refused: no tokenizer, and %j',
    async (options) => {
      const loading = LLM.load(MODEL_FOLDER, { ...inProcess, skipTokenizerInit: true, ...options });
      await expect(loading).rejects.toThrow(/--skip-tokenizer-init leaves --\S+ without use/);
    },
  );
});

describe("a model of the caller's own", () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
  beforeAll(() => writeFileSync(path.join(folder, 'config.json'), JSON.stringify(ATTENTION_ONLY_CONFIG)));
  afterAll(() => rmSync(folder, { recursive: true }));

  test('generates', async () => {
    const dummy = { loadFormat: 'dummy', tokenizer: MODEL_FOLDER } as const;
    await using llm = await LLM.load(folder, { ...inProcess, ...dummy, models: [attentionOnly] });
    const { choices } = await llm.generate('Once', { maxTokens: 3, ignoreEos: true }).collect();
    expect(choices[0].tokenIds).toHaveLength(3);
  });

  test('cannot be sent to another process', async () => {
    const loading = LLM.load(folder, { skipTokenizerInit: true, models: [attentionOnly] });
    await expect(loading).rejects.toThrow(/modelDefinitions, or set inProcess/);
  });
});

describe('what cannot be loaded', () => {
  const cases: [string, string, LoadOptions, object][] = [
    ['an unknown name', 'no-such-model', {}, { code: 'model_not_found', param: 'model' }],
    ['a folder that is not there', './no/such/folder', {}, { code: 'model_not_found' }],
    [
      'a preset without a tokenizer',
      'gpt2',
      { loadFormat: 'dummy' },
      { code: 'invalid_request', param: 'tokenizer' },
    ],
    ['a preset without weights', 'gpt2', {}, { code: 'model_not_found' }],
    [
      'another tokenizer that is not there',
      MODEL_FOLDER,
      { tokenizer: './no/such' },
      { code: 'bad_checkpoint' },
    ],
  ];
  test.each(cases)('%s', async (_name, model, options, error) => {
    await expect(LLM.load(model, { ...inProcess, ...options })).rejects.toMatchObject(error);
  });
});
