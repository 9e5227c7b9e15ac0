import { Command } from 'commander';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { TINY_LLAMA } from '../../test/support/compile.ts';
import { writeReference } from '../../test/support/reference-checkpoint.ts';
import { readPlanDirectory } from '../compiler/plan-directory.ts';
import type { HFConfig } from '../models/model-definition.ts';
import { registerBuild } from './build.ts';
import { registerInspect } from './inspect.ts';

let folder: string;
let output: string[];
let errors: string[];

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'needletail-inspect-'));
  output = [];
  errors = [];
  vi.spyOn(console, 'log').mockImplementation((text: string) => void output.push(text));
  vi.spyOn(console, 'error').mockImplementation((text: string) => void errors.push(text));
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  process.exitCode = undefined;
  rmSync(folder, { recursive: true });
});

/** Runs a command on the reference device, which needs nothing built; returns what it prints. */
async function run(...args: string[]): Promise<string> {
  const program = new Command('needletail').exitOverride().configureOutput({ writeErr: () => undefined });
  registerInspect(program);
  registerBuild(program);
  for (const command of program.commands)
    command.exitOverride().configureOutput({ writeErr: () => undefined });
  output = [];
  await program.parseAsync([...args, '--device', 'reference'], { from: 'user' });
  return output.join('\n');
}

const at = (...parts: string[]) => path.join(folder, ...parts);

function writeConfig(changes: HFConfig = {}): string {
  writeFileSync(at('config.json'), JSON.stringify({ ...TINY_LLAMA, ...changes }));
  return at('config.json');
}

