// A checkpoint folder as Hugging Face lays it out: config, generation config and the tensors of one or more files.
import { createHash } from 'node:crypto';
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import type { TensorCatalog, TensorSource } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject } from '../util/json-file.ts';
import { type GenerationConfig, readGenerationConfig } from './generation-config.ts';
import { readCheckpointJson, readConfig } from './hf-config.ts';
import { adaptQuantized } from './quantized/adapt-quantized.ts';
import { readSafetensorsHeader, type SafetensorsHeader } from './safetensors-header.ts';
import { floatDTypeOf, SafetensorsSource, type TensorPlace } from './safetensors.ts';

export interface Checkpoint {
  readonly directory: string;
  /** Of a quantized checkpoint that is read as codes and scales, without its `quantization_config`. */
  readonly config: JsonObject;
  readonly generationConfig: GenerationConfig;
  /** Floats, codes and their scales; what is neither (masks, counters) fails when it is read. */
  readonly tensors: TensorCatalog;
  /** SHA-256, in hex: equal for equal checkpoints. */
  readonly hash: string;
  readonly source: TensorSource;
}

const SINGLE_FILE = 'model.safetensors';
const INDEX_FILE = 'model.safetensors.index.json';
const MAX_INDEX_BYTES = 256 * 2 ** 20;

/**
 * Reads config and headers; tensors are read when `source` is asked for them.
 * @throws NeedletailError `bad_checkpoint` naming the file (and the tensor) that is missing, damaged or of a format
 * that is not read, and what to do.
 */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  await checkDirectory(directory);
  const config = await readConfig(directory);
  const generationConfig = await readGenerationConfig(directory, config);
  const headers: SafetensorsHeader[] = [];
  const places = await readPlaces(directory, headers);
  const source = new SafetensorsSource(places);
  const adapted = adaptQuantized(config, places, source);
  return {
    directory,
    generationConfig,
    hash: await hashCheckpoint(directory, headers),
    ...(adapted ?? { config, tensors: catalogOf(places), source }),
  };
}

async function checkDirectory(directory: string): Promise<void> {
  const stats = await stat(directory).catch(() => null);
  if (stats?.isDirectory()) return;
  const problem = stats ? 'is a file; name the folder that holds it' : 'does not exist';
  throw new NeedletailError('model_not_found', `${directory}: ${problem}`, { param: 'model' });
}

/** Where every tensor lies; `headers` receives the header of each file. */
async function readPlaces(
  directory: string,
  headers: SafetensorsHeader[],
): Promise<Map<string, TensorPlace>> {
  const names = new Set(await readdir(directory));
  const problem = whyNoWeights(directory, names);
  if (problem !== null) throw problem;
  if (names.has(SINGLE_FILE)) return readSingle(path.join(directory, SINGLE_FILE), headers);
  return readSharded(directory, names, headers);
}

async function readSingle(file: string, headers: SafetensorsHeader[]): Promise<Map<string, TensorPlace>> {
  const header = await readSafetensorsHeader(file);
  headers.push(header);
  return new Map([...header.tensors].map(([name, tensor]) => [name, { file, tensor }]));
}

async function readSharded(
  directory: string,
  names: ReadonlySet<string>,
  headers: SafetensorsHeader[],
): Promise<Map<string, TensorPlace>> {
  const weightMap = await readWeightMap(directory);
  const shards = new Map<string, SafetensorsHeader>();
  for (const shard of new Set(weightMap.values())) {
    checkShardName(directory, shard, names);
    shards.set(shard, await readSafetensorsHeader(path.join(directory, shard)));
  }
  headers.push(...shards.values());
  return new Map([...weightMap].map(([name, shard]) => [name, placeIn(shards.get(shard)!, name)]));
}

function placeIn(shard: SafetensorsHeader, name: string): TensorPlace {
  const tensor = shard.tensors.get(name);
  if (tensor) return { file: shard.path, tensor };
  throw badIndex(
    path.dirname(shard.path),
    `says that ${path.basename(shard.path)} holds "${name}", which it does not`,
  );
}

