// A local server that speaks the hub's API: listings, redirects to a second host, ranges, hashes; and its misfortunes.
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export const COMMIT = '0123456789abcdef0123456789abcdef01234567';

export interface FakeFile {
  readonly content: Buffer;
  /** Large files live on another host and are known by their SHA-256. */
  readonly isLarge?: boolean;
}

/** What the server does to a request for a file's bytes instead of just sending them. */
export type Mishap =
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Record<string, string> }
  | { readonly kind: 'breakAfter'; readonly bytes: number }
  | { readonly kind: 'corrupt' }
  | { readonly kind: 'ignoreRange' }
  | { readonly kind: 'tooLong' };

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | null;
  readonly authorization: string | null;
  /** `hub` or `storage`, the second host. */
  readonly host: 'hub' | 'storage';
}

export class FakeHub {
  endpoint = '';
  readonly seen: SeenRequest[] = [];
  /** Mishaps to come, by file name (or `listing`), one per request. */
  readonly mishaps = new Map<string, Mishap[]>();
  /** A listing without sizes and hashes, as some mirrors give. */
  isListingBare = false;
  /** Called before the bytes of a file are sent. */
  onFile: (name: string) => Promise<void> = async () => undefined;
  readonly #files: ReadonlyMap<string, FakeFile>;
  readonly #hub: Server;
  readonly #storage: Server;

  private constructor(files: ReadonlyMap<string, FakeFile>) {
    this.#files = files;
    this.#hub = createServer((request, response) => void this.#answer('hub', request, response));
    this.#storage = createServer((request, response) => void this.#answer('storage', request, response));
  }

  static async start(files: Record<string, FakeFile>): Promise<FakeHub> {
    const hub = new FakeHub(new Map(Object.entries(files)));
    for (const server of [hub.#hub, hub.#storage]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    }
    hub.endpoint = addressOf(hub.#hub);
    return hub;
  }

  async close(): Promise<void> {
    for (const server of [this.#hub, this.#storage]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  requestsFor(name: string): SeenRequest[] {
    return this.seen.filter((request) => request.path.endsWith(name) && request.method === 'GET');
  }

  async #answer(host: 'hub' | 'storage', request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, 'http://localhost');
    this.seen.push({
      method: request.method!,
      path: url.pathname,
      range: request.headers.range ?? null,
      authorization: request.headers.authorization ?? null,
      host,
    });
    if (url.pathname.startsWith('/api/models/org/model/revision/')) return this.#list(response);
    const match = /^\/(?:org\/model\/resolve\/[^/]+|storage)\/(.+)$/.exec(url.pathname);
    const name = decodeURIComponent(match?.[1] ?? '');
    const file = this.#files.get(name);
    if (!file) return fail(response, 404, { 'x-error-code': match ? 'EntryNotFound' : 'RepoNotFound' });
    if (host === 'hub' && file.isLarge === true) return this.#redirect(name, file, response);
    if (request.method === 'HEAD') return void response.writeHead(200, headersOf(file)).end();
    await this.onFile(name);
    this.#send(name, file, request, response);
  }

  #list(response: ServerResponse): void {
    const mishap = this.mishaps.get('listing')?.shift();
    if (mishap?.kind === 'status') return fail(response, mishap.status, mishap.headers);
    const siblings = [...this.#files].map(([rfilename, { content, isLarge }]) => {
      if (this.isListingBare) return { rfilename };
      const lfs = isLarge ? { sha256: sha256(content), size: content.length, pointerSize: 130 } : undefined;
      return { rfilename, size: content.length, blobId: gitSha1(content), lfs };
    });
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ id: 'org/model', sha: COMMIT, siblings }));
  }

  #redirect(name: string, { content }: FakeFile, response: ServerResponse): void {
    response.writeHead(302, {
      location: `${addressOf(this.#storage)}/storage/${name}`,
      'x-repo-commit': COMMIT,
      'x-linked-etag': `"${sha256(content)}"`,
      'x-linked-size': String(content.length),
    });
    response.end();
  }

  #send(name: string, file: FakeFile, request: IncomingMessage, response: ServerResponse): void {
    const mishap = this.mishaps.get(name)?.shift();
    if (mishap?.kind === 'status') return fail(response, mishap.status, mishap.headers);
    const { content } = file;
    const start = mishap?.kind === 'ignoreRange' ? 0 : startOf(request);
    if (start >= content.length && content.length > 0) return fail(response, 416);
    const body = damage(content.subarray(start), mishap);
    if (start > 0) {
      response.statusCode = 206;
      response.setHeader('content-range', `bytes ${start}-${content.length - 1}/${content.length}`);
    }
    if (mishap?.kind !== 'breakAfter') return void response.end(body);
    response.setHeader('content-length', body.length);
    response.write(body.subarray(0, mishap.bytes), () => response.destroy());
  }
}

function damage(body: Buffer, mishap: Mishap | undefined): Buffer {
  if (mishap?.kind === 'tooLong') return Buffer.concat([body, Buffer.alloc(100)]);
  if (mishap?.kind !== 'corrupt') return body;
  const copy = Buffer.from(body);
  copy[copy.length >> 1] ^= 1;
  return copy;
}

function startOf(request: IncomingMessage): number {
  return Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
}

function headersOf({ content }: FakeFile): Record<string, string> {
  return { 'content-length': String(content.length), etag: `"${gitSha1(content)}"`, 'x-repo-commit': COMMIT };
}

function fail(response: ServerResponse, status: number, headers: Record<string, string> = {}): void {
  response.writeHead(status, headers).end();
}

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export function sha256(content: Uint8Array): string {
  return createHash('sha256').update(content).digest('hex');
}

export function gitSha1(content: Uint8Array): string {
  return createHash('sha1').update(`blob ${content.length}\0`).update(content).digest('hex');
}
