// Plan directories: a plan, its packed weights and the small files that serving needs, so that the checkpoint can stay
// away. plan.json, weights.bin (each weight 64-byte aligned, in the plan's order), config.json, tokenizer files, and
// quality.json where the plan was evaluated.
import { copyFile, mkdir, open, readdir, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { HFConfig } from '../models/model-definition.ts';
import { NeedletailError } from '../util/errors.ts';
import { formatBytes } from '../util/format-bytes.ts';
import { readJsonFile, readTextFile } from '../util/json-file.ts';
import { PackedWeights, weightOffsets } from './packed-weights.ts';
import type { Plan, WeightSpec } from './plan.ts';
import { parsePlan, serializePlan, type PlanExpectation } from './serialize.ts';

const PLAN_FILE = 'plan.json';
const WEIGHTS_FILE = 'weights.bin';
const CONFIG_FILE = 'config.json';
const MAX_PLAN_BYTES = 512 * 2 ** 20;
const MAX_CONFIG_BYTES = 16 * 2 ** 20;

/** Files of a checkpoint that serving reads beside config and weights. */
const COMPANION_FILES: ReadonlySet<string> = new Set([
  'generation_config.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
]);

export interface PlanDirectoryContent {
  readonly plan: Plan;
  readonly config: HFConfig;
  /** A weight's `bytes` bytes in its layout. */
  readonly pack: (weight: WeightSpec) => Uint8Array;
  /** Paths of files to copy, under their own names. */
  readonly files: readonly string[];
}

export interface WriteOptions {
  readonly onProgress?: (writtenBytes: number, totalBytes: number) => void;
  readonly signal?: AbortSignal;
  /** Looks at the finished folder before it takes its place, and throws to refuse it. */
  readonly approve?: (directory: string) => Promise<void>;
}

export interface PlanDirectory {
  readonly directory: string;
  readonly plan: Plan;
  readonly config: HFConfig;
  readonly weights: PackedWeights;
}

/** The files of a checkpoint's folder that belong into a plan directory. */
export async function companionFiles(checkpointDirectory: string): Promise<readonly string[]> {
  const names = await readdir(checkpointDirectory);
  return names
    .filter((name) => COMPANION_FILES.has(name))
    .map((name) => path.join(checkpointDirectory, name));
}

export async function isPlanDirectory(directory: string): Promise<boolean> {
  return (await stat(path.join(directory, PLAN_FILE)).catch(() => null))?.isFile() ?? false;
}

/**
 * Writes `directory`, whole or not at all; a plan directory of that name is replaced. Throws `invalid_request` if
 * something else stands there or the disk is too small.
 */
export async function writePlanDirectory(
  directory: string,
  content: PlanDirectoryContent,
  options: WriteOptions = {},
): Promise<void> {
  const target = path.resolve(directory);
  await checkTarget(target);
  await mkdir(path.dirname(target), { recursive: true });
  await checkDisk(target, content.plan);
  const building = `${target}.building-${process.pid}`;
  try {
    await mkdir(building);
    await writeFiles(building, content, options);
    await options.approve?.(building);
    await replaceDirectory(building, target);
  } finally {
    await rm(building, { recursive: true, force: true });
  }
}

async function checkTarget(target: string): Promise<void> {
  const stats = await stat(target).catch(() => null);
  if (stats === null || (stats.isDirectory() && (await isPlanDirectory(target)))) return;
  if (stats.isDirectory() && (await readdir(target)).length === 0) return;
  throw refused(`${target} exists and is no plan directory; name another --output, or remove it`);
}

async function checkDisk(target: string, plan: Plan): Promise<void> {
  const { bavail, bsize } = await statfs(path.dirname(target));
  const needed = weightOffsets(plan).totalBytes;
  if (bavail * bsize >= needed) return;
  const sizes = `needs ${formatBytes(needed)}, the disk has ${formatBytes(bavail * bsize)} left`;
  throw refused(`${target} ${sizes}; name an --output on another disk`);
}

function refused(message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param: 'output' });
}

async function writeFiles(
  building: string,
  content: PlanDirectoryContent,
  options: WriteOptions,
): Promise<void> {
  await writeWeights(path.join(building, WEIGHTS_FILE), content, options);
  await writeFile(path.join(building, CONFIG_FILE), `${JSON.stringify(content.config, null, 2)}\n`);
  for (const file of content.files) await copyFile(file, path.join(building, path.basename(file)));
  await writeFile(path.join(building, PLAN_FILE), serializePlan(content.plan));
}

async function writeWeights(
  file: string,
  { plan, pack }: PlanDirectoryContent,
  options: WriteOptions,
): Promise<void> {
  const { offsets, totalBytes } = weightOffsets(plan);
  const handle = await open(file, 'wx');
  try {
    await handle.truncate(totalBytes);
    for (const weight of plan.weights) {
      options.signal?.throwIfAborted();
      await writeAll(handle, pack(weight), offsets[weight.id]);
      options.onProgress?.(offsets[weight.id] + weight.bytes, totalBytes);
    }
    options.onProgress?.(totalBytes, totalBytes);
  } finally {
    await handle.close();
  }
}

async function writeAll(
  handle: Awaited<ReturnType<typeof open>>,
  bytes: Uint8Array,
  offset: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const length = Math.min(bytes.length - done, 2 ** 30);
    done += (await handle.write(bytes, done, length, offset + done)).bytesWritten;
  }
}

async function replaceDirectory(building: string, target: string): Promise<void> {
  const old = `${target}.old-${process.pid}`;
  const wasThere = (await stat(target).catch(() => null)) !== null;
  if (wasThere) await rename(target, old);
  await rename(building, target);
  if (wasThere) await rm(old, { recursive: true });
}

/**
 * Opens a plan directory; close `weights` when they are loaded. Throws `bad_plan` if it is damaged or was built for
 * something else than `expected`.
 */
export async function readPlanDirectory(
  directory: string,
  expected: PlanExpectation = {},
): Promise<PlanDirectory> {
  const text = await readTextFile(path.join(directory, PLAN_FILE), {
    code: 'bad_plan',
    maxBytes: MAX_PLAN_BYTES,
  });
  if (text === null) throw new NeedletailError('bad_plan', `${directory}: there is no ${PLAN_FILE}`);
  const plan = parsePlan(text, expected);
  const config = await readJsonFile(path.join(directory, CONFIG_FILE), {
    code: 'bad_plan',
    maxBytes: MAX_CONFIG_BYTES,
  });
  if (config === null) throw new NeedletailError('bad_plan', `${directory}: there is no ${CONFIG_FILE}`);
  return { directory, plan, config, weights: new PackedWeights(path.join(directory, WEIGHTS_FILE), plan) };
}