/** Tensor name → file name. */
async function readWeightMap(directory: string): Promise<Map<string, string>> {
  const index = await readCheckpointJson(directory, INDEX_FILE, MAX_INDEX_BYTES);
  const weightMap = index?.['weight_map'];
  if (!isJsonObject(weightMap)) throw badIndex(directory, 'has no "weight_map"');
  const entries = Object.entries(weightMap);
  for (const [name, shard] of entries) {
    if (typeof shard !== 'string') throw badIndex(directory, `names no file for "${name}"`);
  }
  return new Map(entries as [string, string][]);
}

function checkShardName(directory: string, shard: string, names: ReadonlySet<string>): void {
  if (shard !== path.basename(shard) || shard === '..' || shard === '.' || shard.includes('\\')) {
    throw badIndex(directory, `points outside the folder, to "${shard}"`);
  }
  if (names.has(shard)) return;
  throw new NeedletailError(
    'bad_checkpoint',
    `${directory}: the file "${shard}" is missing, which ${INDEX_FILE} names; fetch it (the download may be incomplete)`,
  );
}

function badIndex(directory: string, problem: string): NeedletailError {
  return new NeedletailError('bad_checkpoint', `${INDEX_FILE} (in ${directory}) ${problem}; fetch it again`);
}

/** Why a folder with these files has no weights to read, and what to do; null if it has. */
export function whyNoWeights(directory: string, names: ReadonlySet<string>): NeedletailError | null {
  if (names.has(SINGLE_FILE) || names.has(INDEX_FILE)) return null;
  const pickled = [...names].find(isPickle);
  const problem = pickled
    ? `the weights are in ${pickled}, a pickle, which could run code and is not read; ${CONVERSION}`
    : `there is neither ${SINGLE_FILE} nor ${INDEX_FILE}; name a folder with a checkpoint in safetensors format, ` +
      'or add --load-format dummy for random weights';
  return new NeedletailError('bad_checkpoint', `${directory}: ${problem}`);
}

export const CONVERSION =
  'convert it with transformers: AutoModelForCausalLM.from_pretrained(…).save_pretrained(…, safe_serialization=True)';

/** Weights in PyTorch's own format. */
export function isPickle(name: string): boolean {
  return /^(pytorch_model.*\.bin(\.index\.json)?|consolidated.*\.pth|.*\.pt)$/.test(name);
}

function catalogOf(places: ReadonlyMap<string, TensorPlace>): TensorCatalog {
  const catalog = new Map<string, NonNullable<ReturnType<TensorCatalog['get']>>>();
  for (const [name, { tensor }] of places) {
    const dtype = floatDTypeOf(tensor);
    if (dtype !== null) catalog.set(name, { dtype, shape: tensor.shape });
  }
  return catalog;
}

const NUM_SAMPLES = 16;
const SAMPLE_BYTES = 4096;

/**
 * Of config.json, every header and some samples of every file: two fine-tunes of one model have equal headers, and
 * reading all weights would take minutes.
 */
async function hashCheckpoint(directory: string, headers: readonly SafetensorsHeader[]): Promise<string> {
  const hash = createHash('sha256');
  hash.update(await readFile(path.join(directory, 'config.json')));
  for (const header of headers) {
    hash.update(`\0${path.basename(header.path)}\0${header.fileBytes}\0`).update(header.json);
    const file = await open(header.path, 'r');
    try {
      for (let i = 0; i < NUM_SAMPLES; i++) hash.update(await sample(file, header, i));
    } finally {
      await file.close();
    }
  }
  return hash.digest('hex');
}

async function sample(file: FileHandle, header: SafetensorsHeader, index: number): Promise<Uint8Array> {
  const dataStart = 8 + header.json.length;
  const room = Math.max(0, header.fileBytes - dataStart - SAMPLE_BYTES);
  const position = dataStart + Math.floor((room * index) / (NUM_SAMPLES - 1));
  const { buffer, bytesRead } = await file.read(Buffer.alloc(SAMPLE_BYTES), 0, SAMPLE_BYTES, position);
  return buffer.subarray(0, bytesRead);
}
