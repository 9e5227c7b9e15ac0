// The routes beside generation: models, tokens, health, metrics, the page; keys, request ids and origins on all of them.
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { VERSION } from '../../src/util/version.ts';
import { type TestServer, startTestServer } from '../support/test-server.ts';

let server: TestServer;
beforeAll(async () => {
  server = await startTestServer();
});
afterAll(() => server.server.close());

const get = (path: string, headers: Record<string, string> = {}) =>
  fetch(`${server.url}${path}`, { headers });

test('models, by every served name', async () => {
  const models = await server.openai.models.list();
  expect(models.data.map((model) => model.id)).toEqual(['tales', 'org/tales']);
  expect(models.data[0]).toMatchObject({ object: 'model', max_model_len: 1024 });
  expect(await server.openai.models.retrieve('org/tales')).toMatchObject({ id: 'org/tales', root: 'tales' });
  expect((await (await get('/v1/models/org/tales')).json()) as object).toMatchObject({ id: 'org/tales' });
  expect((await get('/v1/models/other')).status).toBe(404);
  const completion = await server.openai.completions.create({ model: 'org/tales', prompt: 'x' });
  expect(completion.model).toBe('org/tales');
});

describe('tokens', () => {
  test('of a text and back', async () => {
    const prompt = 'Once upon a time — 🦊';
    const body = (await (await server.post('/tokenize', { prompt, return_token_strs: true })).json()) as {
      tokens: number[];
    };
    expect(body).toMatchObject({ count: body.tokens.length, max_model_len: 1024 });
    expect(body.tokens).toEqual(Array.from(server.tokenizer.encode(prompt)));
    expect((body as unknown as { token_strs: string[] }).token_strs[2]).toBe('nce');
    const back = await server.post('/detokenize', { tokens: body.tokens });
    expect(await back.json()).toEqual({ prompt: `<|bos|>${prompt}` });
    const bare = await server.post('/tokenize', { prompt, add_special_tokens: false });
    expect(await bare.json()).toMatchObject({ tokens: body.tokens.slice(1), token_strs: null });
  });

  test('of a chat', async () => {
    const messages = [{ role: 'user', content: 'Why?' }];
    const { tokens } = (await (await server.post('/tokenize', { messages })).json()) as { tokens: number[] };
    expect(server.tokenizer.decode(tokens, { skipSpecialTokens: false })).toBe(
      '<|bos|><|user|>Why?<|assistant|>',
    );
  });
});

test('health, ping, version, load', async () => {
  expect((await get('/health')).status).toBe(200);
  expect((await get('/ping')).status).toBe(200);
  expect(await (await get('/version')).json()).toEqual({ version: VERSION });
  expect(await (await get('/load')).json()).toEqual({ server_load: 0 });
});

describe('request ids', () => {
  test('are echoed, and made where there is none or a strange one', async () => {
    const idOf = async (headers: Record<string, string>) =>
      (await get('/version', headers)).headers.get('x-request-id');
    expect(await idOf({ 'x-request-id': 'trace-42' })).toBe('trace-42');
    expect(await idOf({})).toMatch(/^[0-9a-f-]{36}$/);
    expect(await idOf({ 'x-request-id': 'a'.repeat(200) })).toMatch(/^[0-9a-f-]{36}$/);
  });

  test('come with streams and errors too', async () => {
    const headers = { 'x-request-id': 'trace-43' };
    const stream = await server.post('/v1/completions', { prompt: 'x', stream: true }, headers);
    expect(stream.headers.get('x-request-id')).toBe('trace-43');
    await stream.text();
    const error = await server.post('/v1/completions', '{', headers);
    expect(error.headers.get('x-request-id')).toBe('trace-43');
  });

  test('may be the same for requests in flight together', async () => {
    const headers = { 'x-request-id': 'same' };
    const responses = await Promise.all(
      Array.from({ length: 4 }, () => server.post('/v1/completions', { prompt: 'x' }, headers)),
    );
    expect(responses.map((response) => response.status)).toEqual([200, 200, 200, 200]);
  });
});

