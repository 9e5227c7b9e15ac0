// Clients that leave, engines that fail, queues that are full, servers that end.
import { afterEach, describe, expect, test, vi } from 'vitest';
import type { EngineProcess } from '../../src/engine/process/engine-process.ts';
import { LLM } from '../../src/llm/llm.ts';
import { startServer } from '../../src/server/server.ts';
import { closeOnSignals } from '../../src/server/signals.ts';
import {
  MODEL_FOLDER,
  type TestServer,
  type TestServerOptions,
  startTestServer,
} from '../support/test-server.ts';

let servers: TestServer[] = [];
afterEach(async () => {
  for (const { server } of servers) server.abort();
  await Promise.all(servers.map(({ server }) => server.close()));
  servers = [];
});

async function start(options: TestServerOptions = {}): Promise<TestServer> {
  const server = await startTestServer(options);
  servers.push(server);
  return server;
}

const PROMPT = [44, 45, 46];
const endless = { prompt: PROMPT, max_tokens: 1000 };

/** A stream of which the first event has arrived. */
async function openStream(server: TestServer, body: object = endless, init: RequestInit = {}) {
  const responding = fetch(`${server.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...body, stream: true }),
    ...init,
  });
  const numBefore = server.engine.numRunning;
  await expect.poll(() => server.engine.numRunning).toBeGreaterThan(numBefore);
  server.engine.step();
  return responding;
}

describe('a client that leaves', () => {
  test('in the middle of a stream stops its generation', async () => {
    const server = await start({ engine: { isManual: true } });
    const controller = new AbortController();
    const response = await openStream(server, endless, { signal: controller.signal });
    await response.body!.getReader().read();
    controller.abort();
    await expect.poll(() => server.engine.numRunning).toBe(0);
    expect(server.engine.aborts).toEqual([{ requestId: server.engine.requests[0].requestId, index: null }]);
    expect(await metric(server, 'vllm:request_success_total{finished_reason="abort"')).toBe(1);
  });

  test('while it waits for a whole response stops all of its generations', async () => {
    const server = await start({ engine: { isManual: true } });
    const controller = new AbortController();
    const request = server.openai.completions.create(
      { model: 'tales', prompt: [PROMPT, PROMPT], max_tokens: 1000 },
      { signal: controller.signal },
    );
    const left = expect(request).rejects.toThrow(/abort/);
    await expect.poll(() => server.engine.numRunning).toBe(2);
    controller.abort();
    await left;
    await expect.poll(() => server.engine.numRunning).toBe(0);
  });

  test('leaves the other streams untouched', async () => {
    const server = await start({ engine: { isManual: true } });
    const controller = new AbortController();
    const leaving = await openStream(server, endless, { signal: controller.signal });
    const staying = await openStream(server, { prompt: PROMPT, max_tokens: 3 });
    await leaving.body!.getReader().read();
    controller.abort();
    await expect.poll(() => server.engine.numRunning).toBe(1);
    for (let i = 0; i < 2; i++) server.engine.step();
    expect(await staying.text()).toMatch(/"finish_reason":"length".*\[DONE\]/s);
  });
});

describe('a failing engine', () => {
  test('is a 503 before the first token, and an error event after it', async () => {
    const server = await start({ engine: { isManual: true } });
    const waiting = server.post('/v1/completions', endless);
    const stream = await openStream(server);
    await expect.poll(() => server.engine.numRunning).toBe(2);
    server.engine.fail('engine_died', "the engine's process died (signal SIGKILL)");
    const response = await waiting;
    expect(response.status).toBe(503);
    expect(await response.json()).toMatchObject({ error: { code: 'engine_died', type: 'server_error' } });
    const events = (await stream.text()).trim().split('\n\n');
    expect(JSON.parse(events.at(-1)!.slice('data: '.length))).toMatchObject({
      error: { code: 'engine_died' },
    });
    server.engine.isAlive = false;
    expect((await fetch(`${server.url}/health`)).status).toBe(503);
    server.engine.isAlive = true;
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
  });

  test("the official client's stream throws the error", async () => {
    const server = await start({ engine: { isManual: true } });
    const creating = server.openai.completions.create({
      model: 'tales',
      prompt: PROMPT,
      max_tokens: 1000,
      stream: true,
    });
    await expect.poll(() => server.engine.numRunning).toBe(1);
    server.engine.step();
    const stream = await creating;
    const reading = (async () => {
      for await (const _ of stream) server.engine.fail('engine_died', 'the engine died');
    })();
    await expect(reading).rejects.toThrow(/engine died/);
  });

  test('that is a killed process is replaced, and the server answers again', async () => {
    const llm = await LLM.load(MODEL_FOLDER, {
      device: 'reference',
      skipTokenizerInit: true,
      maxModelLen: 256,
    });
    const server = await startServer({ llm, servedModelNames: ['tales'], port: 0, logLevel: 'silent' });
    const post = (body: object) =>
      fetch(`${server.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
    const long = { prompt: PROMPT, max_tokens: 250, ignore_eos: true, return_token_ids: true };
    const stream = await post({ ...long, stream: true });
    process.kill((llm.engine as EngineProcess).pid!, 'SIGKILL');
    expect(await stream.text()).toMatch(/"code":"engine_died"/);
    await expect
      .poll(async () => (await fetch(`${server.url}/health`)).status, { timeout: 30_000 })
      .toBe(200);
    expect((await post({ prompt: PROMPT, max_tokens: 1 })).status).toBe(200);
    await server.close();
  });

  test('is one line of the log, without a stack', async () => {
    const server = await start({ engine: { isManual: true }, server: { logLevel: 'info' } });
    const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
    const waiting = server.post('/v1/completions', endless);
    await expect.poll(() => server.engine.numRunning).toBe(1);
    server.engine.fail('engine_died', 'the engine died');
    expect((await waiting).status).toBe(503);
    const lines = write.mock.calls
      .map(([line]) => String(line))
      .filter((line) => line.includes('engine died'));
    write.mockRestore();
    expect(lines.map((line) => JSON.parse(line) as object)).toEqual([
      expect.objectContaining({ level: 30, code: 'engine_died', msg: 'the engine died' }),
    ]);
    expect(lines[0]).not.toContain('stack');
  });

  test('a deadline is a 408', async () => {
    const server = await start({ engine: { isManual: true } });
    const waiting = server.post('/v1/completions', { ...endless, timeout_ms: 1 });
    await expect.poll(() => server.engine.numRunning).toBe(1);
    server.engine.fail('deadline_exceeded', 'the request took longer than 1 ms');
    expect((await waiting).status).toBe(408);
  });
});

