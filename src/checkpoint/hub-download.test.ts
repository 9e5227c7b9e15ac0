import { fork } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { COMMIT, FakeHub, type FakeFile, gitSha1, sha256 } from '../../test/support/fake-hub.ts';
import { tryLockFile } from '../ffi/file-lock.ts';
import type { DownloadProgress } from './hub-download.ts';
import { parseHubId, readHubSettings } from './hub-settings.ts';
import { type ResolveOptions, resolveModel } from './resolve-model.ts';

const WEIGHTS = randomBytes(300_000);
const FILES: Record<string, FakeFile> = {
  'config.json': { content: Buffer.from('{"model_type":"llama"}') },
  'tokenizer.json': { content: Buffer.from('{}') },
  'tokenizer_config.json': { content: Buffer.from('{"a":1}') },
  'chat_template.jinja': { content: Buffer.from('{{ messages }}') },
  'model.safetensors': { content: WEIGHTS, isLarge: true },
  'README.md': { content: Buffer.from('not needed') },
  'pytorch_model.bin': { content: Buffer.from('not needed'), isLarge: true },
  'onnx/model.onnx': { content: Buffer.from('not needed'), isLarge: true },
};
const BLOB = sha256(WEIGHTS);

let hub: FakeHub;
let home: string;

beforeEach(async () => {
  hub = await FakeHub.start(FILES);
  home = await mkdtemp(path.join(tmpdir(), 'needletail-hub-'));
});

afterEach(async () => {
  await hub.close();
  await rm(home, { recursive: true, force: true });
});

function resolve(
  model = 'org/model',
  options: Partial<ResolveOptions> = {},
  env: Record<string, string> = {},
) {
  return resolveModel(model, {
    env: { HF_HOME: home, HF_ENDPOINT: hub.endpoint, ...env },
    retryDelayMs: 1,
    ...options,
  });
}

const inCache = (...parts: string[]) => path.join(home, 'hub', 'models--org--model', ...parts);

/** A download that broke off after `bytes`. */
async function leavePart(content: Uint8Array): Promise<void> {
  await mkdir(inCache('blobs'), { recursive: true });
  await writeFile(inCache('blobs', `${BLOB}.incomplete`), content);
}

async function expectComplete(folder: string): Promise<void> {
  expect(WEIGHTS.equals(await readFile(path.join(folder, 'model.safetensors')))).toBe(true);
  expect(await readdir(inCache('blobs'))).not.toContain(`${BLOB}.incomplete`);
}

describe('a download', () => {
  it('fetches what is needed into the usual cache layout', async () => {
    const folder = await resolve();
    expect(folder).toBe(inCache('snapshots', COMMIT));
    await expectComplete(folder);
    expect((await readdir(folder)).sort()).toEqual(
      [
        'config.json',
        'tokenizer.json',
        'tokenizer_config.json',
        'chat_template.jinja',
        'model.safetensors',
      ].sort(),
    );
    expect(await readlink(path.join(folder, 'model.safetensors'))).toBe(`../../blobs/${BLOB}`);
    expect(await readlink(path.join(folder, 'config.json'))).toBe(
      `../../blobs/${gitSha1(FILES['config.json'].content)}`,
    );
    expect(await readFile(inCache('refs', 'main'), 'utf8')).toBe(COMMIT);
  });

  it('fetches nothing again', async () => {
    await resolve();
    const numRequests = hub.seen.length;
    await resolve();
    expect(hub.seen.length).toBe(numRequests + 1); // the listing
  });

  it('takes a revision, and keeps its commit', async () => {
    await resolve('org/model@v1.0');
    expect(hub.seen[0].path).toBe('/api/models/org/model/revision/v1.0');
    expect(await readFile(inCache('refs', 'v1.0'), 'utf8')).toBe(COMMIT);
  });

  it('asks for sizes and hashes one by one where the listing has none', async () => {
    hub.isListingBare = true;
    await expectComplete(await resolve());
  });

  it('reports progress up to the total', async () => {
    const reports: DownloadProgress[] = [];
    await resolve('org/model', { onProgress: (progress) => reports.push(progress) });
    const last = reports.at(-1)!;
    expect(last.overallBytes).toBe(last.overallTotalBytes);
    const weights = reports.filter((report) => report.file === 'model.safetensors');
    expect(weights.at(-1)).toMatchObject({ bytes: WEIGHTS.length, totalBytes: WEIGHTS.length });
    expect(weights.every(({ bytes }, i) => i === 0 || bytes >= weights[i - 1].bytes)).toBe(true);
  });

  it('sends the token to the hub and to nobody else', async () => {
    await resolve('org/model', {}, { HF_TOKEN: 'secret' });
    expect(hub.seen.some((request) => request.host === 'storage')).toBe(true);
    for (const { host, authorization } of hub.seen) {
      expect(authorization).toBe(host === 'hub' ? 'Bearer secret' : null);
    }
  });

  it('fetches the shards of a sharded model', async () => {
    await hub.close();
    const { 'model.safetensors': _, ...others } = FILES;
    const shard = { content: WEIGHTS, isLarge: true };
    hub = await FakeHub.start({
      ...others,
      'model.safetensors.index.json': { content: Buffer.from('{}') },
      'model-00001-of-00002.safetensors': shard,
      'model-00002-of-00002.safetensors': { content: Buffer.from('second'), isLarge: true },
    });
    const names = await readdir(await resolve());
    expect(names.filter((name) => name.startsWith('model')).sort()).toEqual([
      'model-00001-of-00002.safetensors',
      'model-00002-of-00002.safetensors',
      'model.safetensors.index.json',
    ]);
  });
});

