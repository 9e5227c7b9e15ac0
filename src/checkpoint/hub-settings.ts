// Where the hub is and where its files are kept: the environment variables that huggingface_hub reads.
import { homedir } from 'node:os';
import path from 'node:path';
import { NeedletailError } from '../util/errors.ts';

export interface HubSettings {
  /** `HF_ENDPOINT`, without a slash at the end. */
  readonly endpoint: string;
  /** `HF_TOKEN`: for private and gated models. */
  readonly token: string | null;
  /** `HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub`. */
  readonly cacheDirectory: string;
  /** `HF_HUB_OFFLINE`: use what is in the cache, ask nobody. */
  readonly isOffline: boolean;
}

export function readHubSettings(env: Readonly<Record<string, string | undefined>>): HubSettings {
  const cacheHome = env['XDG_CACHE_HOME'] || path.join(homedir(), '.cache');
  const home = env['HF_HOME'] || path.join(cacheHome, 'huggingface');
  return {
    endpoint: checkEndpoint(env['HF_ENDPOINT'] || 'https://huggingface.co'),
    token: env['HF_TOKEN']?.trim() || null,
    cacheDirectory: path.resolve(env['HF_HUB_CACHE'] || path.join(home, 'hub')),
    isOffline: /^(1|true|yes|on)$/i.test(env['HF_HUB_OFFLINE'] ?? ''),
  };
}

function checkEndpoint(endpoint: string): string {
  if (/^https?:\/\/\S+$/.test(endpoint) && URL.canParse(endpoint)) return endpoint.replace(/\/+$/, '');
  throw new NeedletailError('invalid_request', `HF_ENDPOINT must be an http(s) address, not "${endpoint}"`);
}

/** A model on the hub. */
export interface HubModel {
  /** `org/name`. */
  readonly repo: string;
  /** A branch, tag or commit. */
  readonly revision: string;
}

const HUB_ID =
  /^(?<repo>[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9_][\w.-]{0,95})(?:@(?<revision>[\w][\w./-]{0,255}))?$/;

/** `org/name` or `org/name@revision`; null for anything else. The revision is `main` unless named. */
export function parseHubId(id: string): HubModel | null {
  const groups = HUB_ID.exec(id)?.groups;
  if (!groups || id.includes('..') || id.endsWith('/')) return null;
  return { repo: groups['repo'], revision: groups['revision'] ?? 'main' };
}

/** A model's part of the cache, laid out as huggingface_hub does it, so that the two share their downloads. */
export class HubCache {
  readonly #root: string;
  readonly #locks: string;

  constructor(cacheDirectory: string, repo: string) {
    const folder = `models--${repo.replace('/', '--')}`;
    this.#root = path.join(cacheDirectory, folder);
    this.#locks = path.join(cacheDirectory, '.locks', folder);
  }

  /** Holds the commit that a branch or tag stood for. */
  ref(revision: string): string {
    return path.join(this.#root, 'refs', revision);
  }

  /** The folder of a commit: links into `blobs`. */
  snapshot(commit: string): string {
    return path.join(this.#root, 'snapshots', commit);
  }

  /** A file's content, named by its hash. */
  blob(hash: string): string {
    return path.join(this.#root, 'blobs', hash);
  }

  lock(hash: string): string {
    return path.join(this.#locks, `${hash}.lock`);
  }
}
