// What an uploader is given arrives as it was, from memory and from files, and files that fail say which and why.
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { describeCuda } from '../../../test/support/cuda.ts';
import { readDevice } from '../../../test/support/device-bytes.ts';
import { CudaDevice } from './cuda-device.ts';
import { slice, Uploader, type UploadSource } from './uploader.ts';

const MIB = 2 ** 20;
/** More than all of an uploader's buffers, and no round number. */
const NUM_BYTES = 150 * MIB + 13;

describeCuda('uploads', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
  const file = path.join(folder, 'bytes');
  const bytes = new Uint8Array(
    Uint32Array.from({ length: Math.ceil(NUM_BYTES / 4) }, (_, i) => Math.imul(i, 2654435761)).buffer,
    0,
    NUM_BYTES,
  );
  let device: CudaDevice;
  beforeAll(async () => {
    writeFileSync(file, bytes);
    device = await CudaDevice.open();
  });
  afterAll(async () => {
    await device.dispose();
    rmSync(folder, { recursive: true });
  });

  /** What lies on the device after sending each source to its place. */
  async function sent(sources: readonly (readonly [UploadSource, at: number])[]): Promise<Uint8Array> {
    const { runtime } = device;
    const target = runtime.driver.allocate(NUM_BYTES);
    const uploader = new Uploader(runtime);
    try {
      for (const [source, at] of sources) await uploader.send(source, target + at);
      await uploader.reach(uploader.numSent);
      return readDevice(runtime, target, NUM_BYTES);
    } finally {
      uploader.close();
      runtime.driver.free(target);
    }
  }

  it('arrive from memory and from a file, in pieces of any size', async () => {
    const inFile = { path: file, start: 0, byteLength: NUM_BYTES };
    const cuts = [0, 1, 77, 4 * MIB, 8 * MIB + 1, 60 * MIB - 5, 149 * MIB, NUM_BYTES];
    const pieces = cuts.slice(1).map((end, i) => {
      const source = i % 2 === 0 ? inFile : bytes;
      return [slice(source, cuts[i], end), cuts[i]] as const;
    });
    expect(Buffer.compare(await sent(pieces), bytes)).toBe(0);
  });

  it('of a file that was cut short, or is gone, are refused', async () => {
    const short = path.join(folder, 'short');
    writeFileSync(short, bytes.subarray(0, 20 * MIB));
    truncateSync(short, 10 * MIB);
    const range = { path: short, start: 0, byteLength: 20 * MIB };
    const problem = {
      code: 'bad_checkpoint',
      message: `${short}: became shorter since it was opened; fetch it again`,
    };
    await expect(sent([[range, 0]])).rejects.toMatchObject(problem);
    rmSync(short);
    await expect(sent([[range, 0]])).rejects.toThrow(`${short}: cannot be opened (ENOENT)`);
  });

  it('stop when they are told to', async () => {
    const { driver } = device.runtime;
    const target = driver.allocate(NUM_BYTES);
    const abort = new AbortController();
    const uploader = new Uploader(device.runtime, abort.signal);
    abort.abort(new Error('enough'));
    await expect(uploader.send(bytes, target)).rejects.toThrow('enough');
    await expect(uploader.reach(1)).rejects.toThrow('enough');
    uploader.close();
    driver.free(target);
  });
});
