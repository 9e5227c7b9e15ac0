// One file from the hub into the cache: resumed where it broke off, checked against its hash, by one process at a time.
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLockFile } from '../ffi/file-lock.ts';
import { NeedletailError } from '../util/errors.ts';
import { type HubClient, type HubFile, networkReason, RangeRefused, TransientError } from './hub-api.ts';
import type { HubCache } from './hub-settings.ts';

const LOCK_POLL_MS = 100;

export interface BlobDownload {
  readonly client: HubClient;
  readonly cache: HubCache;
  readonly commit: string;
  readonly file: HubFile;
  readonly signal?: AbortSignal | undefined;
  /** Called with the bytes of the file that are there. */
  readonly onBytes: (bytes: number) => void;
}

/** Bytes of the file that the cache holds already: all, a part, or none. */
export async function cachedBytes(cache: HubCache, file: HubFile): Promise<number> {
  const blob = cache.blob(file.hash);
  return (await sizeOf(blob)) === file.size
    ? file.size
    : Math.min((await sizeOf(incomplete(blob))) ?? 0, file.size);
}

/**
 * Leaves the file in `blobs/`, complete and verified. Another process that downloads it is waited for.
 * @throws NeedletailError `download_failed` if what arrives is not what the hub says it is.
 */
export async function downloadBlob(download: BlobDownload): Promise<void> {
  const { cache, file, onBytes } = download;
  const blob = cache.blob(file.hash);
  if ((await sizeOf(blob)) === file.size) return onBytes(file.size);
  await mkdir(path.dirname(blob), { recursive: true });
  const unlock = await acquireLock(cache.lock(file.hash), download.signal);
  try {
    if ((await sizeOf(blob)) !== file.size) await fetchBlob(download, blob);
    onBytes(file.size);
  } finally {
    unlock();
  }
}

function incomplete(blob: string): string {
  return `${blob}.incomplete`;
}

async function sizeOf(file: string): Promise<number | null> {
  return stat(file).then(
    (stats) => stats.size,
    () => null,
  );
}

async function acquireLock(lock: string, signal: AbortSignal | undefined): Promise<() => void> {
  await mkdir(path.dirname(lock), { recursive: true });
  for (;;) {
    const unlock = tryLockFile(lock);
    if (unlock) return unlock;
    await sleep(LOCK_POLL_MS, undefined, { signal }).catch(() => {
      throw new NeedletailError('aborted', 'the download was cancelled');
    });
  }
}

async function fetchBlob(download: BlobDownload, blob: string): Promise<void> {
  const { file } = download;
  const part = incomplete(blob);
  // Twice, since a part that an earlier run left may be what is damaged.
  for (let attempt = 0; attempt < 2; attempt++) {
    if (await fetchAndVerify(download, part)) return rename(part, blob);
    await rm(part, { force: true });
  }
  throw new NeedletailError(
    'download_failed',
    `${file.name}: what the server sends does not have the hash ${file.hash} that it states; ` +
      'a proxy may change it: try again later or set HF_ENDPOINT',
  );
}

/** True if the bytes, all there now, have the file's hash. */
async function fetchAndVerify(download: BlobDownload, part: string): Promise<boolean> {
  const { client, file } = download;
  const handle = await open(part, 'a');
  try {
    const writer = await PartWriter.resume(handle, part, file);
    const attempt = () => fetchRest(download, writer);
    await client.retry(attempt, () => writer.length);
    return writer.digest() === file.hash;
  } finally {
    await handle.close();
  }
}

async function fetchRest({ client, commit, file, onBytes }: BlobDownload, writer: PartWriter): Promise<void> {
  onBytes(writer.length);
  if (writer.length >= file.size) return;
  const response = await client.open(file.name, commit, writer.length).catch(async (error: unknown) => {
    if (!(error instanceof RangeRefused)) throw error;
    await writer.restart();
    throw new TransientError('it does not go on where the download broke off');
  });
  if (!continuesAt(response, writer.length)) await writer.restart();
  try {
    for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      await writer.write(chunk);
      if (writer.length > file.size) throw tooLong(file);
      onBytes(writer.length);
    }
  } catch (error) {
    if (error instanceof NeedletailError) throw error;
    throw new TransientError(`the connection broke (${networkReason(error)})`, { cause: error });
  }
  if (writer.length < file.size) throw new TransientError('the connection ended too early');
}

function continuesAt(response: Response, position: number): boolean {
  const range = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '');
  return response.status === 206 ? Number(range?.[1]) === position : position === 0;
}

function tooLong(file: HubFile): NeedletailError {
  return new NeedletailError(
    'download_failed',
    `${file.name}: the server sends more than the ${file.size} bytes it stated`,
  );
}

/** Appends to the `.incomplete` file and hashes what it holds. */
class PartWriter {
  readonly #handle: FileHandle;
  readonly #file: HubFile;
  #hash: Hash;
  #length = 0;

  private constructor(handle: FileHandle, file: HubFile) {
    this.#handle = handle;
    this.#file = file;
    this.#hash = createHasher(file);
  }

  static async resume(handle: FileHandle, part: string, file: HubFile): Promise<PartWriter> {
    const writer = new PartWriter(handle, file);
    const { size } = await handle.stat();
    if (size > file.size) await writer.restart();
    else for await (const chunk of createReadStream(part)) writer.#count(chunk as Buffer);
    return writer;
  }

  get length(): number {
    return this.#length;
  }

  async write(chunk: Uint8Array): Promise<void> {
    await this.#handle.appendFile(chunk).catch((error: NodeJS.ErrnoException) => {
      const problem = `${this.#file.name} cannot be written to the cache (${error.code}); make room or set HF_HOME`;
      throw new NeedletailError('download_failed', problem, { cause: error });
    });
    this.#count(chunk);
  }

  async restart(): Promise<void> {
    await this.#handle.truncate(0);
    this.#hash = createHasher(this.#file);
    this.#length = 0;
  }

  digest(): string {
    return this.#hash.digest('hex');
  }

  #count(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.#length += chunk.length;
  }
}

function createHasher(file: HubFile): Hash {
  if (file.algorithm === 'sha256') return createHash('sha256');
  return createHash('sha1').update(`blob ${file.size}\0`); // as git hashes a blob
}