test('a full queue is a 429 that says when to come back, streamed or not', async () => {
  const server = await start({ engine: { isManual: true, maxNumQueuedReqs: 1 } });
  await openStream(server);
  for (const stream of [false, true]) {
    const response = await server.post('/v1/completions', { ...endless, stream });
    expect(response.status).toBe(429);
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
    expect(await response.json()).toMatchObject({ error: { code: 'queue_full', type: 'rate_limit_error' } });
  }
});

test('a slow reader gets all of it in the end', async () => {
  const server = await start({ engine: { maxModelLen: 20_000 } });
  const big = { prompt: PROMPT, max_tokens: 8000, logprobs: 20, stream: true }; // some 10 MB of events
  const response = await server.post('/v1/completions', big);
  const reader = response.body!.getReader() as ReadableStreamDefaultReader<Uint8Array>;
  await reader.read();
  await expect.poll(() => server.engine.numRunning, { timeout: 60_000 }).toBe(0);
  let text = '';
  const decoder = new TextDecoder();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    text = (text + decoder.decode(value, { stream: true })).slice(-500);
  }
  expect(text).toMatch(/\[DONE\]\n\n$/);
});

describe('ending', () => {
  test('drains: running streams end, new requests get 503, then nothing listens', async () => {
    const server = await start({ engine: { isManual: true } });
    const stream = await openStream(server, { prompt: PROMPT, max_tokens: 3 });
    const closing = server.server.close();
    expect((await fetch(`${server.url}/health`)).status).toBe(503);
    const refused = await server.post('/v1/completions', endless);
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ error: { code: 'shutting_down' } });
    for (let i = 0; i < 2; i++) server.engine.step();
    expect(await stream.text()).toMatch(/\[DONE\]/);
    await closing;
    expect(server.engine.isClosed).toBe(true);
    await expect(fetch(`${server.url}/health`)).rejects.toThrow();
  });

  test('after the limit what still runs is ended with an error', async () => {
    const server = await start({ engine: { isManual: true }, server: { drainTimeoutMs: 1 } });
    const stream = await openStream(server);
    const waiting = server.post('/v1/completions', endless);
    await expect.poll(() => server.engine.numRunning).toBe(2);
    await server.server.close();
    expect((await waiting).status).toBe(503);
    expect(await stream.text()).toMatch(/"code":"shutting_down"/);
  });

  test('the first signal drains, the second does not wait', async () => {
    const server = await start({ engine: { isManual: true } });
    const stream = await openStream(server);
    const onSignal = vi.fn();
    const ended = closeOnSignals(server.server, onSignal);
    process.emit('SIGTERM');
    expect((await fetch(`${server.url}/health`)).status).toBe(503);
    expect(server.engine.numRunning).toBe(1);
    process.emit('SIGTERM');
    await ended;
    expect(await stream.text()).toMatch(/shutting_down/);
    expect(onSignal.mock.calls).toEqual([[1], [2]]);
    expect(process.listenerCount('SIGTERM')).toBe(0);
  });

  test('an address that is taken is said so, and the LLM stays usable', async () => {
    const server = await start();
    const port = Number(new URL(server.url).port);
    const again = startTestServer({ server: { port } });
    await expect(again).rejects.toMatchObject({ code: 'invalid_request', param: 'port' });
  });
});

test('two servers in one process do not share anything', async () => {
  const [a, b] = [await start(), await start()];
  await a.post('/v1/completions', { prompt: PROMPT, max_tokens: 5 });
  expect(await metric(a, 'vllm:generation_tokens_total{')).toBe(5);
  expect(await metric(b, 'vllm:generation_tokens_total{')).toBe(0);
});

async function metric(server: TestServer, start: string): Promise<number> {
  const text = await (await fetch(`${server.url}/metrics`)).text();
  const line = text.split('\n').find((candidate) => candidate.startsWith(start));
  return Number(line?.split(' ').at(-1));
}
