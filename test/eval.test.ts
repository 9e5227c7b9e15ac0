// `needletail eval perplexity` and the quality card of a plan directory, on the shipped model.
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG } from '../src/engine/config.ts';
import { evaluateModel } from '../src/eval/evaluate-model.ts';
import { LLM } from '../src/llm/llm.ts';
import { startServer } from '../src/server/server.ts';

const ROOT = new URL('..', import.meta.url).pathname;
const MODEL = `${ROOT}models/llama-tales-8m`;
const scratch = mkdtempSync(path.join(tmpdir(), 'needletail-eval-'));
const textFile = path.join(scratch, 'text.json');
const tokens = (JSON.parse(readFileSync(`${MODEL}/validation_tokens.json`, 'utf8')) as number[]).slice(
  0,
  600,
);
writeFileSync(textFile, JSON.stringify(tokens));
afterAll(() => rm(scratch, { recursive: true }));

const config = { ...DEFAULT_ENGINE_CONFIG, model: MODEL, device: 'cpu' } as const;
const windows = { directory: MODEL, textFile, windowLen: 200, stride: 200, maxNumWindows: null };

/** Runs the command line; what it prints, on both streams, and its exit status. */
async function run(...args: string[]): Promise<{ readonly text: string; readonly code: number }> {
  const main = `${ROOT}src/cli/main.ts`;
  return promisify(execFile)(process.execPath, ['--import', 'tsx', main, ...args], { cwd: ROOT }).then(
    ({ stdout, stderr }) => ({ text: stdout + stderr, code: 0 }),
    (error: { stdout: string; stderr: string; code: number }) => ({
      text: error.stdout + error.stderr,
      code: error.code,
    }),
  );
}

describe('evaluation', () => {
  it('finds the perplexity that log-probabilities of the same windows give', async () => {
    const card = await evaluateModel({ ...windows, model: config, baseline: null });
    const llm = await LLM.load(MODEL, { device: 'cpu' });
    let [sum, count] = [0, 0];
    for (let start = 0; start < tokens.length; start += 200) {
      const promptTokenIds = tokens.slice(start, start + 200);
      const scored = await llm.generate({ promptTokenIds }, { maxTokens: 0, promptLogprobs: 0 }).collect();
      for (const { logprob } of scored.promptLogprobs!.slice(1)) [sum, count] = [sum - logprob!, count + 1];
    }
    await llm.close();
    expect(card.numTokens).toBe(count);
    expect(card.perplexity / Math.exp(sum / count)).toBeCloseTo(1, 3);
    expect(card.baseline).toBeNull();
  });

  it('measures a recipe against the model as it is, in one run', async () => {
    const model = { ...config, quantization: 'int4', activationDType: '16bit' } as const;
    const { recipe, perplexity, baseline } = await evaluateModel({ ...windows, model, baseline: config });
    expect(recipe).toContain('int4');
    expect(baseline!.recipe).toBe('bfloat16');
    expect(perplexity).toBeGreaterThan(baseline!.perplexity);
    expect(perplexity / baseline!.perplexity - 1).toBeCloseTo(baseline!.perplexityDelta, 10);
    expect(baseline!.meanKlDivergence).toBeGreaterThan(0);
    expect(baseline!.top1Agreement).toBeGreaterThan(0.5);
    expect(baseline!.top1Agreement).toBeLessThan(1);
  });

  it.each([
    // A scale for each token's activations, not for 128 columns of them, would cost nearly twice as much.
    [{ quantization: 'int8', activationDType: 'auto' }, 0.0025],
    [{ quantization: 'int8', activationDType: '16bit' }, 0.001],
  ] as const)('%j is near the model as it is', async (settings, maxDivergence) => {
    const model = { ...config, ...settings };
    const { baseline } = await evaluateModel({ ...windows, model, baseline: config });
    expect(baseline!.meanKlDivergence).toBeLessThan(maxDivergence);
  });

  it('a model is as far from itself as nothing', async () => {
    const { baseline } = await evaluateModel({ ...windows, model: config, baseline: config });
    expect(baseline).toMatchObject({ perplexityDelta: 0, meanKlDivergence: 0, top1Agreement: 1 });
  });

  it.each([
    ['windows longer than the context', { windowLen: 5000, stride: 5000 }, /5000|context/],
    ['a text that is not there', { textFile: '/nowhere/text.txt' }, '/nowhere/text.txt cannot be read'],
  ])('refuses %s', async (_, wrong, message) => {
    await expect(evaluateModel({ ...windows, ...wrong, model: config, baseline: null })).rejects.toThrow(
      message,
    );
  });

  it('refuses a model that computes NaN, which is above no bound', async () => {
    const damaged = path.join(scratch, 'damaged');
    cpSync(MODEL, damaged, { recursive: true });
    const file = path.join(damaged, 'model.safetensors');
    const bytes = readFileSync(file);
    const headerBytes = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<
      string,
      { data_offsets: [number, number] }
    >;
    const [start] = header['model.norm.weight'].data_offsets;
    bytes.writeUInt16LE(0x7fc0, 8 + headerBytes + start); // bfloat16's NaN
    writeFileSync(file, bytes);
    const model = { ...config, model: damaged };
    const message = /perplexity in bfloat16 is NaN: the checkpoint is damaged/;
    await expect(evaluateModel({ ...windows, model, baseline: null })).rejects.toThrow(message);
    await expect(evaluateModel({ ...windows, model: config, baseline: model })).rejects.toThrow(message);
  });

  it('refuses tokens outside of the vocabulary', async () => {
    const foreign = path.join(scratch, 'foreign.json');
    writeFileSync(foreign, '[1, 2, 999999]');
    await expect(
      evaluateModel({ ...windows, textFile: foreign, model: config, baseline: null }),
    ).rejects.toThrow('token 999999 is outside of the vocabulary');
  });
});

