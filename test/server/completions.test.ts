// /v1/completions through the official client.
import type OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { type TestServer, startTestServer } from '../support/test-server.ts';

type Params = Omit<OpenAI.CompletionCreateParamsNonStreaming, 'model'>;

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ engine: { numCachedTokens: 2 } });
});
afterAll(() => server.server.close());

const PROMPT = 'Once upon a time there was';

const complete = (params: Params & Record<string, unknown>) =>
  server.openai.completions.create({ model: 'tales', ...params });

async function streamed(params: Params & Record<string, unknown>): Promise<OpenAI.Completion[]> {
  const stream = await server.openai.completions.create({ model: 'tales', ...params, stream: true });
  const chunks: OpenAI.Completion[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const idsOf = (text: string) => Array.from(server.tokenizer.encode(text));

describe('in one piece', () => {
  test('a text prompt', async () => {
    const completion = await complete({ prompt: PROMPT, max_tokens: 5 });
    expect(completion).toMatchObject({ object: 'text_completion', model: 'tales' });
    expect(completion.id).toMatch(/^cmpl-/);
    expect(completion.choices).toEqual([
      { index: 0, text: 'Once upon a', logprobs: null, finish_reason: 'length', stop_reason: null },
    ]);
    expect(completion.usage).toEqual({
      prompt_tokens: 8,
      completion_tokens: 5,
      total_tokens: 13,
      prompt_tokens_details: { cached_tokens: 2 },
    });
  });

  test('16 tokens by default, another number by either name', async () => {
    expect((await complete({ prompt: PROMPT })).usage?.completion_tokens).toBe(16);
    const both = { max_tokens: 5, max_completion_tokens: 5 };
    expect((await complete({ prompt: PROMPT, ...both })).usage?.completion_tokens).toBe(5);
  });

  test('texts and token ids, alone and in lists, give the same', async () => {
    const [a, b] = [PROMPT, 'A fox'];
    const texts = await complete({ prompt: [a, b], max_tokens: 4, n: 2 });
    const ids = await complete({ prompt: [idsOf(a), idsOf(b)], max_tokens: 4, n: 2 });
    const alone = await complete({ prompt: idsOf(a), max_tokens: 4, n: 2 });
    expect(texts.choices.map((choice) => choice.index)).toEqual([0, 1, 2, 3]);
    expect(ids.choices).toEqual(texts.choices);
    expect(alone.choices).toEqual(texts.choices.slice(0, 2));
    expect(texts.usage).toMatchObject({
      prompt_tokens: idsOf(a).length + idsOf(b).length,
      completion_tokens: 16,
    });
  });

  test('many prompts, without a word on stderr', async () => {
    const onWarning = vi.fn();
    process.on('warning', onWarning);
    const prompts = Array.from({ length: 300 }, (_, i) => [10 + i, 11 + i, 12 + i]);
    const { choices } = await complete({ prompt: prompts, max_tokens: 3, return_token_ids: true });
    process.off('warning', onWarning);
    expect(choices.map((choice) => (choice as unknown as { token_ids: number[] }).token_ids)).toEqual(
      prompts,
    );
    expect(onWarning).not.toHaveBeenCalled();
  });

  test('add_special_tokens: false leaves the first token out', async () => {
    const completion = await complete({ prompt: PROMPT, add_special_tokens: false });
    expect(completion.usage?.prompt_tokens).toBe(7);
  });

  test('echo with max_tokens 0 scores the prompt', async () => {
    const [choice] = (await complete({ prompt: PROMPT, max_tokens: 0, echo: true, logprobs: 1 })).choices;
    expect(choice.text).toBe(PROMPT);
    expect(choice.logprobs?.tokens?.join('')).toBe(`<|bos|>${PROMPT}`);
    expect(choice.logprobs?.token_logprobs).toEqual([null, -1, -1, -1, -1, -1, -1, -1]);
    expect(choice.logprobs?.top_logprobs?.[0]).toBeNull();
    // The likeliest token, and the token itself where it is another one.
    expect(Object.values(choice.logprobs!.top_logprobs![1])).toEqual([-0.5, -1]);
    const offsets = choice.logprobs!.text_offset!;
    expect(offsets.slice(1).map((start, i) => PROMPT.slice(start, offsets[i + 2]))).toEqual(
      choice.logprobs!.tokens!.slice(1),
    );
  });

  test('echo of token ids is their text', async () => {
    const completion = await complete({ prompt: idsOf(PROMPT), max_tokens: 1, echo: true });
    expect(completion.choices[0].text).toBe(PROMPT);
  });

  test('stop strings', async () => {
    const completion = await complete({ prompt: PROMPT, max_tokens: 100, stop: [' time', 'never'] });
    expect(completion.choices[0]).toMatchObject({
      text: 'Once upon a',
      finish_reason: 'stop',
      stop_reason: ' time',
    });
    expect(completion.usage?.completion_tokens).toBe(6);
  });

  test('token ids, prompt log-probabilities and names of tokens on request', async () => {
    const completion = await complete({
      prompt: PROMPT,
      max_tokens: 2,
      logprobs: 0,
      return_token_ids: true,
      prompt_logprobs: 0,
      return_tokens_as_token_ids: true,
    });
    const [a, b] = idsOf(PROMPT);
    expect(completion.choices[0]).toMatchObject({
      token_ids: [a, b],
      prompt_token_ids: idsOf(PROMPT),
      logprobs: { tokens: [`token_id:${a}`, `token_id:${b}`] },
    });
    const { prompt_logprobs } = completion.choices[0] as unknown as { prompt_logprobs: unknown[] };
    expect(prompt_logprobs[0]).toBeNull();
    expect(prompt_logprobs[1]).toEqual({ [b]: { logprob: -1, rank: 2, decoded_token: 'O' } });
  });

  test('every sampling parameter reaches the engine', async () => {
    await complete({
      prompt: PROMPT,
      temperature: 0.5,
      top_p: 0.8,
      top_k: 20,
      min_p: 0.1,
      repetition_penalty: 1.2,
      presence_penalty: 0.3,
      frequency_penalty: -0.4,
      logit_bias: { '5': -100 },
      seed: 7,
      n: 2,
      max_tokens: 9,
      min_tokens: 3,
      stop_token_ids: [44],
      ignore_eos: true,
      logprobs: 3,
      prompt_logprobs: 2,
      timeout_ms: 60_000,
      cache_salt: 'tenant',
      user: 'somebody',
    });
    expect(server.engine.requests.at(-1)).toMatchObject({
      priority: 0,
      timeoutMs: 60_000,
      cacheSalt: 'tenant',
      sampling: {
        temperature: 0.5,
        topP: 0.8,
        topK: 20,
        minP: 0.1,
        repetitionPenalty: 1.2,
        presencePenalty: 0.3,
        frequencyPenalty: -0.4,
        logitBias: [{ tokenId: 5, bias: -100 }],
        seed: 7n,
        n: 2,
        maxTokens: 9,
        minTokens: 3,
        stopTokenIds: [44],
        logprobs: 3,
        promptLogprobs: 2,
      },
    });
  });
});

describe('streamed', () => {
  test('the text is that of the whole response, choice by choice', async () => {
    const params = { prompt: [PROMPT, 'A fox and a hen'], n: 2, max_tokens: 40, stop: ['hen a', ' was'] };
    const whole = await complete(params);
    const chunks = await streamed(params);
    for (const choice of whole.choices) {
      const own = chunks.flatMap((chunk) => chunk.choices).filter(({ index }) => index === choice.index);
      expect(own.map(({ text }) => text).join('')).toBe(choice.text);
      expect(own.at(-1)?.finish_reason).toBe(choice.finish_reason);
      expect(own.slice(0, -1).every(({ finish_reason }) => finish_reason === null)).toBe(true);
    }
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
  });

  test('usage comes last if asked for, and null before', async () => {
    const chunks = await streamed({ prompt: PROMPT, max_tokens: 3, stream_options: { include_usage: true } });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 8, completion_tokens: 3 } });
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
    const without = await streamed({ prompt: PROMPT, max_tokens: 3 });
    expect(without.every((chunk) => chunk.choices.length === 1 && !('usage' in chunk))).toBe(true);
  });

  test('usage with every chunk', async () => {
    const options = { include_usage: true, continuous_usage_stats: true };
    const chunks = await streamed({ prompt: idsOf('abc'), max_tokens: 3, stream_options: options });
    const counts = chunks.map((chunk) => chunk.usage?.completion_tokens);
    expect(counts).toEqual([...counts].sort((a, b) => a! - b!));
    expect(counts.at(-1)).toBe(3);
  });

  test('log-probabilities and token ids put together are those of the whole response', async () => {
    const params = { prompt: PROMPT, max_tokens: 6, logprobs: 2, echo: true, return_token_ids: true };
    const [whole] = (await complete(params)).choices;
    const choices = (await streamed(params)).map((chunk) => chunk.choices[0]);
    for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'] as const) {
      expect(choices.flatMap((choice) => choice.logprobs?.[key] as unknown[])).toEqual(whole.logprobs?.[key]);
    }
    const ids = choices.map(
      (choice) => choice as unknown as { token_ids: number[]; prompt_token_ids?: number[] },
    );
    expect(ids.flatMap((choice) => choice.token_ids)).toEqual(
      (whole as unknown as { token_ids: number[] }).token_ids,
    );
    expect(ids.map((choice) => choice.prompt_token_ids)).toEqual([
      idsOf(PROMPT),
      ...ids.slice(1).map(() => undefined),
    ]);
  });

  test('token ids as they come where there is no tokenizer, unless they are refused', async () => {
    const bare = await startTestServer({ llm: { tokenizer: null } });
    const streamIds = async (extra: object) => {
      const body = { prompt: [5, 6, 7], max_tokens: 3, ignore_eos: true, stream: true, ...extra };
      const events = await (await bare.post('/v1/completions', body)).text();
      return [...events.matchAll(/,"token_ids":\[([\d,]*)\]/g)].flatMap(([, ids]) =>
        ids.split(',').map(Number),
      );
    };
    expect(await streamIds({})).toHaveLength(3);
    expect(await streamIds({ return_token_ids: false })).toEqual([]);
    await bare.server.close();
  });

  test('the wire: events as OpenAI sends them', async () => {
    const response = await server.post('/v1/completions', { prompt: 'abc', max_tokens: 2, stream: true });
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    const events = (await response.text()).split('\n\n');
    expect(events.every((event) => event === '' || event.startsWith('data: '))).toBe(true);
    expect(events.slice(-2)).toEqual(['data: [DONE]', '']);
  });
});
