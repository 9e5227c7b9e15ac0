import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { runLoad, type LoadOptions } from './load.ts';
import type { BenchRequest } from './workload.ts';

interface Sent {
  readonly max_tokens: number;
  readonly return_token_ids?: boolean;
  readonly prompt?: number[];
  readonly messages?: { content: string }[];
}

/** Answers one request: writes events and ends, or misbehaves. */
type Handler = (body: Sent, response: http.ServerResponse, request: http.IncomingMessage) => void;

let server: http.Server;
afterEach(() => new Promise((resolve) => server.close(resolve)));

async function listen(handler: Handler): Promise<string> {
  server = http.createServer((request, response) => {
    if (request.url === '/v1/models') {
      response.end(JSON.stringify({ data: [{ id: 'tales' }] }));
      return;
    }
    const parts: Buffer[] = [];
    request.on('data', (part: Buffer) => parts.push(part));
    request.on('end', () => handler(JSON.parse(Buffer.concat(parts).toString()) as Sent, response, request));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const event = (value: unknown) => `data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`;
const usage = (completion_tokens: number) => ({
  choices: [],
  usage: { prompt_tokens: 4, completion_tokens },
});

function options(baseUrl: string, changes: Partial<LoadOptions> = {}): LoadOptions {
  const endpoint = '/v1/completions';
  return {
    baseUrl,
    endpoint,
    model: null,
    apiKey: null,
    requestRate: Infinity,
    maxConcurrency: null,
    seed: 1,
    ...changes,
  };
}

function requests(count: number, outputTokens = 3): BenchRequest[] {
  return Array.from({ length: count }, () => ({ promptTokenIds: Int32Array.of(5, 6, 7, 8), outputTokens }));
}

/** A well-behaved server that sends two tokens in the first chunk. */
const good: Handler = (body, response) => {
  const ids = Array.from({ length: body.max_tokens }, (_, i) => i);
  response.write(event({ choices: [{ text: '', token_ids: ids.slice(0, 2) }] }));
  for (const id of ids.slice(2)) response.write(event({ choices: [{ text: 'x', token_ids: [id] }] }));
  response.end(event(usage(ids.length)) + event('[DONE]'));
};

describe('runLoad', () => {
  it('counts by usage and times by token ids', async () => {
    const result = await runLoad(requests(5), options(await listen(good)));
    expect(result).toMatchObject({ model: 'tales', hasTokenIds: true, errors: [] });
    expect(result.requests).toHaveLength(5);
    for (const times of result.requests) {
      expect(times).toMatchObject({ inputTokens: 4, outputTokens: 3 });
      expect(times.tokenMs).toHaveLength(3);
      expect(times.tokenMs[0]).toBeGreaterThanOrEqual(times.sentMs);
      expect(times.tokenMs[0]).toBe(times.tokenMs[1]);
    }
  });

  it('does without token ids where a server refuses them', async () => {
    const url = await listen((body, response) => {
      if (body.return_token_ids) response.writeHead(400).end('unknown field');
      else response.end(event({ choices: [{ text: 'a b c' }] }) + event(usage(3)) + event('[DONE]'));
    });
    const result = await runLoad(requests(2), options(url));
    expect(result).toMatchObject({ hasTokenIds: false, errors: [] });
    expect(result.requests[0]).toMatchObject({ outputTokens: 3 });
    expect(result.requests[0].tokenMs).toHaveLength(1);
  });

  it('speaks chat too', async () => {
    const url = await listen((body, response) => {
      expect(body.messages?.[0]?.content.split(' ')).toHaveLength(4);
      const role = event({ choices: [{ delta: { content: '' } }] });
      response.end(
        role + event({ choices: [{ delta: { content: 'hi' } }] }) + event(usage(1)) + event('[DONE]'),
      );
    });
    const result = await runLoad(requests(1), options(url, { endpoint: '/v1/chat/completions' }));
    expect(result.requests[0].tokenMs).toHaveLength(1);
  });

  it('keeps to the concurrency', async () => {
    let count = 0;
    let most = 0;
    let held: (() => void)[] = [];
    const url = await listen((body, response, request) => {
      const answer = () => good(body, response, request);
      if (count++ === 0) return answer(); // the warm-up
      held.push(answer);
      most = Math.max(most, held.length);
      if (held.length !== 3) return;
      setImmediate(() => {
        held.forEach((release) => release());
        held = [];
      });
    });
    const { requests: times } = await runLoad(requests(12), options(url, { maxConcurrency: 3 }));
    expect(times).toHaveLength(12);
    expect(most).toBe(3);
  });

  it('reports failed requests apart, whatever they died of', async () => {
    let count = 0;
    const url = await listen((body, response, request) => {
      switch (count++) {
        case 1:
          response.writeHead(429).end('{"error":{"message":"queue full"}}');
          break;
        case 2:
          response.end(event({ error: { message: 'engine died' } }) + event('[DONE]'));
          break;
        case 3:
          response.end(event({ choices: [{ text: 'x', token_ids: [1] }] }));
          break;
        case 4:
          response.write(event({ choices: [] }), () => response.destroy());
          break;
        case 5:
          response.end(event('{broken') + event('[DONE]'));
          break;
        default:
          good(body, response, request);
      }
    });
    const result = await runLoad(requests(6), options(url, { maxConcurrency: 1 }));
    expect(result.requests).toHaveLength(1);
    expect(result.errors).toHaveLength(5);
    expect(result.errors[0]).toContain('429');
    expect(result.errors[1]).toBe('engine died');
    expect(result.errors[2]).toContain('before [DONE]');
  });

  it('says what is wrong when nothing works', async () => {
    const url = await listen((_, response) => response.writeHead(401).end('no key'));
    await expect(runLoad(requests(1), options(url))).rejects.toThrow(/401: no key/);
    await expect(runLoad(requests(1), options('http://127.0.0.1:1'))).rejects.toThrow(/nothing answers at/);
  });

  it('sends the key', async () => {
    const url = await listen((body, response, request) => {
      if (request.headers.authorization === 'Bearer secret') good(body, response, request);
      else response.writeHead(401).end();
    });
    const result = await runLoad(requests(1), options(url, { apiKey: 'secret' }));
    expect(result.requests).toHaveLength(1);
  });
});
