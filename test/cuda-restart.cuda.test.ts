// A GPU that fails in a step, from end to end: its requests hear of it, another process takes over, the server answers again.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG } from '../src/engine/config.ts';
import { startEngineProcess, type EngineProcess } from '../src/engine/process/engine-process.ts';
import { LLM } from '../src/llm/llm.ts';
import { NEUTRAL_DEFAULTS } from '../src/llm/resolve.ts';
import { startServer, type RunningServer } from '../src/server/server.ts';
import { describeCuda } from './support/cuda.ts';
import { writeReference } from './support/reference-checkpoint.ts';

const ENTRY = new URL('./support/faulty-engine-main.ts', import.meta.url);
// As in faulty-engine-main.ts, which runs when it is imported.
const FAULT_TOKEN = 13;
const PROMPT = [31, 32, 33];
const RESTART_MS = 60_000;

describeCuda('a GPU that fails in a step', () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'needletail-'));
  const deaths: string[] = [];
  let engine: EngineProcess;
  let server: RunningServer;
  beforeAll(async () => {
    await writeReference('llama2', directory);
    const config = {
      ...DEFAULT_ENGINE_CONFIG,
      model: directory,
      device: 'cuda',
      kvCacheMemoryBytes: 2 ** 24,
    } as const;
    engine = await startEngineProcess(config, { entry: ENTRY, onDeath: (reason) => deaths.push(reason) });
    const llm = new LLM({
      engine,
      tokenizer: null,
      chatTemplate: null,
      defaults: NEUTRAL_DEFAULTS,
      hasPriorities: false,
      seed: 0,
    });
    server = await startServer({ llm, servedModelNames: ['llama2'], port: 0, logLevel: 'silent' });
  });
  afterAll(async () => {
    await server.close();
    rmSync(directory, { recursive: true });
  });

  const post = (body: object): Promise<Response> =>
    fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ temperature: 0, ignore_eos: true, return_token_ids: true, ...body }),
    });

  it('ends its requests with the error, is replaced, and what is asked then is answered as before', async () => {
    const request = { prompt: PROMPT, max_tokens: 8 };
    const before = (await (await post(request)).json()) as { choices: unknown };
    const { pid } = engine;
    const bystander = await post({ prompt: PROMPT, max_tokens: 100, stream: true });
    const failing = await post({ prompt: [FAULT_TOKEN], max_tokens: 1 });
    expect(failing.status).toBe(503);
    expect(await failing.json()).toMatchObject({
      error: {
        code: 'device_failed',
        message: expect.stringContaining('CUDA_ERROR_ILLEGAL_ADDRESS') as string,
      },
    });
    expect(await bystander.text()).toMatch(/"code":"device_failed"|"finish_reason":"length"/);
    await expect.poll(() => deaths, { timeout: RESTART_MS }).toEqual(['exit code 1']);
    await expect
      .poll(async () => (await fetch(`${server.url}/health`)).status, { timeout: RESTART_MS })
      .toBe(200);
    expect(engine.pid).not.toBe(pid);
    const after = (await (await post(request)).json()) as { choices: unknown };
    expect(after.choices).toEqual(before.choices);
  });
});
