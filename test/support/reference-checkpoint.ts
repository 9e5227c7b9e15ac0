// The tiny checkpoints of test/fixtures/reference: weights by formula, and what transformers computes from them.
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeSafetensors } from '../../src/checkpoint/safetensors.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { decodeFloats, toBfloat16Bits } from '../../src/tensor/dtype.ts';
import type { TensorCatalog, TensorSource, TensorView } from '../../src/tensor/tensor-source.ts';
import { NeedletailError } from '../../src/util/errors.ts';

export const REFERENCE_NAMES = [
  'llama2',
  'llama3_gqa',
  'llama_head128',
  'mistral',
  'gpt2',
  'qwen2',
  'qwen3',
  'gemma2',
  'gemma3',
  'phi3',
  'glm',
  'granite',
  'olmo2',
  'cohere',
  'stablelm',
  'starcoder2',
  'gpt_bigcode',
  'gptj',
  'gpt_neox',
  'bloom',
  'mpt',
  'falcon_7b_style',
  'falcon_40b_style',
  'opt',
  'mixtral',
  'qwen3_moe',
  'gpt_oss',
  'deepseek_v2',
  'deepseek_v3',
] as const;

const FIXTURES = new URL('../fixtures/reference/', import.meta.url).pathname;

interface TensorFormula {
  readonly shape: readonly number[];
  readonly scale: number;
  readonly offset: number;
}

export interface ReferenceCheckpoint {
  readonly name: string;
  readonly config: HFConfig;
  /** Four prompts of 1, 7, 24 and 48 tokens. */
  readonly prompts: readonly (readonly number[])[];
  /** The 24 tokens that follow each prompt. */
  readonly greedy: readonly (readonly number[])[];
  /** Largest minus second largest logit at each greedy step. */
  readonly margin: readonly (readonly number[])[];
  /** For each prompt, logits `[prompt length, vocabSize]`. */
  readonly logits: readonly Float32Array[];
  /** The bfloat16 tensors. */
  readonly source: TensorSource;
  readonly catalog: TensorCatalog;
  /** A tensor as float32. */
  readonly readTensor: (name: string) => Float32Array;
}

/** `directory`: a folder of the fixtures' kind, by default the fixture of that name. */
export function loadReference(name: string, directory = join(FIXTURES, name)): ReferenceCheckpoint {
  const readJson = (file: string): unknown => JSON.parse(readFileSync(join(directory, file), 'utf8'));
  const formulas = readJson('tensors.json') as Record<string, TensorFormula>;
  const views = new Map(
    Object.entries(formulas).map(([tensor, formula]) => [tensor, materialize(tensor, formula)]),
  );
  const read = (tensor: string): TensorView => {
    const view = views.get(tensor);
    if (!view) throw new NeedletailError('bad_checkpoint', `no tensor ${tensor}`);
    return view;
  };
  return {
    name,
    config: readJson('config.json') as HFConfig,
    ...(readJson('reference.json') as Pick<ReferenceCheckpoint, 'prompts' | 'greedy' | 'margin'>),
    logits: readLogits(join(directory, 'reference.safetensors')),
    source: { read, close: () => undefined },
    catalog: views,
    readTensor: (tensor) => decodeFloats('bfloat16', read(tensor).bytes),
  };
}

/** Writes the checkpoint folder: config.json and model.safetensors. */
export async function writeReference(name: string, directory: string): Promise<void> {
  const { catalog, source } = loadReference(name);
  mkdirSync(directory, { recursive: true });
  copyFileSync(join(FIXTURES, name, 'config.json'), join(directory, 'config.json'));
  const tensors = new Map(
    [...catalog.keys()].map((tensor) => [tensor, { ...source.read(tensor), dtype: 'BF16' }]),
  );
  await writeSafetensors(join(directory, 'model.safetensors'), tensors);
}

/** See README.md beside the fixtures: a hash of name and index, spread evenly around the offset. */
function materialize(name: string, { shape, scale, offset }: TensorFormula): TensorView {
  const bits = new Uint16Array(shape.reduce((a, b) => a * b, 1));
  const seed = fnv1a32(name);
  for (let i = 0; i < bits.length; i++) {
    const x = murmurFinalizer(seed + Math.imul(i, 0x9e3779b1));
    bits[i] = toBfloat16Bits(offset + scale * Math.sqrt(3) * ((2 * x) / 2 ** 32 - 1));
  }
  return { dtype: 'bfloat16', shape, bytes: new Uint8Array(bits.buffer) };
}

function fnv1a32(text: string): number {
  return new TextEncoder()
    .encode(text)
    .reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193), 0x811c9dc5);
}

function murmurFinalizer(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

function readLogits(path: string): Float32Array[] {
  const file = readFileSync(path);
  const dataStart = 8 + Number(file.readBigUInt64LE());
  const header = JSON.parse(file.toString('utf8', 8, dataStart)) as Record<
    string,
    { data_offsets: [number, number] }
  >;
  return [0, 1, 2, 3].map((i) => {
    const [start, end] = header[`logits.${i}`].data_offsets;
    return decodeFloats('float32', file.subarray(dataStart + start, dataStart + end));
  });
}
