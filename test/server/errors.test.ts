// What bad input gets: a clear error for that request in OpenAI's form, and a server that goes on.
import http from 'node:http';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type TestServer, startTestServer } from '../support/test-server.ts';

interface ErrorBody {
  readonly error: { message: string; type: string; param: string | null; code: string | null };
}

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer({ server: { maxBodyBytes: 100_000 } });
});
afterAll(() => server.server.close());

const COMPLETIONS = '/v1/completions';
const CHAT = '/v1/chat/completions';
const user = (content: unknown) => ({ messages: [{ role: 'user', content }] });

async function errorOf(response: Response): Promise<ErrorBody['error']> {
  const body = (await response.json()) as ErrorBody;
  expect(Object.keys(body)).toEqual(['error']);
  expect(Object.keys(body.error).sort()).toEqual(['code', 'message', 'param', 'type']);
  expect(body.error.message.length).toBeGreaterThan(10);
  return body.error;
}

describe('400 that names the field', () => {
  const cases: [string, string, object, string][] = [
    ['a field nobody knows', COMPLETIONS, { prompt: 'x', guided_regex: 'a*' }, 'guided_regex'],
    ['a suffix', COMPLETIONS, { prompt: 'x', suffix: 'y' }, 'suffix'],
    ['best_of', COMPLETIONS, { prompt: 'x', best_of: 2 }, 'best_of'],
    ['beam search', COMPLETIONS, { prompt: 'x', use_beam_search: true }, 'use_beam_search'],
    ['no prompt', COMPLETIONS, {}, 'prompt'],
    ['an empty list of prompts', COMPLETIONS, { prompt: [] }, 'prompt'],
    ['a mixed list of prompts', COMPLETIONS, { prompt: ['a', 1] }, 'prompt'],
    ['an empty list of token ids', COMPLETIONS, { prompt: [[1], []] }, 'prompt'],
    ['too many prompts', COMPLETIONS, { prompt: new Array(1025).fill('a') }, 'prompt'],
    ['too many choices over all prompts', COMPLETIONS, { prompt: new Array(32).fill('a'), n: 128 }, 'n'],
    ['a token id out of range', COMPLETIONS, { prompt: [6144] }, 'prompt'],
    ['a negative token id', COMPLETIONS, { prompt: [-1] }, 'prompt'],
    ['temperature 1e9', COMPLETIONS, { prompt: 'x', temperature: 1e9 }, 'temperature'],
    ['a temperature in words', COMPLETIONS, { prompt: 'x', temperature: 'hot' }, 'temperature'],
    ['top_p 0', COMPLETIONS, { prompt: 'x', top_p: 0 }, 'top_p'],
    ['n 10000', COMPLETIONS, { prompt: 'x', n: 10_000 }, 'n'],
    ['n 0', COMPLETIONS, { prompt: 'x', n: 0 }, 'n'],
    ['a hundred stop strings', COMPLETIONS, { prompt: 'x', stop: new Array(100).fill('a') }, 'stop'],
    ['an endless stop string', COMPLETIONS, { prompt: 'x', stop: 'a'.repeat(2000) }, 'stop[0]'],
    ['half a character to stop at', COMPLETIONS, { prompt: 'x', stop: '\ud83e' }, 'stop'],
    ['logprobs 21', COMPLETIONS, { prompt: 'x', logprobs: 21 }, 'logprobs'],
    ['max_tokens -1', COMPLETIONS, { prompt: 'x', max_tokens: -1 }, 'max_tokens'],
    ['min_tokens over max_tokens', COMPLETIONS, { prompt: 'x', min_tokens: 9, max_tokens: 8 }, 'min_tokens'],
    ['a bias of 1000', COMPLETIONS, { prompt: 'x', logit_bias: { 5: 1000 } }, 'logit_bias.5'],
    ['a bias for a word', COMPLETIONS, { prompt: 'x', logit_bias: { fox: 1 } }, 'logit_bias.fox'],
    ['a bias out of range', COMPLETIONS, { prompt: 'x', logit_bias: { 6144: 1 } }, 'logit_bias'],
    ['stream options without stream', COMPLETIONS, { prompt: 'x', stream_options: {} }, 'stream_options'],
    [
      'an unknown stream option',
      COMPLETIONS,
      { prompt: 'x', stream: true, stream_options: { fast: true } },
      'stream_options.fast',
    ],
    ['priority under fcfs', COMPLETIONS, { prompt: 'x', priority: 3 }, 'priority'],
    ['timeout_ms 0', COMPLETIONS, { prompt: 'x', timeout_ms: 0 }, 'timeout_ms'],
    ['tools', CHAT, { ...user('x'), tools: [{ type: 'function' }] }, 'tools'],
    ['a tool choice', CHAT, { ...user('x'), tool_choice: 'auto' }, 'tool_choice'],
    ['JSON mode', CHAT, { ...user('x'), response_format: { type: 'json_object' } }, 'response_format.type'],
    ['a template of the caller', CHAT, { ...user('x'), chat_template: '{{ 1 }}' }, 'chat_template'],
    ['an image', CHAT, user([{ type: 'image_url', image_url: { url: 'x' } }]), 'messages[0].content[0].type'],
    ['no messages', CHAT, { messages: [] }, 'messages'],
    ['an unknown role', CHAT, { messages: [{ role: 'tool', content: 'x' }] }, 'messages[0].role'],
    ['a message without content', CHAT, { messages: [{ role: 'assistant' }] }, 'messages[0].content'],
    [
      'tool calls',
      CHAT,
      { messages: [{ role: 'user', content: '', tool_calls: [] }] },
      'messages[0].tool_calls',
    ],
    ['top_logprobs alone', CHAT, { ...user('x'), top_logprobs: 2 }, 'top_logprobs'],
    ['two names of one limit', CHAT, { ...user('x'), max_tokens: 1, max_completion_tokens: 2 }, 'max_tokens'],
    [
      'deep template arguments',
      CHAT,
      { ...user('x'), chat_template_kwargs: { a: [[[[[[[[[1]]]]]]]]] } },
      'chat_template_kwargs',
    ],
    [
      'two endings of a chat',
      CHAT,
      { ...user('x'), continue_final_message: true, add_generation_prompt: true },
      'continue_final_message',
    ],
    ['neither prompt nor messages', '/tokenize', {}, 'prompt'],
    ['tokens that do not exist', '/detokenize', { tokens: [6144] }, 'tokens'],
  ];
  test.each(cases)('%s', async (_name, path, body, param) => {
    const numRequests = server.engine.requests.length;
    const response = await server.post(path, body);
    expect(response.status).toBe(400);
    expect(await errorOf(response)).toMatchObject({ type: 'invalid_request_error', param });
    expect(server.engine.requests).toHaveLength(numRequests);
  });

  test('NaN and infinite numbers, which JSON cannot spell', async () => {
    for (const number of ['NaN', 'Infinity', '1e999'])
      expect((await server.post(COMPLETIONS, `{"prompt":"x","temperature":${number}}`)).status).toBe(400);
  });
});

