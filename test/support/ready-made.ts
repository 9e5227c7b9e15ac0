// Ready-made quantized checkpoints for tests: a reference model written in a published layout and once more in the floats
// that its codes mean, and the logits of both, loaded as anybody's are.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { writeSafetensors, type TensorToWrite } from '../../src/checkpoint/safetensors.ts';
import { compile } from '../../src/compiler/compile.ts';
import { publishedQuantization } from '../../src/compiler/quantization-rules.ts';
import { kernelsFor } from '../../src/device/create-device.ts';
import { ReferenceDevice } from '../../src/device/reference/reference-device.ts';
import type { Device } from '../../src/device/device.ts';
import { toBfloat16Bits, toFloat16Bits, type FloatDType } from '../../src/tensor/dtype.ts';
import type { ActivationPrecision } from '../../src/tensor/precision.ts';
import { compileRequest } from './compile.ts';
import { randomNumbers } from './random-numbers.ts';
import { loadReference } from './reference-checkpoint.ts';
import { stepBatch } from './step-batch.ts';

/** A layer as its layout publishes it, and the float weights [rows, columns] that it stands for. */
export interface PublishedLayer {
  /** By what follows the layer's name: `.qweight`, `.weight_scale`, … */
  readonly tensors: Readonly<Record<string, TensorToWrite>>;
  readonly values: Float32Array;
}

/** Writes a layer in the layout under test, with numbers of its own: the weights' are no use in four bits. */
export type PublishLayer = (rows: number, columns: number, random: () => number) => PublishedLayer;

export interface ReadyMade {
  readonly model: 'llama3_gqa' | 'mixtral' | 'phi3' | 'deepseek_v3';
  readonly quantizationConfig: unknown;
  readonly publish: PublishLayer;
  /** What the layout leaves as floats beside embeddings, heads and routers. */
  readonly keep?: RegExp;
  /** Tensors beside the layers'. */
  readonly extra?: Readonly<Record<string, TensorToWrite>>;
  /** Files beside config.json. */
  readonly files?: Readonly<Record<string, unknown>>;
}

const LAYER = /^(.*(_proj|\.w[123]|qkv_proj|gate_up_proj))\.weight$/;

/** Folders with the checkpoint in the layout (`codes`) and in float32 (`floats`). */
export async function withReadyMade<T>(
  checkpoint: ReadyMade,
  use: (folders: { readonly codes: string; readonly floats: string }) => Promise<T>,
): Promise<T> {
  const codes = await mkdtemp(path.join(tmpdir(), 'needletail-ready-made-'));
  const floats = await mkdtemp(path.join(tmpdir(), 'needletail-ready-made-'));
  try {
    await writeBoth(checkpoint, codes, floats);
    return await use({ codes, floats });
  } finally {
    await Promise.all([codes, floats].map((folder) => rm(folder, { recursive: true })));
  }
}

async function writeBoth(checkpoint: ReadyMade, codes: string, floats: string): Promise<void> {
  const { model, quantizationConfig, publish, keep, extra, files } = checkpoint;
  const { config, catalog, readTensor } = loadReference(model);
  const random = randomNumbers(7);
  const inCodes = new Map<string, TensorToWrite>(Object.entries(extra ?? {}));
  const inFloats = new Map<string, TensorToWrite>();
  for (const [name, { shape }] of catalog) {
    const layer = LAYER.exec(name)?.[1];
    if (layer === undefined || keep?.test(name)) {
      inCodes.set(name, f32(shape, readTensor(name)));
      inFloats.set(name, f32(shape, readTensor(name)));
      continue;
    }
    const published = publish(shape[0], shape[1], random);
    for (const [suffix, tensor] of Object.entries(published.tensors)) inCodes.set(layer + suffix, tensor);
    inFloats.set(name, f32(shape, published.values));
  }
  await writeSafetensors(path.join(codes, 'model.safetensors'), inCodes);
  await writeSafetensors(path.join(floats, 'model.safetensors'), inFloats);
  const json = { ...config, quantization_config: quantizationConfig };
  await writeFile(path.join(codes, 'config.json'), JSON.stringify(json));
  await writeFile(path.join(floats, 'config.json'), JSON.stringify(config));
  for (const [name, content] of Object.entries(files ?? {})) {
    await writeFile(path.join(codes, name), JSON.stringify(content));
  }
}

