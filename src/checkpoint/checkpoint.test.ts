import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { decodeTensor } from '../tensor/codes.ts';
import { dequantizeRows } from '../tensor/quantize-rows.ts';
import type { TensorFacts } from '../tensor/tensor-source.ts';
import { grouped, scaleColumns } from '../tensor/weight-format.ts';
import { openCheckpoint } from './checkpoint.ts';
import { dummySource } from './dummy.ts';
import { readGenerationConfig } from './generation-config.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors.ts';

const SHIPPED = fileURLToPath(new URL('../../models/llama-tales-8m', import.meta.url));

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'needletail-checkpoint-'));
  await write('config.json', { model_type: 'llama', eos_token_id: 2 });
});

afterEach(() => rm(folder, { recursive: true, force: true }));

const write = (name: string, content: unknown) =>
  writeFile(path.join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));

const floats = (...values: number[]): TensorToWrite => ({
  dtype: 'F32',
  shape: [values.length],
  bytes: new Uint8Array(Float32Array.from(values).buffer),
});

const writeTensors = (name: string, tensors: Record<string, TensorToWrite>) =>
  writeSafetensors(path.join(folder, name), new Map(Object.entries(tensors)));

describe('the shipped model', () => {
  it('opens', async () => {
    const checkpoint = await openCheckpoint(SHIPPED);
    expect(checkpoint.config['model_type']).toBe('llama');
    expect(checkpoint.generationConfig).toMatchObject({ eosTokenIds: [1], temperature: 0.7, topP: 0.9 });
    expect(checkpoint.tensors.get('model.embed_tokens.weight')).toEqual({
      dtype: 'bfloat16',
      shape: [6144, 256],
    });
    const norm = checkpoint.source.read('model.norm.weight');
    expect(decodeTensor(norm).every((value) => value > 0 && value < 100)).toBe(true);
    checkpoint.source.close();
  });
});

