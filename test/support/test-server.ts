// A server over a fake engine and the shipped model's tokenizer, on a free port.
import { fileURLToPath } from 'node:url';
import OpenAI from 'openai';
import { LLM } from '../../src/llm/llm.ts';
import type { LLMParts } from '../../src/llm/parts.ts';
import { NEUTRAL_DEFAULTS } from '../../src/llm/resolve.ts';
import type { ServerOptions } from '../../src/server/options.ts';
import { type RunningServer, startServer } from '../../src/server/server.ts';
import { Tokenizer } from '../../src/tokenizer/tokenizer.ts';
import { FakeEngine, type FakeEngineOptions } from './fake-engine.ts';

export const MODEL_FOLDER = fileURLToPath(new URL('../../models/llama-tales-8m', import.meta.url));
export const EOS = 1;

export interface TestServer {
  readonly url: string;
  readonly engine: FakeEngine;
  readonly llm: LLM;
  readonly tokenizer: Tokenizer;
  readonly openai: OpenAI;
  readonly server: RunningServer;
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
}

export interface TestServerOptions {
  readonly engine?: FakeEngineOptions;
  readonly llm?: Partial<LLMParts>;
  readonly server?: Partial<ServerOptions>;
}

export async function startTestServer(options: TestServerOptions = {}): Promise<TestServer> {
  const engine = new FakeEngine(options.engine);
  const tokenizer = await Tokenizer.load(MODEL_FOLDER);
  const llm = createLLM(engine, tokenizer, options.llm);
  const server = await startServer({
    llm,
    servedModelNames: ['tales', 'org/tales'],
    port: 0,
    logLevel: 'silent',
    drainTimeoutMs: 5000,
    ...options.server,
  });
  const apiKey = options.server?.apiKeys?.[0] ?? 'none';
  return {
    url: server.url,
    engine,
    llm,
    tokenizer,
    openai: new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0 }),
    server,
    post: (path, body, headers = {}) => post(`${server.url}${path}`, body, headers),
  };
}

export function createLLM(
  engine: FakeEngine,
  tokenizer: Tokenizer | null,
  parts: Partial<LLMParts> = {},
): LLM {
  const defaults = { ...NEUTRAL_DEFAULTS, eosTokenIds: [EOS] };
  return new LLM({
    engine,
    tokenizer,
    chatTemplate: null,
    defaults,
    hasPriorities: false,
    seed: 0,
    ...parts,
  });
}

function post(url: string, body: unknown, headers: Record<string, string>): Promise<Response> {
  return fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  });
}