describe('API keys', () => {
  const apiKeys = ['first-key', 'second-key'];
  let guarded: TestServer;
  beforeAll(async () => {
    guarded = await startTestServer({ server: { apiKeys, allowedOrigins: ['https://a.example'] } });
  });
  afterAll(() => guarded.server.close());

  const ROUTES: [string, string][] = [
    ...['/', '/web/page.js', '/web/page.css', '/v1/models', '/v1/models/tales', '/version', '/load'].map(
      (path): [string, string] => ['GET', path],
    ),
    ...['/metrics', '/stats', '/ping', '/nowhere'].map((path): [string, string] => ['GET', path]),
    ...['/v1/completions', '/v1/chat/completions', '/tokenize', '/detokenize'].map(
      (path): [string, string] => ['POST', path],
    ),
    ['OPTIONS', '/v1/models'],
  ];

  test.each(ROUTES)('guard %s %s', async (method, path) => {
    const wrong = [
      '',
      'Bearer',
      'Bearer ',
      'Bearer first-ke',
      'Bearer first-key2',
      'first-key',
      'Basic Zmlyc3Q=',
      'Digest x',
    ];
    for (const authorization of wrong) {
      const response = await fetch(`${guarded.url}${path}`, { method, headers: { authorization } });
      expect(response.status).toBe(401);
      const scheme = path === '/' ? 'Basic' : 'Bearer';
      expect(response.headers.get('www-authenticate')).toBe(`${scheme} realm="needletail"`);
      expect(await response.json()).toMatchObject({ error: { code: 'invalid_api_key' } });
    }
    for (const key of apiKeys) {
      const basic = `Basic ${Buffer.from(`anyone:${key}`).toString('base64')}`;
      for (const authorization of [`Bearer ${key}`, `bearer ${key}`, basic]) {
        const response = await fetch(`${guarded.url}${path}`, { method, headers: { authorization } });
        expect(response.status).not.toBe(401);
      }
    }
  });

  test('leave /health open', async () => {
    expect((await fetch(`${guarded.url}/health`)).status).toBe(200);
  });

  test('let the official client in', async () => {
    expect((await guarded.openai.models.list()).data).toHaveLength(2);
  });

  test('must not be empty', async () => {
    await expect(startTestServer({ server: { apiKeys: [''] } })).rejects.toMatchObject({ param: 'apiKeys' });
  });

  test('a preflight of an allowed origin needs none, the request itself does', async () => {
    const headers = {
      origin: 'https://a.example',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type',
    };
    const preflight = await fetch(`${guarded.url}/v1/completions`, { method: 'OPTIONS', headers });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get('access-control-allow-origin')).toBe('https://a.example');
    expect(preflight.headers.get('access-control-allow-headers')).toBe('authorization,content-type');
    const post = await guarded.post('/v1/completions', { prompt: 'x' }, { origin: 'https://a.example' });
    expect(post.status).toBe(401);
    expect(post.headers.get('access-control-allow-origin')).toBe('https://a.example');
    const other = await fetch(`${guarded.url}/health`, { headers: { origin: 'https://b.example' } });
    expect(other.headers.get('access-control-allow-origin')).toBeNull();
  });
});

test('no origin is allowed by default', async () => {
  const response = await get('/health', { origin: 'https://a.example' });
  expect(response.headers.get('access-control-allow-origin')).toBeNull();
});

describe('metrics', () => {
  const NAMES = [
    ...['num_requests_running', 'num_requests_waiting', 'kv_cache_usage_perc', 'cache_config_info'],
    ...['prompt_tokens_total', 'generation_tokens_total', 'request_success_total', 'num_preemptions_total'],
    ...['prefix_cache_queries_total', 'prefix_cache_hits_total', 'iteration_tokens_total'],
    ...['time_to_first_token_seconds', 'inter_token_latency_seconds', 'e2e_request_latency_seconds'],
    ...['request_queue_time_seconds', 'request_inference_time_seconds', 'request_prefill_time_seconds'],
    ...['request_decode_time_seconds', 'request_prompt_tokens', 'request_generation_tokens'],
    ...['request_max_num_generation_tokens', 'request_params_n', 'request_params_max_tokens'],
  ];

  async function scrape(url: string): Promise<Map<string, number>> {
    const text = await (await fetch(`${url}/metrics`)).text();
    const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
    return new Map(
      lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]),
    );
  }

  test("are vLLM's, with its labels", async () => {
    const samples = [...(await scrape(server.url)).keys()];
    for (const name of NAMES) {
      const own = samples.filter(
        (sample) => sample.startsWith(`vllm:${name}{`) || sample.startsWith(`vllm:${name}_count{`),
      );
      expect(own, name).not.toHaveLength(0);
      expect(own[0]).toMatch(/model_name="tales",engine="0"/);
    }
  });

  test('count what was done', async () => {
    const fresh = await startTestServer({ engine: { vocabSize: 6144 } });
    await fresh.post('/v1/completions', { prompt: [44, 45, 46], max_tokens: 5, n: 2 });
    await fresh.post('/v1/completions', {
      prompt: [44, 45, 46],
      max_tokens: 20,
      stop: fresh.tokenizer.decode([45], { skipSpecialTokens: false }),
    });
    await fresh.post('/v1/completions', { prompt: 1 });
    const samples = await scrape(fresh.url);
    const value = (name: string, labels = '') =>
      samples.get(`${name}{${labels}model_name="tales",engine="0"}`);
    expect(value('vllm:request_success_total', 'finished_reason="length",')).toBe(2);
    expect(value('vllm:request_success_total', 'finished_reason="stop",')).toBe(1);
    expect(value('vllm:time_to_first_token_seconds_count')).toBe(2);
    expect(value('vllm:e2e_request_latency_seconds_count')).toBe(2);
    expect(value('vllm:request_queue_time_seconds_count')).toBe(2);
    expect(value('vllm:request_generation_tokens_sum')).toBe(
      10 + value('vllm:request_max_num_generation_tokens_sum')! - 5,
    );
    expect(value('vllm:request_params_n_sum')).toBe(3);
    expect(value('vllm:prompt_tokens_total')).toBe(6);
    expect(value('vllm:num_requests_running')).toBe(0);
    expect(value('http_requests_total', 'handler="/v1/completions",method="POST",status="4xx",')).toBe(1);
    expect(value('vllm:time_to_first_token_seconds_bucket', 'le="0.001",')).toBeDefined();
    await fresh.server.close();
  });

  test('stats for the page', async () => {
    expect(await (await get('/stats')).json()).toMatchObject({ model: 'tales', running: 0, requests: [] });
  });
});

test('the page and its files come from here alone', async () => {
  const page = await get('/');
  expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
  expect(page.headers.get('content-security-policy')).toMatch(/default-src 'none'/);
  const html = await page.text();
  expect(html).not.toMatch(/https?:\/\//);
  const files = [...html.matchAll(/(?:src|href)="([^"#]+)"/g)].map((match) => match[1]);
  expect(files.length).toBeGreaterThan(0);
  for (const file of files.filter((name) => !name.startsWith('data:')))
    expect((await get(file)).status).toBe(200);
});
