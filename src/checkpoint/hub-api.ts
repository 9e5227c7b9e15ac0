// Requests to the hub: retried where that can help, and refused in words that say what to do.
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { NeedletailError } from '../util/errors.ts';
import type { HubModel, HubSettings } from './hub-settings.ts';

const MAX_ATTEMPTS = 6;
const MAX_RETRY_AFTER_MS = 60_000;

export interface HubClientOptions {
  readonly signal?: AbortSignal | undefined;
  /** Pause before the second attempt; it doubles with each further one. */
  readonly retryDelayMs: number;
}

/** A file of the repository, known by the hash of its content. */
export interface HubFile {
  readonly name: string;
  readonly size: number;
  /** `sha256` for large files (LFS), `gitSha1` (of a git blob) for others. */
  readonly algorithm: 'sha256' | 'gitSha1';
  readonly hash: string;
}

export interface HubListing {
  readonly commit: string;
  readonly fileNames: readonly string[];
  /** Files whose size and hash the listing says. */
  readonly files: ReadonlyMap<string, HubFile>;
}

/** A failure that another attempt may not meet: a dropped connection, a server in trouble. */
export class TransientError extends Error {
  readonly retryAfterMs: number | null;

  constructor(message: string, options: { cause?: unknown; retryAfterMs?: number | null } = {}) {
    super(message, { cause: options.cause });
    this.retryAfterMs = options.retryAfterMs ?? null;
  }
}

const SHA1 = z.string().regex(/^[0-9a-f]{40}$/);
const SHA256 = z.string().regex(/^[0-9a-f]{64}$/);
const LISTING = z.object({
  sha: SHA1,
  siblings: z.array(
    z.object({
      rfilename: z.string(),
      size: z.int().min(0).nullish(),
      blobId: SHA1.nullish(),
      lfs: z.object({ sha256: SHA256, size: z.int().min(0) }).nullish(),
    }),
  ),
});

export class HubClient {
  readonly #settings: HubSettings;
  readonly #model: HubModel;
  readonly #options: HubClientOptions;

  constructor(settings: HubSettings, model: HubModel, options: HubClientOptions) {
    this.#settings = settings;
    this.#model = model;
    this.#options = options;
  }