describe('an interrupted download', () => {
  it('resumes where an earlier run broke off', async () => {
    await leavePart(WEIGHTS.subarray(0, 100_000));
    await expectComplete(await resolve());
    const requests = hub.requestsFor('model.safetensors').filter(({ host }) => host === 'storage');
    expect(requests.map(({ range }) => range)).toEqual(['bytes=100000-']);
  });

  it('goes on after the connection breaks', async () => {
    hub.mishaps.set('model.safetensors', [
      { kind: 'breakAfter', bytes: 50_000 },
      { kind: 'breakAfter', bytes: 50_000 },
      { kind: 'status', status: 503 },
    ]);
    await expectComplete(await resolve());
    const starts = hub
      .requestsFor('model.safetensors')
      .filter(({ host }) => host === 'storage')
      .map(({ range }) => Number(range?.slice('bytes='.length, -1) ?? 0));
    expect(starts.length).toBe(4);
    expect(starts[2]).toBeGreaterThan(0); // does not begin anew
    expect(starts[3]).toBe(starts[2]);
  });

  it('begins anew if the server does not know ranges', async () => {
    await leavePart(WEIGHTS.subarray(0, 100_000));
    hub.mishaps.set('model.safetensors', [{ kind: 'ignoreRange' }]);
    await expectComplete(await resolve());
  });

  it('begins anew if the part is of another file', async () => {
    await leavePart(randomBytes(100_000));
    await expectComplete(await resolve());
  });

  it('begins anew if the part is longer than the file', async () => {
    await leavePart(randomBytes(400_000));
    await expectComplete(await resolve());
  });

  it('survives a corrupted body', async () => {
    hub.mishaps.set('model.safetensors', [{ kind: 'corrupt' }]);
    await expectComplete(await resolve());
  });

  it('waits as the server asks when there are too many requests', async () => {
    hub.mishaps.set('listing', [{ kind: 'status', status: 429, headers: { 'retry-after': '0' } }]);
    await expectComplete(await resolve());
  });

  it('stops when it is cancelled, and can be resumed', async () => {
    const controller = new AbortController();
    hub.onFile = async (name) => void (name === 'model.safetensors' && controller.abort());
    await expect(resolve('org/model', { signal: controller.signal })).rejects.toMatchObject({
      code: 'aborted',
    });
    hub.onFile = async () => undefined;
    await expectComplete(await resolve());
  });
});