describe('the right status', () => {
  test('400 with the counts for a prompt longer than the context', async () => {
    const response = await server.post(COMPLETIONS, { prompt: new Array(1100).fill(5) });
    expect(response.status).toBe(400);
    const error = await errorOf(response);
    expect(error.code).toBe('context_length_exceeded');
    expect(error.message).toMatch(/1024 .*1100/);
    const text = await server.post(COMPLETIONS, { prompt: 'word '.repeat(15_000) });
    expect(text.status).toBe(400);
    expect((await errorOf(text)).message).toMatch(/holds 1024 tokens, but the prompt has at least \d{4}/);
  });

  test('404 for another model and another route', async () => {
    const response = await server.post(COMPLETIONS, { model: 'gpt-4', prompt: 'x' });
    expect(response.status).toBe(404);
    expect(await errorOf(response)).toMatchObject({ code: 'model_not_found', param: 'model' });
    const nowhere = await fetch(`${server.url}/v1/embeddings`);
    expect(nowhere.status).toBe(404);
    await errorOf(nowhere);
  });

  test('400 for broken JSON, an empty body, and keys that would poison a prototype', async () => {
    for (const body of ['{"prompt": "x"', '', '[1', '{"prompt":"x","__proto__":{}}']) {
      const response = await server.post(COMPLETIONS, body);
      expect(response.status).toBe(400);
      await errorOf(response);
    }
    for (const body of ['[]', '"x"', 'null', '3']) {
      expect((await server.post(COMPLETIONS, body)).status).toBe(400);
    }
  });

  test('413 for a body over the limit, announced or not', async () => {
    const response = await server.post(COMPLETIONS, { prompt: 'x'.repeat(100_001) });
    expect(response.status).toBe(413);
    expect(await errorOf(response)).toMatchObject({ code: 'body_too_large' });
    const chunks = new ReadableStream({
      pull: (controller) => controller.enqueue(Buffer.from('x'.repeat(10_000))),
    });
    const init = {
      method: 'POST',
      body: chunks,
      duplex: 'half',
      headers: { 'content-type': 'application/json' },
    };
    const status = await fetch(`${server.url}${COMPLETIONS}`, init as RequestInit).then(
      (reply) => reply.status,
      () => 413, // the server hangs up on a sender that does not stop
    );
    expect(status).toBe(413);
  });

  test('415 for what is not JSON', async () => {
    for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/xml']) {
      const response = await server.post(COMPLETIONS, '{"prompt":"x"}', { 'content-type': type });
      expect(response.status).toBe(415);
      await errorOf(response);
    }
    const untyped = await fetch(`${server.url}${COMPLETIONS}`, {
      method: 'POST',
      body: new Blob(['{"prompt":"x"}']),
    });
    expect(untyped.status).toBe(415);
  });

  test('422 for a chat without a template, and for text without a tokenizer', async () => {
    const bare = await startTestServer({ llm: { tokenizer: null } });
    const requests: [string, object][] = [
      [CHAT, user('x')],
      [COMPLETIONS, { prompt: 'x' }],
      ['/tokenize', { prompt: 'x' }],
    ];
    for (const [path, body] of requests) {
      const response = await bare.post(path, body);
      expect(response.status).toBe(422);
      expect((await errorOf(response)).message).toMatch(/tokenizer/);
    }
    await bare.server.close();
  });

  test('400 with its own words for messages that the template refuses, and for a template that loops', async () => {
    const refusing = await startTestServer({
      llm: { chatTemplate: "{{ raise_exception('roles must alternate') }}" },
    });
    const refused = await refusing.post(CHAT, user('x'));
    expect(refused.status).toBe(400);
    expect((await errorOf(refused)).message).toBe('roles must alternate');
    await refusing.server.close();
    const loop =
      '{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{% endfor %}{% endfor %}{% endfor %}';
    const looping = await startTestServer({ llm: { chatTemplate: loop } });
    const endless = await looping.post(CHAT, user('x'));
    expect(endless.status).toBe(400);
    expect((await errorOf(endless)).message).toMatch(/too costly/);
    expect((await looping.post(COMPLETIONS, { prompt: 'x' })).status).toBe(200);
    await looping.server.close();
  });

  test('500 without the reason for a failure that nobody foresaw', async () => {
    const failing = await startTestServer();
    failing.engine.generate = () => {
      throw new Error('secret path /home/x');
    };
    const response = await failing.post(COMPLETIONS, { prompt: 'x' });
    expect(response.status).toBe(500);
    expect(JSON.stringify(await errorOf(response))).not.toMatch(/secret/);
    await failing.server.close();
  });
});

