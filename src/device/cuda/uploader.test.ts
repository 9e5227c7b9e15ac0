// An uploader that cannot be made leaves nothing behind.
import { existsSync, readdirSync } from 'node:fs';
import koffi from 'koffi';
import { describe, expect, it, vi } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { Uploader, type UploadMachine } from './uploader.ts';

const THREADS = '/proc/self/task';

/** A GPU that refuses what is named `failing`; `held`: what was taken and not given back. */
function machine(failing: string): UploadMachine & { readonly held: Set<string> } {
  const library = CpuLibrary.load(null);
  const held = new Set<string>();
  const take = (name: string): void => {
    if (name === failing) throw new Error(`no ${name}`);
    held.add(name);
  };
  // A function that threads may call: it returns 0.
  const idle = Number(koffi.address(koffi.load('libc.so.6').symbol('sched_yield')));
  let numEvents = 0;
  return {
    held,
    context: 0,
    stream: 0,
    makeCurrent: () => undefined,
    library: {
      path: library.path,
      addressOf: (array) => library.addressOf(array),
      allocate: (bytes) => {
        take('memory');
        return library.allocate(bytes);
      },
      free: (address, bytes) => {
        expect(held).not.toContain('lock');
        held.delete('memory');
        library.free(address, bytes);
      },
    },
    driver: {
      copyFunctions: [idle, idle, idle, idle],
      createQuietEvent: () => {
        take(`event ${++numEvents}`);
        return numEvents;
      },
      destroyEvent: (event) => void held.delete(`event ${event}`),
      lockPages: () => take('lock'),
      unlockPages: () => void held.delete('lock'),
      synchronize: () => undefined,
      check: () => undefined,
    },
  };
}

const numThreads = (): number => readdirSync(THREADS).length;

describe.skipIf(!existsSync(THREADS))('an uploader', () => {
  it.each(['event 2', 'memory', 'lock'])('without %s leaves nothing behind', async (failing) => {
    const gpu = machine(failing);
    const numBefore = numThreads();
    expect(() => new Uploader(gpu)).toThrow(`no ${failing}`);
    expect([...gpu.held]).toEqual([]);
    // The kernel strikes a thread off its list a moment after it has been joined.
    await vi.waitFor(() => expect(numThreads()).toBeLessThanOrEqual(numBefore));
  });

  it('gives everything back when it is closed', async () => {
    const gpu = machine('nothing');
    const numBefore = numThreads();
    const uploader = new Uploader(gpu);
    expect(gpu.held).toContain('lock');
    expect(numThreads()).toBeGreaterThan(numBefore);
    uploader.close();
    expect([...gpu.held]).toEqual([]);
    await vi.waitFor(() => expect(numThreads()).toBeLessThanOrEqual(numBefore));
  });
});