describe('several downloads at once', () => {
  it('of one process fetch the weights once', async () => {
    const folders = await Promise.all([resolve(), resolve(), resolve()]);
    for (const folder of folders) await expectComplete(folder);
    expect(hub.requestsFor('storage/model.safetensors').length).toBe(1);
  });

  it('of two processes fetch the weights once', async () => {
    const script = fileURLToPath(new URL('../../test/support/resolve-model-process.ts', import.meta.url));
    const env = { ...process.env, HF_HOME: home, HF_ENDPOINT: hub.endpoint };
    const runs = [1, 2].map(
      () =>
        new Promise<number | null>((exited) =>
          fork(script, ['org/model'], { env, execArgv: ['--import', 'tsx'] }).on('exit', exited),
        ),
    );
    expect(await Promise.all(runs)).toEqual([0, 0]);
    await expectComplete(inCache('snapshots', COMMIT));
    expect(hub.requestsFor('storage/model.safetensors').length).toBe(1);
  });

  it('wait for whoever holds the lock', async () => {
    const lock = path.join(home, 'hub', '.locks', 'models--org--model', `${BLOB}.lock`);
    await mkdir(path.dirname(lock), { recursive: true });
    const unlock = tryLockFile(lock)!;
    const download = resolve();
    await expect.poll(() => hub.requestsFor('tokenizer.json').length).toBe(1);
    expect(hub.requestsFor('model.safetensors').length).toBe(0);
    unlock();
    await expectComplete(await download);
  });
});

describe('a download that cannot be', () => {
  const refusal = async (promise: Promise<unknown>) => {
    const error = await promise.then(
      () => null,
      (reason: unknown) => reason as { code: string; message: string },
    );
    expect(error).not.toBeNull();
    return error!;
  };

  it('says that no such model exists', async () => {
    expect(await refusal(resolve('org/other'))).toMatchObject({
      code: 'model_not_found',
      message: expect.stringContaining('has no model org/other') as string,
    });
  });

  it.each([
    [404, 'RevisionNotFound', /no revision "main"/],
    [401, 'RepoNotFound', /does not exist, is private or is gated.*set HF_TOKEN/],
    [403, 'GatedRepo', /gated: accept its terms at http.*org\/model; then set HF_TOKEN/],
  ])('explains %i %s', async (status, code, message) => {
    hub.mishaps.set('listing', [{ kind: 'status', status, headers: { 'x-error-code': code } }]);
    const error = await refusal(resolve());
    expect(error.code).toBe('model_not_found');
    expect(error.message).toMatch(message);
  });

  it('explains a gated model whose files alone are guarded', async () => {
    const mishap = { kind: 'status', status: 401, headers: { 'x-error-code': 'GatedRepo' } } as const;
    hub.mishaps.set('config.json', [mishap]);
    const error = await refusal(resolve());
    expect(error).toMatchObject({ code: 'model_not_found' });
    expect(error.message).toMatch(/org\/model is gated: accept its terms/);
  });

  it('blames the token if there is one', async () => {
    hub.mishaps.set('listing', [{ kind: 'status', status: 403, headers: { 'x-error-code': 'GatedRepo' } }]);
    const error = await refusal(resolve('org/model', {}, { HF_TOKEN: 'wrong' }));
    expect(error.message).toMatch(/the token in HF_TOKEN may not read it/);
    expect(error.message).not.toContain('wrong');
  });

  it('says that the hub cannot be reached, and what else there is', async () => {
    await hub.close();
    const error = await refusal(resolve());
    expect(error.code).toBe('download_failed');
    expect(error.message).toMatch(
      /no folder here, and http.* cannot be reached.*ECONNREFUSED.*--load-format dummy/,
    );
  });

  it('gives up on a server that keeps failing', async () => {
    hub.mishaps.set(
      'listing',
      Array.from({ length: 6 }, () => ({ kind: 'status', status: 500 })),
    );
    expect((await refusal(resolve())).message).toMatch(/answers 500, after 6 attempts/);
  });

  it('refuses what does not have its hash', async () => {
    hub.mishaps.set('model.safetensors', [{ kind: 'corrupt' }, { kind: 'corrupt' }]);
    const error = await refusal(resolve());
    expect(error.code).toBe('download_failed');
    expect(error.message).toMatch(/model\.safetensors: .* does not have the hash/);
    expect(await readdir(inCache('blobs'))).not.toContain(BLOB);
  });

  it('refuses more bytes than were stated', async () => {
    hub.mishaps.set('model.safetensors', [{ kind: 'tooLong' }]);
    expect((await refusal(resolve())).message).toMatch(/more than the 300000 bytes/);
  });

  it('says first that the disk is too small, with the numbers', async () => {
    const error = await refusal(resolve('org/model', { freeBytes: async () => 2048 }));
    expect(error.message).toMatch(
      /takes 293\.\d\d KiB more, but .* has 2\.00 KiB free; make room or set HF_HOME/,
    );
    expect(hub.requestsFor('model.safetensors').length).toBe(0);
  });

  it('counts what is there already when it looks at the disk', async () => {
    await leavePart(WEIGHTS.subarray(0, 299_900));
    await expectComplete(await resolve('org/model', { freeBytes: async () => 200 }));
  });

  it('refuses a model with pickled weights, naming the conversion', async () => {
    await hub.close();
    hub = await FakeHub.start({
      'config.json': FILES['config.json'],
      'pytorch_model.bin': FILES['pytorch_model.bin'],
    });
    const error = await refusal(resolve());
    expect(error.code).toBe('bad_checkpoint');
    expect(error.message).toMatch(/pytorch_model\.bin, a pickle.*safe_serialization=True/);
  });

  it('never writes a file whose name leads out of the folder', async () => {
    await hub.close();
    hub = await FakeHub.start({ ...FILES, '../../../../evil.json': { content: Buffer.from('x') } });
    await resolve();
    expect(hub.seen.some(({ path: requested }) => requested.includes('evil'))).toBe(false);
  });
});

