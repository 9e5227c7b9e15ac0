import { Command } from 'commander';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../engine/config.ts';
import { expandConfigFile, normalizeFlags } from './argv.ts';
import { addEngineFlags, engineConfig, SHIPPED_MODEL, type EngineFlags } from './flags.ts';
import { byteSize } from './parsers.ts';

/** The config that `serve …` would run, or commander's error. */
function parse(...args: string[]): EngineConfig {
  let config: EngineConfig | undefined;
  const program = new Command().exitOverride().configureOutput({ writeErr: () => undefined });
  addEngineFlags(program.command('serve'))
    .exitOverride()
    .action((model: string, flags: EngineFlags) => {
      config = engineConfig(model, flags);
    });
  program.parse(expandConfigFile(normalizeFlags(['serve', ...args])), { from: 'user' });
  return config!;
}

describe('engine flags', () => {
  it('default to the shipped model and the default config', () => {
    expect(parse()).toEqual({ ...DEFAULT_ENGINE_CONFIG, model: SHIPPED_MODEL });
  });

  it('take every setting, with - and with _', () => {
    const args = [
      ...['org/name', '--revision', 'v2', '--device', 'cpu', '--dtype=half', '--activation_dtype', 'float32'],
      ...[
        '--load_format=dummy',
        '--max_model_len',
        '512',
        '--max-num-seqs',
        '8',
        '--max_num_batched_tokens=64',
      ],
      ...['--block-size', '32', '--kv_cache_memory_bytes', '1.5GiB', '--gpu_memory_utilization', '0.25'],
      ...['--no-enable-prefix-caching', '--scheduling-policy', 'priority', '--batching-policy', 'static'],
      ...['--max-num-queued-reqs', '3', '--threads', '2', '--seed', '7'],
      ...[
        '--quantization',
        'int4',
        '--quantization-group-size',
        '64',
        '--quantization-keep',
        'lm_head',
        '*.0.*',
      ],
      ...['--kv-cache-dtype', 'fp8_e4m3'],
      ...['--model-definition', 'a.js', '--model_definition=b.js', '--batch-invariant'],
    ];
    expect(parse(...args)).toEqual({
      model: 'org/name@v2',
      modelDefinitions: ['a.js', 'b.js'],
      device: 'cpu',
      dtype: 'float16',
      quantization: 'int4',
      quantizationGroupSize: 64,
      quantizationKeep: ['lm_head', '*.0.*'],
      kvCacheDType: 'fp8',
      activationDType: 'float32',
      batchInvariant: true,
      loadFormat: 'dummy',
      maxModelLen: 512,
      maxNumSeqs: 8,
      maxNumBatchedTokens: 64,
      blockSize: 32,
      kvCacheMemoryBytes: 1.5 * 2 ** 30,
      memoryUtilization: 0.25,
      enablePrefixCaching: false,
      schedulingPolicy: 'priority',
      batchingPolicy: 'static',
      maxNumQueuedReqs: 3,
      numThreads: 2,
      seed: 7,
    } satisfies EngineConfig);
  });

  it.each([
    [['--max-num-seqs', '0'], /whole number from 1/],
    [['--max-num-seqs', '1.5'], /whole number from 1/],
    [['--max-num-seqs', 'many'], /whole number from 1/],
    [['--memory-utilization', '0'], /number above 0 to 1/],
    [['--memory-utilization', 'NaN'], /number above 0 to 1/],
    [['--kv-cache-memory-bytes', '2 apples'], /512M, 2GiB/],
    [['--dtype', 'int3'], /Allowed choices are auto, float32/],
    [['--max-modle-len', '5'], /Did you mean --max-model-len/],
    [['--max_modle_len', '5'], /Did you mean --max-model-len/],
    [['a', 'b'], /too many arguments/],
  ])('refuse %j and say what to do', (args, message) => {
    expect(() => parse(...args)).toThrow(message);
  });

  it('leave what follows -- alone', () => {
    expect(normalizeFlags(['--a_b', '--', '--c_d'])).toEqual(['--a-b', '--', '--c_d']);
    expect(normalizeFlags(['--prompt', '--- not_a flag', '-n_', '--x=y_z'])).toEqual([
      ...['--prompt', '--- not_a flag', '-n_', '--x=y_z'],
    ]);
  });
});

describe('--config', () => {
  const folder = () => mkdtempSync(path.join(tmpdir(), 'flags-'));

  it('states flags that the command line overrules', () => {
    const root = folder();
    const file = path.join(root, 'engine.json');
    writeFileSync(
      file,
      JSON.stringify({ max_model_len: 99, 'block-size': 8, 'enable-prefix-caching': false }),
    );
    const config = parse('--max-model-len', '100', '--config', file);
    expect(config).toMatchObject({ maxModelLen: 100, blockSize: 8, enablePrefixCaching: false });
    expect(parse(`--config=${file}`).maxModelLen).toBe(99);
    rmSync(root, { recursive: true });
  });

  it('states flags of commands in groups too; lists of the command line replace those of the file', () => {
    const root = folder();
    const file = path.join(root, 'eval.json');
    writeFileSync(file, JSON.stringify({ window: 512, quantization_keep: ['a', 'b'] }));
    const args = ['--config', file, 'eval', 'perplexity', 'x', '--', '--config'];
    expect(expandConfigFile(args)).toEqual([
      ...['eval', 'perplexity', 'x', '--window=512', '--quantization-keep=a', '--quantization-keep=b'],
      ...['--', '--config'],
    ]);
    writeFileSync(file, JSON.stringify({ quantization_keep: ['a', 'b'] }));
    expect(parse('--quantization-keep', 'c', '--config', file).quantizationKeep).toEqual(['c']);
    rmSync(root, { recursive: true });
  });

  it('is refused when it cannot be read', () => {
    const root = folder();
    const file = path.join(root, 'engine.json');
    writeFileSync(file, '[1]');
    expect(() => parse('--config', file)).toThrow(/must hold one object/);
    writeFileSync(file, '{"block-size": {}}');
    expect(() => parse('--config', file)).toThrow(/"block-size" must be/);
    expect(() => parse('--config', path.join(root, 'none'))).toThrow(/cannot be read/);
    expect(() => parse('--config')).toThrow(/names no file/);
    expect(() => parse('--config', file, `--config=${file}`)).toThrow(/more than once/);
    writeFileSync(file, '{"config": "more.json"}');
    expect(() => parse('--config', file)).toThrow(/cannot name another/);
    rmSync(root, { recursive: true });
  });
});

describe('byteSize', () => {
  it.each([
    ['123', 123],
    ['1k', 1024],
    ['512M', 512 * 2 ** 20],
    ['2GiB', 2 * 2 ** 30],
    ['2 GB', 2e9],
    ['0.5t', 2 ** 39],
    ['7b', 7],
  ])('%s is %i', (text, bytes) => expect(byteSize(text)).toBe(bytes));
});
