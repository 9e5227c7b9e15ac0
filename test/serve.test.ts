// `needletail serve` from the outside: what it prints works, many stream at once, and it ends as it should.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { runLoad } from '../src/bench/load.ts';
import { withRandomPrompts } from '../src/bench/workload.ts';

const ROOT = path.resolve(import.meta.dirname, '..');

interface Served {
  readonly process: ChildProcess;
  readonly url: string;
  /** Of the curl command that the greeting offers. */
  readonly endpoint: string;
  readonly body: string;
  /** What it runs in, on which device. */
  readonly precision: string;
  /** Exit status. */
  readonly ended: Promise<number | null>;
}

const running = new Set<ChildProcess>();
afterEach(async () => {
  for (const child of running) {
    child.kill('SIGKILL');
    await once(child, 'close');
  }
});

function start(args: readonly string[], env: NodeJS.ProcessEnv = {}): ChildProcess {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', 'serve', ...args], {
    cwd: ROOT,
    env: { ...process.env, ...env },
  });
  running.add(child);
  child.on('close', () => running.delete(child));
  return child;
}

async function serve(args: readonly string[], env?: NodeJS.ProcessEnv): Promise<Served> {
  const child = start(['--port', '0', '--log-level', 'warn', ...args], env);
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  const text = await greeting(child);
  return {
    process: child,
    url: /http:\/\/127\.0\.0\.1:\d+/.exec(text)![0],
    endpoint: /curl (\S+)/.exec(text)![1],
    body: /-d '(.*)'/.exec(text)![1],
    precision: /, (.*), is served/.exec(text)![1],
    ended,
  };
}

/** What it prints, up to the offered command's end. */
function greeting(child: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    child.stdout!.setEncoding('utf8').on('data', (piece: string) => {
      text += piece;
      if (/-d '.*'\n/.test(text)) resolve(text);
    });
    child.on('close', () => reject(new Error(`ended after printing: ${text}`)));
  });
}

describe('needletail serve', () => {
  it('prints a command that works, and asks for its key', async () => {
    const server = await serve(['--served-model-name', 'tales', 'other'], { NEEDLETAIL_API_KEY: 'tell-me' });
    const response = await fetch(server.endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer tell-me' },
      body: server.body.replace('{', '{"max_tokens":8,'),
    });
    const completion = (await response.json()) as {
      model: string;
      choices: { message: { content: string } }[];
    };
    expect(completion.model).toBe('tales');
    expect(server.precision).toMatch(/^bfloat16 on \w+ \(/);
    expect(completion.choices[0].message.content.length).toBeGreaterThan(5);
    expect((await fetch(`${server.url}/v1/models`)).status).toBe(401);
    expect((await fetch(`${server.url}/health`)).status).toBe(200);
    server.process.kill('SIGTERM');
    expect(await server.ended).toBe(0);
  });

  it('streams to thirty-two at once, every token counted', async () => {
    const server = await serve(['--max-num-seqs', '32', '--skip-tokenizer-init']);
    const lengths = Array.from({ length: 48 }, (_, i) => ({ inputTokens: 4 + i, outputTokens: 8 + (i % 5) }));
    const load = await runLoad(withRandomPrompts(lengths, 6144, 1), {
      ...{ baseUrl: server.url, endpoint: '/v1/completions', model: null, apiKey: null },
      ...{ requestRate: Infinity, maxConcurrency: 32, seed: 1 },
    });
    expect(load.errors).toEqual([]);
    expect(load.requests.map(({ inputTokens, outputTokens }) => ({ inputTokens, outputTokens }))).toEqual(
      lengths,
    );
    for (const { tokenMs, outputTokens } of load.requests) expect(tokenMs).toHaveLength(outputTokens);
  });

  it('lets a stream end before it does, after SIGTERM', async () => {
    const server = await serve([]);
    const response = await fetch(`${server.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ prompt: 'Once', max_tokens: 200, ignore_eos: true, stream: true }),
    });
    const chunks = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = (await chunks.read()).value ?? '';
    server.process.kill('SIGTERM');
    for (let piece = await chunks.read(); !piece.done; piece = await chunks.read()) text += piece.value;
    expect(text).toContain('"finish_reason":"length"');
    expect(text.trim().endsWith('data: [DONE]')).toBe(true);
    expect(await server.ended).toBe(0);
  });

  it('ends with a message when the port is taken', async () => {
    const server = await serve([]);
    const second = start(['--port', new URL(server.url).port]);
    let stderr = '';
    second.stderr!.setEncoding('utf8').on('data', (piece: string) => (stderr += piece));
    const [status] = (await once(second, 'close')) as [number];
    expect(stderr).toMatch(/port \d+ is in use; choose another with --port/);
    expect(status).toBe(1);
  });
});
