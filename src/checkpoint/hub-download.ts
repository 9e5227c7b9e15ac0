// Downloads a model from the hub into the usual cache: the files that are needed, and only what is not there yet.
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, stat, statfs, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { NeedletailError } from '../util/errors.ts';
import { formatBytes } from '../util/format-bytes.ts';
import { cachedBytes, downloadBlob } from './blob-download.ts';
import { CONVERSION, isPickle } from './checkpoint.ts';
import { HubClient, type HubFile, type HubListing } from './hub-api.ts';
import { HubCache, type HubModel, type HubSettings } from './hub-settings.ts';

export interface DownloadProgress {
  readonly file: string;
  /** Bytes of this file that are there. */
  readonly bytes: number;
  readonly totalBytes: number;
  /** The same over all files. */
  readonly overallBytes: number;
  readonly overallTotalBytes: number;
}

export interface DownloadOptions {
  readonly onProgress?: ((progress: DownloadProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Pause before the first retry; default 1000. */
  readonly retryDelayMs?: number;
  /** Bytes that may be written to the file system of a folder. */
  readonly freeBytes?: (directory: string) => Promise<number>;
}

const NUM_CONNECTIONS = 4;

/**
 * The folder of the model's files.
 * @throws NeedletailError `model_not_found`, `bad_checkpoint` (weights in a format that is not read),
 * `download_failed` (network, disk, hash) or `aborted`.
 */
export async function downloadModel(
  settings: HubSettings,
  model: HubModel,
  options: DownloadOptions = {},
): Promise<string> {
  const cache = new HubCache(settings.cacheDirectory, model.repo);
  const cached = await cachedSnapshot(cache, model.revision);
  if (settings.isOffline) return cached ?? notCached(model, settings);
  const stop = new AbortController();
  const signal = AbortSignal.any([stop.signal, ...(options.signal ? [options.signal] : [])]);
  const client = new HubClient(settings, model, { signal, retryDelayMs: options.retryDelayMs ?? 1000 });
  const listing = await client.list().catch((error: unknown) => {
    // No network, but an earlier download: better an old commit than none.
    if (error instanceof NeedletailError && error.code === 'download_failed' && cached !== null) return null;
    throw error;
  });
  if (listing === null) return cached!;
  const { commit } = listing;
  const files: HubFile[] = [];
  for (const name of neededFiles(model, listing)) {
    files.push(listing.files.get(name) ?? (await client.head(name, commit)));
  }
  await checkDiskSpace(settings.cacheDirectory, cache, files, options.freeBytes ?? freeBytes);
  const report = progressOf(files, options.onProgress);
  await forEachFile(files, stop, async (file) => {
    const onBytes = (bytes: number): void => report(file, bytes);
    await downloadBlob({ client, cache, commit, file, signal, onBytes });
    await link(cache, commit, file);
  });
  await writeRef(cache, model.revision, commit);
  return cache.snapshot(commit);
}

async function cachedSnapshot(cache: HubCache, revision: string): Promise<string | null> {
  const ref = await readFile(cache.ref(revision), 'utf8').catch(() => revision);
  const snapshot = cache.snapshot(ref.trim());
  const config = await stat(path.join(snapshot, 'config.json')).catch(() => null);
  return config ? snapshot : null;
}

function notCached(model: HubModel, settings: HubSettings): never {
  throw new NeedletailError(
    'model_not_found',
    `${model.repo} (revision ${model.revision}) is not in ${settings.cacheDirectory}, and HF_HUB_OFFLINE is set; ` +
      'unset it to download the model, name a local folder, or measure a preset with --load-format dummy',
    { param: 'model' },
  );
}

const SMALL_FILES =
  /^((config|hf_quant_config|generation_config|tokenizer|tokenizer_config|special_tokens_map|chat_template)\.json|chat_template\.jinja|additional_chat_templates\/[\w.-]+\.jinja)$/;
const SINGLE_FILE = 'model.safetensors';
const SHARDS = /^model(-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)$/;

/** Only names of these forms are ever written to disk. */
function neededFiles({ repo }: HubModel, { fileNames }: HubListing): string[] {
  const weights = fileNames.includes(SINGLE_FILE)
    ? [SINGLE_FILE]
    : fileNames.filter((name) => SHARDS.test(name));
  const small = fileNames.filter((name) => SMALL_FILES.test(name));
  if (!small.includes('config.json')) {
    throw new NeedletailError(
      'bad_checkpoint',
      `${repo} has no config.json: it holds no Hugging Face checkpoint`,
    );
  }
  if (weights.length === 0) throw noSafetensors(repo, fileNames);
  return [...small, ...weights];
}

function noSafetensors(repo: string, fileNames: readonly string[]): NeedletailError {
  const pickled = fileNames.find(isPickle);
  const problem = pickled
    ? `${pickled}, a pickle, which could run code and is not read; ${CONVERSION}`
    : 'none';
  return new NeedletailError(
    'bad_checkpoint',
    `${repo} has no weights in safetensors format, but ${problem}`,
  );
}

async function checkDiskSpace(
  directory: string,
  cache: HubCache,
  files: readonly HubFile[],
  freeBytesOf: (directory: string) => Promise<number>,
): Promise<void> {
  await mkdir(directory, { recursive: true });
  let missing = 0;
  for (const file of files) missing += file.size - (await cachedBytes(cache, file));
  const free = await freeBytesOf(directory);
  if (missing <= free) return;
  throw new NeedletailError(
    'download_failed',
    `the download takes ${formatBytes(missing)} more, but ${directory} has ${formatBytes(free)} free; ` +
      'make room or set HF_HOME to a larger disk',
  );
}

async function freeBytes(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}

/** A few files at a time; the first failure stops the others and is thrown. */
async function forEachFile(
  files: readonly HubFile[],
  stop: AbortController,
  work: (file: HubFile) => Promise<void>,
): Promise<void> {
  const queue = files.values();
  const failures: unknown[] = [];
  const connection = async (): Promise<void> => {
    for (const file of queue) {
      await work(file).catch((error: unknown) => {
        failures.push(error);
        stop.abort();
      });
      if (failures.length > 0) return;
    }
  };
  await Promise.all(Array.from({ length: NUM_CONNECTIONS }, connection));
  if (failures.length > 0) throw failures[0];
}

function progressOf(
  files: readonly HubFile[],
  onProgress: DownloadOptions['onProgress'],
): (file: HubFile, bytes: number) => void {
  const bytesOf = new Map<string, number>();
  const overallTotalBytes = files.reduce((sum, { size }) => sum + size, 0);
  return (file, bytes) => {
    bytesOf.set(file.name, bytes);
    const overallBytes = [...bytesOf.values()].reduce((sum, value) => sum + value, 0);
    onProgress?.({ file: file.name, bytes, totalBytes: file.size, overallBytes, overallTotalBytes });
  };
}

/** Puts the link in place at once, whatever was there. */
async function link(cache: HubCache, commit: string, file: HubFile): Promise<void> {
  const place = path.join(cache.snapshot(commit), file.name);
  await mkdir(path.dirname(place), { recursive: true });
  const temporary = `${place}.${randomUUID()}.tmp`;
  await symlink(path.relative(path.dirname(place), cache.blob(file.hash)), temporary);
  await rename(temporary, place);
}

async function writeRef(cache: HubCache, revision: string, commit: string): Promise<void> {
  if (revision === commit) return;
  const ref = cache.ref(revision);
  await mkdir(path.dirname(ref), { recursive: true });
  await writeFile(ref, commit);
}