test('the official client throws its own kinds of errors', async () => {
  const { completions, chat } = server.openai;
  const wrong = completions.create({ model: 'tales', prompt: 'x', n: 1000 });
  await expect(wrong).rejects.toBeInstanceOf(OpenAI.BadRequestError);
  await expect(wrong).rejects.toMatchObject({ param: 'n', code: 'invalid_request' });
  const unknown = chat.completions.create({ model: 'other', messages: [{ role: 'user', content: 'x' }] });
  await expect(unknown).rejects.toBeInstanceOf(OpenAI.NotFoundError);
});

test('a bad request in the middle of a stream leaves the stream alone', async () => {
  const calm = await startTestServer({ engine: { isManual: true } });
  const streaming = calm.post(COMPLETIONS, { prompt: [44, 45], max_tokens: 4, stream: true });
  await expect.poll(() => calm.engine.numRunning).toBe(1);
  calm.engine.step();
  const stream = await streaming;
  expect((await calm.post(COMPLETIONS, '{"prompt"')).status).toBe(400);
  expect((await calm.post(COMPLETIONS, { prompt: [99999] })).status).toBe(400);
  for (let i = 0; i < 3; i++) calm.engine.step();
  expect(await stream.text()).toMatch(/"finish_reason":"length".*\n\ndata: \[DONE\]\n\n$/s);
  await calm.server.close();
});

test('a request that is not HTTP gets an answer, and the server goes on', async () => {
  const { port } = new URL(server.url);
  const status = await new Promise((resolve) => {
    const request = http.request({ port, path: '/%', method: 'GET' }, (response) =>
      resolve(response.statusCode),
    );
    request.end();
  });
  expect(status).toBe(400);
  expect((await fetch(`${server.url}/health`)).status).toBe(200);
});