describe('the command line', { timeout: 60_000 }, () => {
  const perplexity = ['eval', 'perplexity', MODEL, '--device', 'cpu', '--text', textFile];
  const build = ['build', MODEL, '--device', 'cpu', '--quantization', 'int8', '--output', `${scratch}/none`];

  it.each([
    [[...perplexity, '--window', '5000'], '--window: 5000 is more than the context of 1024'],
    [[...perplexity, '--max-model-len', '64', '--window', '65'], 'the context of 64'],
    [[...perplexity, '--window', '100', '--stride', '101'], '1 to 100 apart, not 101'],
    [[...perplexity, '--load-format', 'dummy'], 'random weights have no quality'],
    [[...perplexity, '--baseline', 'none', '--baseline-model', MODEL], 'without use'],
    [[...perplexity, '--quantization-group-size', '64'], 'of no use without --quantization'],
    [[...build, '--quality-window', '64'], '--quality-window: name the text'],
    [[...build, '--quality-max-windows', '1'], '--quality-max-windows: name the text'],
    [[...build, '--quality-text', '/nowhere.txt'], '--quality-text: /nowhere.txt cannot be read'],
    [[...build, '--quality-text', textFile, '--quality-window', '2000'], "the plan's context of 1024 tokens"],
    [[...build, '--quality-text', textFile, '--load-format', 'dummy'], 'random weights have no quality'],
  ])('%j says what is wrong in one line, before it costs any time', async (args, message) => {
    const { text, code } = await run(...args);
    expect(text).toContain(message);
    expect(text.trim().split('\n')).toHaveLength(1);
    expect(code).toBe(1);
  });
});

describe('a plan that proves its quality', { timeout: 120_000 }, () => {
  const build = ['build', MODEL, '--device', 'cpu', '--quality-text', textFile, '--quality-window', '200'];

  it('carries its card, which the server shows', async () => {
    const output = path.join(scratch, 'int8');
    const { text, code } = await run(
      ...build,
      '--output',
      output,
      '--quantization',
      'int8',
      '--max-perplexity-delta',
      '1%',
    );
    expect(text).toContain('% above');
    expect(code).toBe(0);
    const llm = await LLM.load(output, { device: 'cpu' });
    const server = await startServer({ llm, servedModelNames: ['tales'], port: 0, logLevel: 'silent' });
    const response = await fetch(`${server.url}/v1/models`);
    const { data } = (await response.json()) as {
      data: { precision: string; quality: Record<string, unknown> }[];
    };
    await server.close();
    expect(data[0].precision).toContain('int8 weights');
    expect(data[0].quality).toMatchObject({ text: 'text.json', baseline: 'bfloat16' });
    expect(data[0].quality['perplexity_delta']).toBeLessThan(0.01);
  });

  it('is not written if it is worse than allowed', async () => {
    const output = path.join(scratch, 'int4');
    const { text, code } = await run(
      ...build,
      '--output',
      output,
      '--quantization',
      'int4',
      '--max-perplexity-delta',
      '0.1%',
    );
    expect(text).toMatch(/% above .* nothing was written/);
    expect(code).not.toBe(0);
    await expect(stat(output)).rejects.toThrow('ENOENT');
  });
});