describe('inspect', () => {
  test('a preset: parameters, every line of memory, and which sequences fit', async () => {
    const text = await run('inspect', 'llama-2-70b', '--memory', '320GB', '--memory-utilization', '0.9');
    expect(text).toContain('llama-2-70b: llama, 80 layers, 68,976,648,192 parameters');
    expect(text).toContain('for reference interpreter in float16, context 4,096');
    expect(text).toMatch(/weights +137,955,934,208 +128\.48 GiB/);
    expect(text).toMatch(/KV cache +[\d,]+/);
    expect(text).toMatch(/available +320,000,000,000/);
    expect(text).toContain('80 layers, 327,680 bytes a token');
    expect(text).toMatch(/64 of 1,024 tokens/);
    expect(process.exitCode).toBeUndefined();
  });

  test.each([
    ['fp8', 'fp8'],
    ['int8', 'int8'],
    ['smoothquant', 'fp8'],
  ])(
    'weights of %s and a KV cache of %s take half of what 16 bits do',
    async (quantization, kvCacheDType) => {
      const eight = ['--quantization', quantization, '--kv-cache-dtype', kvCacheDType];
      const [half, whole] = [
        await run('inspect', 'llama-2-70b', '--memory', '320GB', ...eight),
        await run('inspect', 'llama-2-70b', '--memory', '320GB'),
      ].map((text) =>
        [/weights +([\d,]+)/, /([\d,]+) bytes a token/].map((line) =>
          Number(line.exec(text)![1].replaceAll(',', '')),
        ),
      );
      half.forEach((bytes, i) => {
        expect(bytes / whole[i]).toBeGreaterThanOrEqual(0.5);
        // Scales, and the head and the embedding, which keep 16 bits.
        expect(bytes / whole[i]).toBeLessThan(0.51);
      });
    },
  );

  test('a config.json alone, or its folder', async () => {
    const config = writeConfig();
    expect(await run('inspect', config)).toContain('llama, 2 layers, 18,592 parameters');
    expect(await run('inspect', folder)).toContain('llama, 2 layers, 18,592 parameters');
  });

  test('a checkpoint: the type of its tensors is the plan’s', async () => {
    await writeReference('mistral', folder);
    expect(await run('inspect', folder)).toContain('for reference interpreter in bfloat16, context 256');
    expect(await run('inspect', folder, '--dtype', 'float16')).toContain('in float16');
    expect(await run('inspect', folder)).toContain('window 16');
  });

  test('the other sections are shown when asked for, the graph after any pass', async () => {
    const config = writeConfig();
    const text = await run('inspect', config, '--show', 'graph,plan,kernels');
    expect(text).toContain('graph llama\ninputs:');
    expect(text).toContain('plan of llama: 2 layers');
    expect(text).toMatch(/9 × linear|5 × linear/);
    expect(text).not.toContain('sequences at a time');
    expect(text).not.toContain('addRmsNorm(%');
    expect(await run('inspect', config, '--show', 'graph', '--pass', 'fuse')).toContain('addRmsNorm(%');
  });

  test('a config of weights that are codes, with random ones in their place', async () => {
    const config = writeConfig({ quantization_config: { quant_method: 'modelopt', quant_algo: 'FP8' } });
    const text = await run('inspect', config, '--load-format', 'dummy', '--show', 'memory,kernels');
    expect(text).toContain('fp8 weights');
    expect(text).toMatch(/quantizedLinear/);
    writeConfig({ quantization_config: { quant_method: 'modelopt', quant_algo: 'NVFP4' } });
    await expect(run('inspect', config, '--load-format', 'dummy')).rejects.toThrow(/quant_algo is "NVFP4"/);
  });

  test('as JSON, with the ledger in bytes', async () => {
    const report = JSON.parse(
      await run('inspect', 'llama-2-7b', '--json', '--memory', '64GB', '--show', 'memory,kernels'),
    ) as {
      model: { numParameters: number };
      memory: { weightBytes: number; kvCacheBytes: number; totalBytes: number; fixedBytes: number };
      kernels: { op: string; numLaunches: number }[];
    };
    expect(report.model.numParameters).toBe(6_738_415_616);
    expect(report.memory.totalBytes).toBe(report.memory.fixedBytes + report.memory.kvCacheBytes);
    expect(report.kernels.find(({ op }) => op === 'attention')?.numLaunches).toBe(32);
  });

  test('what does not fit is said, with the flags to change, and fails', async () => {
    await run('inspect', 'llama-2-7b', '--memory', '24GiB', '--max-model-len', '4096');
    expect(errors.join()).toContain('--memory-utilization 0.61');
    expect(process.exitCode).toBe(1);
  });

  test('a context that nobody asked for is shortened to what fits', async () => {
    const text = await run('inspect', 'llama-3.1-8b', '--memory', '40GiB');
    expect(text).toMatch(/context [\d,]+ \(the model's 131,072 do not fit\)/);
    expect(errors).toEqual([]);
  });

  test('a model that is nowhere, a hub id that was never downloaded, a file that is no config', async () => {
    vi.stubEnv('HF_HOME', at('cache'));
    await expect(run('inspect', 'llama-9')).rejects.toThrow(/no "llama-9" here; .* a preset: llama-2-7b, /);
    await expect(run('inspect', 'org/name')).rejects.toThrow(
      /org\/name is not on this machine; inspect downloads nothing/,
    );
    writeFileSync(at('notes.txt'), 'hello');
    await expect(run('inspect', at('notes.txt'))).rejects.toThrow(/notes\.txt is no config\.json/);
  });

  test('an unknown section or pass names the known ones', async () => {
    await expect(run('inspect', 'gpt2', '--show', 'weather')).rejects.toThrow(
      /none of graph, plan, kernels, memory/,
    );
    await expect(run('inspect', 'gpt2', '--pass', 'fuse')).rejects.toThrow('seen with --show graph');
    await expect(run('inspect', 'gpt2', '--pass', 'magic')).rejects.toThrow(
      /definition, bind-tensors, .*fuse/,
    );
  });
});

describe('build', () => {
  test('writes a plan directory that inspect reads', async () => {
    await writeReference('gpt2', at('checkpoint'));
    const text = await run('build', at('checkpoint'), '--output', at('plan'), '--max-model-len', '128');
    expect(text).toContain(`needletail serve ${at('plan')}`);
    expect(readdirSync(at('plan')).sort()).toEqual(['config.json', 'plan.json', 'weights.bin']);
    const { plan, weights } = await readPlanDirectory(at('plan'), { recipe: 'bfloat16' });
    weights.close();
    expect(plan.header.checkpointHash).toMatch(/^[0-9a-f]{64}$/);
    expect(await run('inspect', at('plan'))).toContain('gpt2, 2 layers');
    expect(await run('inspect', at('plan'))).toContain('context 128');
    await expect(run('inspect', at('plan'), '--max-model-len', '256')).rejects.toThrow(/built for 128/);
    await expect(run('inspect', at('plan'), '--show', 'graph')).rejects.toThrow(/holds no graph/);
  });

  test('random weights for a config, where they are asked for', async () => {
    const config = writeConfig();
    await expect(run('build', config, '--output', at('plan'))).rejects.toThrow(
      /has no weights here; .*--load-format dummy/,
    );
    await run('build', config, '--output', at('plan'), '--load-format', 'dummy');
    expect(readFileSync(at('plan', 'weights.bin')).some((byte) => byte !== 0)).toBe(true);
  });

  test('a plan directory is not built again', async () => {
    const config = writeConfig();
    await run('build', config, '--output', at('plan'), '--load-format', 'dummy');
    await expect(run('build', at('plan'), '--output', at('again'))).rejects.toThrow(
      /is a plan directory already/,
    );
  });

  test('an unfinished checkpoint is refused before anything is written', async () => {
    await writeReference('llama2', at('checkpoint'));
    const config = {
      ...(JSON.parse(readFileSync(at('checkpoint', 'config.json'), 'utf8')) as object),
      num_hidden_layers: 3,
    };
    writeFileSync(at('checkpoint', 'config.json'), JSON.stringify(config));
    await expect(run('build', at('checkpoint'), '--output', at('plan'))).rejects.toThrow(
      /9 tensors missing:\n {2}model\.layers\.2/,
    );
    expect(readdirSync(folder)).toEqual(['checkpoint']);
  });
});