describe('a sharded checkpoint', () => {
  const A = 'model-00001-of-00002.safetensors';
  const B = 'model-00002-of-00002.safetensors';

  it('is read as one', async () => {
    await writeTensors(A, { x: floats(1, 2) });
    await writeTensors(B, { y: floats(3) });
    await write('model.safetensors.index.json', { weight_map: { x: A, y: B } });
    const { tensors, source } = await openCheckpoint(folder);
    expect([...tensors.keys()]).toEqual(['x', 'y']);
    expect(decodeTensor(source.read('y'))).toEqual(Float32Array.of(3));
    source.close();
  });

  it.each([
    [
      'whose shard is missing',
      { x: 'model-00009-of-00009.safetensors' },
      /"model-00009-of-00009.safetensors" is missing/,
    ],
    ['whose shard does not hold the tensor', { x: A, z: A }, /says that .* holds "z", which it does not/],
    ['whose index points up', { x: '../secret.safetensors' }, /points outside the folder, to "..\/secret/],
    ['whose index points anywhere', { x: '/etc/passwd' }, /points outside the folder/],
    ['whose index points to the parent', { x: '..' }, /points outside the folder/],
    ['whose index names a number', { x: 3 }, /names no file for "x"/],
    ['whose index has no map', null, /has no "weight_map"/],
  ])('%s is refused', async (_, weightMap, message) => {
    await writeTensors(A, { x: floats(1) });
    await write('model.safetensors.index.json', weightMap === null ? {} : { weight_map: weightMap });
    await expect(openCheckpoint(folder)).rejects.toMatchObject({ code: 'bad_checkpoint' });
    await expect(openCheckpoint(folder)).rejects.toThrow(message);
  });

  it('with a damaged index is refused', async () => {
    await write('model.safetensors.index.json', '{"weight_map": {');
    await expect(openCheckpoint(folder)).rejects.toThrow(/index\.json: not valid JSON/);
  });
});

describe('a checkpoint', () => {
  it('may hold buffers of other types, which fail only when read', async () => {
    const mask = { dtype: 'BOOL', shape: [4], bytes: new Uint8Array(4) };
    await writeTensors('model.safetensors', { weight: floats(1), mask });
    const { tensors, source } = await openCheckpoint(folder);
    expect([...tensors.keys()]).toEqual(['weight']);
    expect(() => source.read('mask')).toThrow(/"mask" is BOOL/);
    source.close();
  });

  it.each([
    ['without weights', () => Promise.resolve(), /neither model\.safetensors nor/],
    [
      'with pickled weights',
      () => write('pytorch_model.bin', 'x'),
      /pytorch_model\.bin, a pickle.*safe_serialization=True/,
    ],
    ['with a broken config', () => write('config.json', '{'), /config\.json: not valid JSON/],
    ['whose config is a list', () => write('config.json', '[]'), /config\.json: holds no JSON object/],
    ['without a config', () => rm(path.join(folder, 'config.json')), /there is no config\.json/],
  ])('%s is refused', async (_, prepare, message) => {
    await prepare();
    await expect(openCheckpoint(folder)).rejects.toMatchObject({ code: 'bad_checkpoint' });
    await expect(openCheckpoint(folder)).rejects.toThrow(message);
  });

  it('that is no folder is refused', async () => {
    await expect(openCheckpoint(path.join(folder, 'none'))).rejects.toThrow(/does not exist/);
    await expect(openCheckpoint(path.join(folder, 'config.json'))).rejects.toThrow(
      /is a file; name the folder/,
    );
  });

  it('has a hash of its config, its header and its weights', async () => {
    const hashWith = async (value: number) => {
      await writeTensors('model.safetensors', { weight: floats(value) });
      const { hash, source } = await openCheckpoint(folder);
      source.close();
      return hash;
    };
    const one = await hashWith(1);
    expect(one).toMatch(/^[0-9a-f]{64}$/);
    expect(await hashWith(1)).toBe(one);
    expect(await hashWith(2)).not.toBe(one);
    await write('config.json', { model_type: 'llama', eos_token_id: 3 });
    expect(await hashWith(1)).not.toBe(one);
  });
});

describe('the generation config', () => {
  const read = async (generation: unknown, config: Record<string, unknown> = {}) => {
    if (generation !== null) await write('generation_config.json', generation);
    return readGenerationConfig(folder, config);
  };

  it('may name several end tokens', async () => {
    expect((await read({ eos_token_id: [128001, 128008, 128009] })).eosTokenIds).toEqual([
      128001, 128008, 128009,
    ]);
  });

  it('falls back to config.json, then to nothing', async () => {
    expect((await read({ eos_token_id: null }, { eos_token_id: 2 })).eosTokenIds).toEqual([2]);
    expect((await read(null, { text_config: { eos_token_id: 5 } })).eosTokenIds).toEqual([5]);
    expect((await read(null)).eosTokenIds).toEqual([]);
  });

  it('has the sampling that the authors recommend', async () => {
    const json = {
      do_sample: false,
      temperature: 0.6,
      top_p: 0.95,
      top_k: 20,
      min_p: 0.1,
      repetition_penalty: 1.05,
      max_new_tokens: 2048,
    };
    expect(await read(json)).toMatchObject({
      doSample: false,
      temperature: 0.6,
      topP: 0.95,
      topK: 20,
      minP: 0.1,
      repetitionPenalty: 1.05,
      maxNewTokens: 2048,
    });
  });

  it.each([
    ['temperature', -1],
    ['temperature', 'hot'],
    ['top_p', 0],
    ['top_p', 1.5],
    ['top_k', 1.5],
    ['min_p', 2],
    ['repetition_penalty', 0],
    ['max_new_tokens', 0],
    ['eos_token_id', -1],
    ['eos_token_id', ['</s>']],
  ])('with %s = %j is refused by name', async (name, value) => {
    await expect(read({ [name]: value })).rejects.toMatchObject({ code: 'bad_checkpoint', param: name });
  });
});

describe('dummy weights', () => {
  const catalog = new Map([
    ['layers.0.q.weight', { dtype: 'bfloat16' as const, shape: [512, 2048] }],
    ['layers.1.q.weight', { dtype: 'bfloat16' as const, shape: [512, 2048] }],
    ['layers.0.norm.weight', { dtype: 'float16' as const, shape: [64] }],
    ['layers.0.q.bias', { dtype: 'float32' as const, shape: [64] }],
  ]);
  const read = (name: string, seed = 0) => decodeTensor(dummySource(catalog, seed).read(name));

  it.each([
    [{ dtype: 'int8', groupSize: null, hasZeros: false }],
    [{ dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false }],
    [{ dtype: 'uint4', groupSize: 64, hasZeros: true }],
  ] as const)('are worth the same as codes: %o', (weights) => {
    const [rows, columns] = [128, 512];
    const scaleShape = [rows, scaleColumns(weights, columns)];
    const quantized = { weights, activations: null };
    const codes = dummySource(
      new Map<string, TensorFacts>([
        ['q.weight', { dtype: weights.dtype, shape: [rows, columns], quantized }],
        ['q.weight_scale', { dtype: 'float32', shape: scaleShape }],
        ['q.input_scale', { dtype: 'float32', shape: [1] }],
      ]),
      0,
    );
    const read = (name: string): Float32Array => decodeTensor(codes.read(name));
    const format = grouped(weights, columns);
    const values = dequantizeRows(read('q.weight'), read('q.weight_scale'), format);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
    expect(Math.abs(mean)).toBeLessThan(0.001);
    expect(deviation).toBeCloseTo(0.02, 3);
    expect(read('q.input_scale')[0]).toBeGreaterThan(0);
  });

  it('are the same for the same seed, and differ by seed and tensor', () => {
    expect(read('layers.0.q.weight')).toEqual(read('layers.0.q.weight'));
    expect(read('layers.0.q.weight')).not.toEqual(read('layers.0.q.weight', 1));
    expect(read('layers.0.q.weight')).not.toEqual(read('layers.1.q.weight'));
  });

  it('keep activations in range: matrices small, norms one, biases nothing', () => {
    const values = read('layers.0.q.weight');
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
    expect(mean).toBeCloseTo(0, 3);
    expect(Math.sqrt(variance)).toBeCloseTo(0.02, 4);
    expect(new Set(read('layers.0.norm.weight'))).toEqual(new Set([1]));
    expect(new Set(read('layers.0.q.bias'))).toEqual(new Set([0]));
  });

  it('have no equal rows', () => {
    const values = read('layers.0.q.weight');
    const rows = new Set(
      Array.from({ length: 512 }, (_, row) => values.slice(row * 2048, row * 2048 + 8).join()),
    );
    expect(rows.size).toBe(512);
  });
});