/** How logits are made. */
export interface Computation {
  readonly device?: Device;
  readonly precision?: ActivationPrecision;
  /** Of activations, the cache, and weights that are no codes. */
  readonly dtype?: FloatDType;
}

/** Logits of a prompt's every token, of which the last comes in a step of its own. */
async function logitsOf(
  folder: string,
  model: ReadyMade['model'],
  { device = new ReferenceDevice(), precision = 'float32', dtype = 'float32' }: Computation = {},
): Promise<Float32Array> {
  const { config, tensors, source } = await openCheckpoint(folder);
  try {
    const plan = compile(
      compileRequest(config, {
        tensors,
        target: device.target,
        recipe: {
          weightDType: dtype,
          quantization: publishedQuantization(tensors),
          kvDType: dtype,
          activationPrecision: precision,
        },
        limits: { maxNumBatchedTokens: 64, maxNumSeqs: 2, maxNumLogitRows: 64 },
        blockSize: 16,
        maxModelLen: 64,
        kernels: kernelsFor(device.target),
      }),
    );
    const executable = await device.load(plan, source, { numBlocks: plan.kvCacheGroups.map(() => 4) });
    const [, , tokenIds] = loadReference(model).prompts;
    const logits: number[] = [];
    let numCached = 0;
    for (const step of [tokenIds.slice(0, -1), tokenIds.slice(-1)]) {
      const chunk = { tokenIds: step, numCached, blocks: [2, 0], logitRows: [...step.keys()] };
      const batch = stepBatch([chunk], plan.blockSize, plan.kvCacheGroups.length);
      logits.push(...(await executable.run(batch)).logits!);
      numCached += step.length;
    }
    await executable.dispose();
    return Float32Array.from(logits);
  } finally {
    source.close();
  }
}

/**
 * The largest difference between the logits of codes and those of the floats that they mean, in the largest logit. Under
 * `float32` activations only the order of sums differs; under `auto` they are quantized where the layout, or the device that
 * computes with codes, says so.
 */
export function errorOf(checkpoint: ReadyMade, computation: Computation = {}): Promise<number> {
  return withReadyMade(checkpoint, async ({ codes, floats }) => {
    const actual = await logitsOf(codes, checkpoint.model, computation);
    const expected = await logitsOf(floats, checkpoint.model);
    const largest = expected.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
    expect(largest).toBeGreaterThan(0.1);
    return actual.reduce((max, value, i) => Math.max(max, Math.abs(value - expected[i])), 0) / largest;
  });
}

/** What loading says of a checkpoint that it refuses. */
export function loading(checkpoint: ReadyMade): Promise<void> {
  return withReadyMade(checkpoint, async ({ codes }) => {
    await logitsOf(codes, checkpoint.model);
  });
}

export function randomInts(count: number, below: number, random: () => number): number[] {
  return Array.from({ length: count }, () => Math.floor(random() * below));
}

export function f32(shape: readonly number[], values: Float32Array | readonly number[]): TensorToWrite {
  return { dtype: 'F32', shape, bytes: new Uint8Array(Float32Array.from(values).buffer) };
}

export function f16(shape: readonly number[], values: readonly number[]): TensorToWrite {
  return { dtype: 'F16', shape, bytes: new Uint8Array(Uint16Array.from(values, toFloat16Bits).buffer) };
}

export function bf16(shape: readonly number[], values: readonly number[]): TensorToWrite {
  return { dtype: 'BF16', shape, bytes: new Uint8Array(Uint16Array.from(values, toBfloat16Bits).buffer) };
}

export function i32(shape: readonly number[], values: readonly number[]): TensorToWrite {
  return { dtype: 'I32', shape, bytes: new Uint8Array(Int32Array.from(values).buffer) };
}

/** Powers of two (exact in every float type), about right for a layer's weights. */
export function randomScales(count: number, amplitude: number, random: () => number): number[] {
  const middle = Math.round(Math.log2(0.1 / amplitude));
  return Array.from({ length: count }, () => 2 ** (middle + Math.floor(random() * 3) - 1));
}

/** A matrix by its elements. */
export function matrix(
  rows: number,
  columns: number,
  element: (row: number, column: number) => number,
): number[] {
  return Array.from({ length: rows * columns }, (_, i) => element(Math.floor(i / columns), i % columns));
}