  /** @throws NeedletailError `model_not_found` or `download_failed`. */
  async list(): Promise<HubListing> {
    const { repo, revision } = this.#model;
    const path = `/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
    const body = await this.retry(async () => readJson(await this.#fetch(path, {})));
    const listing = LISTING.safeParse(body);
    if (!listing.success) throw this.#failed('its list of files is not of the form that is known');
    const { sha, siblings } = listing.data;
    const files = siblings.flatMap(({ rfilename: name, size, blobId, lfs }): HubFile[] => {
      if (lfs) return [{ name, size: lfs.size, algorithm: 'sha256', hash: lfs.sha256 }];
      return blobId && typeof size === 'number' ? [{ name, size, algorithm: 'gitSha1', hash: blobId }] : [];
    });
    return {
      commit: sha,
      fileNames: siblings.map((sibling) => sibling.rfilename),
      files: new Map(files.map((file) => [file.name, file])),
    };
  }

  /** Size and hash of one file, for mirrors whose listing does not say them. */
  async head(name: string, commit: string): Promise<HubFile> {
    const headers = await this.retry(async () => {
      const response = await this.#fetch(this.#filePath(name, commit), {
        method: 'HEAD',
        redirect: 'manual',
      });
      return response.headers;
    });
    const etag = (headers.get('x-linked-etag') ?? headers.get('etag') ?? '').replace(/^W\/|"/g, '');
    const size = Number(headers.get('x-linked-size') ?? headers.get('content-length') ?? NaN);
    if (!Number.isSafeInteger(size)) throw this.#failed(`it does not say how large ${name} is`);
    if (SHA256.safeParse(etag).success) return { name, size, algorithm: 'sha256', hash: etag };
    if (SHA1.safeParse(etag).success) return { name, size, algorithm: 'gitSha1', hash: etag };
    throw this.#failed(`it gives no hash for ${name}`);
  }

  /** The file's bytes from `start` on; from the beginning if the server does not know ranges (status 200). */
  open(name: string, commit: string, start: number): Promise<Response> {
    const headers = { 'accept-encoding': 'identity', ...(start > 0 ? { range: `bytes=${start}-` } : {}) };
    return this.#fetch(this.#filePath(name, commit), { headers });
  }

  /** Runs `attempt` again after a TransientError, with growing pauses; an attempt that got further counts as a first. */
  async retry<T>(attempt: () => Promise<T>, progress: () => number = () => 0): Promise<T> {
    for (let failures = 0, reached = progress(); ;) {
      try {
        return await attempt();
      } catch (error) {
        this.#throwIfAborted();
        if (!(error instanceof TransientError)) throw error;
        failures = progress() > reached ? 1 : failures + 1;
        reached = progress();
        if (failures >= MAX_ATTEMPTS) throw this.#unreachable(error);
        await this.#pause(error.retryAfterMs ?? this.#options.retryDelayMs * 2 ** (failures - 1));
      }
    }
  }

  async #pause(milliseconds: number): Promise<void> {
    await sleep(milliseconds, undefined, { signal: this.#options.signal }).catch(() =>
      this.#throwIfAborted(),
    );
  }

  #throwIfAborted(): void {
    if (this.#options.signal?.aborted)
      throw new NeedletailError('aborted', `the download of ${this.#name} was cancelled`);
  }

  #filePath(name: string, commit: string): string {
    return `/${this.#model.repo}/resolve/${commit}/${name.split('/').map(encodeURIComponent).join('/')}`;
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    const { endpoint, token } = this.#settings;
    const headers = { ...init.headers, ...(token === null ? {} : { authorization: `Bearer ${token}` }) };
    const request = { ...init, headers, signal: this.#options.signal ?? null };
    const response = await fetch(endpoint + path, request).catch((error: unknown) => {
      throw new TransientError(networkReason(error), { cause: error });
    });
    if (response.ok || (response.status >= 300 && response.status < 400)) return response;
    await response.body?.cancel();
    throw this.#refused(response);
  }

  #refused(response: Response): Error {
    const { status } = response;
    if (status === 416) return new RangeRefused();
    if (status >= 500 || status === 429 || status === 408) {
      return new TransientError(`it answers ${status}`, { retryAfterMs: retryAfterMs(response) });
    }
    const code = response.headers.get('x-error-code');
    if (status === 404 && code === 'RevisionNotFound') {
      return this.#notFound(`${this.#model.repo} has no revision "${this.#model.revision}"`);
    }
    if (status === 404) return this.#notFound(`${this.#settings.endpoint} has no model ${this.#model.repo}`);
    if (status === 401 || status === 403) return this.#notFound(this.#accessProblem(code));
    return this.#failed(`it answers ${status} ${response.headers.get('x-error-message') ?? ''}`.trim());
  }

  #accessProblem(code: string | null): string {
    const { endpoint, token } = this.#settings;
    const { repo } = this.#model;
    const advice =
      token === null ? 'set HF_TOKEN to a token that may read it' : 'the token in HF_TOKEN may not read it';
    if (code === 'GatedRepo')
      return `${repo} is gated: accept its terms at ${endpoint}/${repo}; then ${advice}`;
    return `${repo} does not exist, is private or is gated: check the spelling, or ${advice}`;
  }

  #notFound(message: string): NeedletailError {
    return new NeedletailError('model_not_found', message, { param: 'model' });
  }

  #unreachable(error: TransientError): NeedletailError {
    return new NeedletailError(
      'download_failed',
      `"${this.#name}" is no folder here, and ${this.#settings.endpoint} cannot be reached to download it ` +
        `(${error.message}, after ${MAX_ATTEMPTS} attempts); check the network and HF_ENDPOINT, name a local folder, ` +
        'or measure a preset with --load-format dummy',
      { param: 'model', cause: error },
    );
  }

  #failed(problem: string): NeedletailError {
    return new NeedletailError(
      'download_failed',
      `${this.#name} cannot be fetched from ${this.#settings.endpoint}: ${problem}`,
    );
  }

  get #name(): string {
    const { repo, revision } = this.#model;
    return revision === 'main' ? repo : `${repo}@${revision}`;
  }
}

/** The server has no bytes from that place on: what was fetched before is not what it holds now. */
export class RangeRefused extends Error {}

async function readJson(response: Response): Promise<unknown> {
  try {
    return await response.json();
  } catch (error) {
    throw new TransientError('its answer is no JSON', { cause: error });
  }
}

function retryAfterMs(response: Response): number | null {
  const seconds = Number(response.headers.get('retry-after') ?? NaN);
  return Number.isFinite(seconds) ? Math.min(seconds * 1000, MAX_RETRY_AFTER_MS) : null;
}

/** fetch says "fetch failed" and hides the reason in the cause. */
export function networkReason(error: unknown): string {
  const { cause, message } = error as { cause?: { code?: string; message?: string }; message?: string };
  return cause?.code ?? cause?.message ?? message ?? String(error);
}
