// The command line as its users meet it: help, mistakes, and text from the shipped model.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { VERSION } from '../src/util/version.ts';
import { ATTENTION_ONLY_CONFIG } from './support/attention-only.ts';

const ROOT = path.resolve(import.meta.dirname, '..');

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `needletail …` from source to its end. */
function needletail(args: readonly string[], input = ''): Promise<Outcome> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'src/cli/main.ts', ...args], { cwd: ROOT });
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  child.stdin.end(input);
  return new Promise((resolve) => child.on('close', (status) => resolve({ status, ...output })));
}

describe('needletail', () => {
  it('lists its commands', async () => {
    const { status, stdout } = await needletail(['--help']);
    expect(status).toBe(0);
    for (const command of ['serve', 'chat', 'generate', 'inspect', 'build', 'bench']) {
      expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
    }
  });

  it('states its version', async () => {
    expect(await needletail(['--version'])).toMatchObject({ status: 0, stdout: `${VERSION}\n` });
  });

  it.each([
    ['an unknown command', ['srve'], 'Did you mean serve?'],
    ['an unknown flag', ['serve', '--max-modle-len', '8'], 'Did you mean --max-model-len?'],
    ['a number out of range', ['generate', '--max-num-seqs', '0'], 'whole number from 1'],
    ['an unknown model', ['serve', 'no-such-model'], 'hub id'],
    ['a preset without weights', ['generate', 'gpt2', '--prompt', 'x'], '--load-format dummy'],
    ['a flag given twice', ['serve', '--quantization', 'int8', '--quantization', 'int4'], 'more than once'],
    [
      'a switch and its opposite',
      ['serve', '--enable-prefix-caching', '--no-enable-prefix-caching'],
      'more than',
    ],
    ['a folder that cannot be', ['build', '--output', '/dev/null/plan'], "mkdir '/dev/null'"],
    [
      'lengths beside a trace',
      ['bench', 'throughput', '--dataset-path', 'x', '--output-len', '2'],
      'of no use',
    ],
    ['clipping without a trace', ['bench', 'throughput', '--max-input-len', '2'], 'without --dataset-path'],
    ['an unreadable config', ['serve', '--config', 'no-such.json'], 'no-such.json cannot be read'],
    ['a missing template', ['chat', '--chat-template', 'no.jinja'], 'there is no file no.jinja'],
    ['a context that is too long', ['generate', '--max-model-len', '100000', '--prompt', 'x'], '1024'],
    ['a workload that does not fit', ['bench', 'throughput', '--output-len', '2000'], 'lower --input-len'],
    [
      'a server that is not there',
      ['bench', 'serve', '--base-url', 'http://127.0.0.1:1'],
      'nothing answers at',
    ],
  ])('refuses %s and says what to do', async (_, args, message) => {
    const { status, stderr, stdout } = await needletail(args);
    expect(stderr).toContain(message);
    expect(stderr).not.toMatch(/^\s+at /m); // no stack: this is no defect
    expect(stdout).toBe('');
    expect(status).toBe(1);
  });

  it('generates the same text again at temperature 0, from a flag and from a pipe', async () => {
    const flags = ['--temperature', '0', '--max-tokens', '12'];
    const first = await needletail(['generate', ...flags, '--prompt', 'Once upon a time']);
    expect(first).toMatchObject({ status: 0, stderr: '' });
    expect(first.stdout.trim().length).toBeGreaterThan(10);
    expect((await needletail(['generate', ...flags], 'Once upon a time')).stdout).toBe(first.stdout);
  });

  it('says that a small KV cache shortens the context', async () => {
    const flags = ['--kv-cache-memory-bytes', '1M', '--dtype', 'float32', '--max-tokens', '2'];
    const { status, stderr } = await needletail(['generate', ...flags, '--prompt', 'Once']);
    expect(stderr).toMatch(/holds 128 tokens instead of the model's 1024: --kv-cache-memory-bytes/);
    expect(status).toBe(0);
  });

  it("generates with a model definition of the user's own", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
    writeFileSync(path.join(folder, 'config.json'), JSON.stringify(ATTENTION_ONLY_CONFIG));
    const own = ['--model-definition', 'test/support/attention-only.ts', '--load-format', 'dummy'];
    const text = ['--tokenizer', 'models/llama-tales-8m', '--prompt', 'Once', '--max-tokens', '8'];
    const { status, stdout, stderr } = await needletail(['generate', folder, ...own, ...text]);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout.length).toBeGreaterThan(5);
    rmSync(folder, { recursive: true });
  });

  it('chats line by line', async () => {
    const { status, stdout } = await needletail(
      ['chat', '--max-tokens', '12', '--temperature', '0'],
      'Tell me a tale.\n/reset\nTell me a tale.\n/exit\n',
    );
    expect(status).toBe(0);
    const [, first, , second] = stdout.split('> ');
    expect(first.trim().length).toBeGreaterThan(10);
    expect(second).toBe(first);
  });

  it('measures throughput and latency', async () => {
    const lengths = ['--input-len', '8', '--output-len', '4'];
    const throughput = await needletail(['bench', 'throughput', '--num-prompts', '6', ...lengths]);
    expect(throughput.stdout).toMatch(/requests +6 \(8\.0 prompt and 4\.0 output tokens each\)/);
    const latency = await needletail([
      'bench',
      'latency',
      '--batch-size',
      '2',
      '--num-iters',
      '2',
      ...lengths,
    ]);
    expect(latency.stdout).toMatch(/batch, ms .* 2$/m);
  });
});
