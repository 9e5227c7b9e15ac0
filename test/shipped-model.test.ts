// The model that comes with the package against what transformers computes from it, through the library and the server.
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LLM } from '../src/llm/llm.ts';
import { startServer, type RunningServer } from '../src/server/server.ts';

const MODEL = new URL('../models/llama-tales-8m', import.meta.url).pathname;
const MAX_FLOAT32_ERROR = 1e-3;
/** `reference.json` was computed with TF32 products, see the fixture's README. */
const MAX_TF32_ERROR = 5e-3;
const NUM_GREEDY = 200;
const WINDOW = 1024;
const NUM_WINDOWS = 320;
const PERPLEXITY = 7.5908;

interface Reference {
  readonly prompt: string;
  readonly text: string;
  readonly token_ids: readonly number[];
  readonly prompt_logprobs: readonly number[];
  readonly greedy: readonly number[];
  readonly greedy_text: string;
}

const { references } = readJson<{ references: Reference[] }>(`${MODEL}/reference.json`);
const exactLogprobs = readJson<number[][]>(
  new URL('fixtures/llama-tales-8m/prompt-logprobs-float32.json', import.meta.url).pathname,
);

function readJson<T>(path: string): T {
  return JSON.parse(readFileSync(path, 'utf8')) as T;
}

function largestDifference(actual: readonly (number | null)[], expected: readonly number[]): number {
  expect(actual).toHaveLength(expected.length);
  return Math.max(...actual.map((value, i) => Math.abs(value! - expected[i])));
}

describe('the shipped model in float32', () => {
  let llm: LLM;
  let server: RunningServer;
  let client: OpenAI;
  beforeAll(async () => {
    llm = await LLM.load(MODEL, { device: 'cpu', dtype: 'float32' });
    server = await startServer({ llm, servedModelNames: ['tales'], port: 0, logLevel: 'silent' });
    client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none' });
  });
  afterAll(() => server.close());

  describe.each(references.map((reference, i) => ({ ...reference, exact: exactLogprobs[i] })))(
    '$prompt',
    (reference) => {
      const greedy = { temperature: 0, maxTokens: NUM_GREEDY, ignoreEos: true } as const;

      it('has the prompt log-probabilities of transformers, through the library', async () => {
        const { promptLogprobs } = await llm
          .generate({ promptTokenIds: reference.token_ids }, { maxTokens: 0, promptLogprobs: 0 })
          .collect();
        const logprobs = promptLogprobs!.slice(1).map((token) => token.logprob);
        expect(largestDifference(logprobs, reference.exact)).toBeLessThan(MAX_FLOAT32_ERROR);
        expect(largestDifference(logprobs, reference.prompt_logprobs)).toBeLessThan(MAX_TF32_ERROR);
      });

      it('has them through the server', async () => {
        const completion = await client.completions.create({
          model: 'tales',
          prompt: [...reference.token_ids],
          max_tokens: 0,
          echo: true,
          logprobs: 0,
        });
        const logprobs = completion.choices[0].logprobs!.token_logprobs!;
        expect(logprobs[0]).toBeNull();
        expect(largestDifference(logprobs.slice(1), reference.exact)).toBeLessThan(MAX_FLOAT32_ERROR);
      });

      it('generates the greedy tokens of transformers, through the library', async () => {
        const messages = [{ role: 'user', content: reference.prompt }];
        const result = await llm.chat(messages, greedy).collect();
        expect([...result.promptTokenIds]).toEqual(reference.token_ids);
        expect(result.choices[0].tokenIds).toEqual(reference.greedy);
      });

      it('generates the greedy text, through the server', async () => {
        const stream = await client.chat.completions.create({
          model: 'tales',
          messages: [{ role: 'user', content: reference.prompt }],
          temperature: 0,
          max_completion_tokens: NUM_GREEDY,
          stream: true,
          // An extension that the client's types do not know.
          ...{ ignore_eos: true },
        });
        let text = '';
        for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
        expect(text).toBe(reference.greedy_text);
      });
    },
  );

  it('has the perplexity of transformers over all validation windows', { timeout: 600_000 }, async () => {
    const tokens = readJson<number[]>(`${MODEL}/validation_tokens.json`);
    const losses = await Promise.all(
      Array.from({ length: NUM_WINDOWS }, async (_, i) => {
        const promptTokenIds = tokens.slice(i * WINDOW, (i + 1) * WINDOW);
        const { promptLogprobs } = await llm
          .generate({ promptTokenIds }, { maxTokens: 0, promptLogprobs: 0 })
          .collect();
        return promptLogprobs!.slice(1).reduce((sum, token) => sum - token.logprob!, 0);
      }),
    );
    const mean = losses.reduce((a, b) => a + b) / (NUM_WINDOWS * (WINDOW - 1));
    expect(Math.abs(Math.exp(mean) / PERPLEXITY - 1)).toBeLessThan(1e-3);
  });
});