describe('without the network', () => {
  it('uses what is in the cache when told to be offline', async () => {
    const folder = await resolve();
    const numRequests = hub.seen.length;
    expect(await resolve('org/model', {}, { HF_HUB_OFFLINE: '1' })).toBe(folder);
    expect(hub.seen.length).toBe(numRequests);
  });

  it('uses what is in the cache when the hub does not answer', async () => {
    const folder = await resolve();
    hub.mishaps.set(
      'listing',
      Array.from({ length: 6 }, () => ({ kind: 'status', status: 502 })),
    );
    expect(await resolve()).toBe(folder);
  });

  it('says that the cache has no such model', async () => {
    await expect(resolve('org/model', {}, { HF_HUB_OFFLINE: '1' })).rejects.toThrow(
      /org\/model \(revision main\) is not in .*HF_HUB_OFFLINE is set/,
    );
  });
});

describe('what the user calls a model', () => {
  it('may be a folder', async () => {
    expect(await resolveModel(home)).toBe(home);
  });

  it('may not be a file', async () => {
    const file = path.join(home, 'model.safetensors');
    await writeFile(file, '');
    await expect(resolveModel(file)).rejects.toThrow(/is a file; name the folder/);
  });

  it.each(['no-such-folder', './no/such/folder', '/no/such', 'a/b/c', 'org/model@', '../x', ''])(
    'may not be "%s"',
    async (name) => {
      await expect(resolveModel(name, { env: {} })).rejects.toMatchObject({ code: 'model_not_found' });
    },
  );

  it.each([
    ['org/name', { repo: 'org/name', revision: 'main' }],
    ['org/name.v2@refs/pr/3', { repo: 'org/name.v2', revision: 'refs/pr/3' }],
    ['org/name@../../x', null],
    ['org/../name', null],
  ])('%s is parsed', (id, expected) => {
    expect(parseHubId(id)).toEqual(expected);
  });
});

describe('the environment', () => {
  it('is read as huggingface_hub reads it', () => {
    expect(readHubSettings({ HF_HOME: '/data' }).cacheDirectory).toBe('/data/hub');
    expect(readHubSettings({ HF_HUB_CACHE: '/cache', HF_HOME: '/data' }).cacheDirectory).toBe('/cache');
    expect(readHubSettings({ XDG_CACHE_HOME: '/x' }).cacheDirectory).toBe('/x/huggingface/hub');
    expect(readHubSettings({ HF_ENDPOINT: 'https://mirror.example/' }).endpoint).toBe(
      'https://mirror.example',
    );
    expect(readHubSettings({}).endpoint).toBe('https://huggingface.co');
  });

  it('with a broken endpoint is refused', () => {
    expect(() => readHubSettings({ HF_ENDPOINT: 'ftp://x' })).toThrow(/HF_ENDPOINT must be/);
  });
});
