// Threads that bring bytes to a GPU, with a driver that copies nothing: what they read lies in its stages, what fails is told.
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import koffi from 'koffi';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CpuLibrary } from './cpu-library.ts';
import { UploadThreads } from './uploads.ts';

const NUM_BYTES = 1000;
const STAGE_BYTES = 100;

const libc = koffi.load(null);
const addressOf = (name: string): number => Number(koffi.address(libc.symbol(name)));
/** Gives 0 whatever it is asked. */
const SUCCEED = addressOf('sched_yield');
/** Gives the number of the parent process, which is not 0. */
const FAIL = addressOf('getppid');

interface Options {
  readonly numThreads: number;
  readonly stagesPerThread: number;
  readonly copyToDevice?: number;
}

describe.each(CpuLibrary.available())('uploads by the library for %s', (arch) => {
  const library = CpuLibrary.load(arch);
  const folder = mkdtempSync(path.join(tmpdir(), 'needletail-'));
  const bytes = Uint8Array.from({ length: NUM_BYTES }, (_, i) => (i * 31) >> 3);
  let fd = -1;
  beforeAll(() => {
    writeFileSync(path.join(folder, 'bytes'), bytes);
    fd = openSync(path.join(folder, 'bytes'), 'r');
  });
  afterAll(() => {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  });

  async function withThreads(
    { numThreads, stagesPerThread, copyToDevice = SUCCEED }: Options,
    use: (threads: UploadThreads, stages: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const events = Array.from({ length: numThreads * stagesPerThread }, () => 0);
    const stages = new Uint8Array(events.length * STAGE_BYTES);
    const threads = new UploadThreads(library, {
      functions: [SUCCEED, copyToDevice, SUCCEED, SUCCEED],
      context: 0,
      stream: 0,
      stages: library.addressOf(stages),
      events,
      stageBytes: STAGE_BYTES,
      numThreads,
    });
    try {
      await use(threads, stages);
    } finally {
      threads.destroy();
    }
  }

  const fewStages = { numThreads: 3, stagesPerThread: 2 };
  const submit = (threads: UploadThreads, isFile: boolean, start: number, end: number): void =>
    isFile
      ? threads.submitFile({ fd, start, byteLength: end - start }, 0)
      : threads.submitMemory(bytes.subarray(start, end), 0);
  const sources = fc.array(fc.tuple(fc.boolean(), fc.nat(NUM_BYTES), fc.nat(NUM_BYTES)), { maxLength: 9 });

  it('cut files and memory into pieces, in the order in which they come', () =>
    fc.assert(
      fc.asyncProperty(sources, async (choices) => {
        const parts = choices.map(([isFile, a, b]) => [isFile, Math.min(a, b), Math.max(a, b)] as const);
        const pieces = parts.flatMap(([, start, end]) =>
          Array.from({ length: Math.ceil((end - start) / STAGE_BYTES) }, (_, i) =>
            bytes.subarray(start + i * STAGE_BYTES, Math.min(end, start + (i + 1) * STAGE_BYTES)),
          ),
        );
        const oneThread = { numThreads: 1, stagesPerThread: pieces.length + 9 };
        await withThreads(oneThread, async (threads, stages) => {
          for (const source of parts) submit(threads, ...source);
          expect(await threads.wait(parts.length)).toBeNull();
          expect(threads.numDone).toBe(parts.length);
          pieces.forEach((piece, i) => {
            expect(stages.subarray(i * STAGE_BYTES, i * STAGE_BYTES + piece.length)).toEqual(piece);
          });
        });
      }),
      { numRuns: 30 },
    ));

  it('are all done at the end, by several threads', () =>
    withThreads(fewStages, async (threads) => {
      for (let i = 0; i < 200; i++) submit(threads, i % 2 === 0, i, NUM_BYTES - i);
      expect(await threads.wait(200)).toBeNull();
      expect(threads.numDone).toBe(200);
    }));

  it('say which upload a file is too short for', () =>
    withThreads(fewStages, async (threads) => {
      threads.submitMemory(bytes, 0);
      threads.submitFile({ fd, start: NUM_BYTES - 10, byteLength: 11 }, 0);
      const failure = await threads.wait(2);
      expect(failure).toEqual({ problem: 'cutShort', code: 0, upload: 1 });
    }));

  it('say that a file cannot be read, and why', () =>
    withThreads(fewStages, async (threads) => {
      const EBADF = 9;
      threads.submitFile({ fd: 99_999, start: 0, byteLength: 1 }, 0);
      const failure = await threads.wait(1);
      expect(failure).toEqual({ problem: 'unreadable', code: EBADF, upload: 0 });
    }));

  it('say what the driver said', () =>
    withThreads({ ...fewStages, copyToDevice: FAIL }, async (threads) => {
      threads.submitMemory(bytes, 0);
      const failure = await threads.wait(1);
      expect(failure).toEqual({ problem: 'driver', code: process.ppid, upload: 0 });
    }));

  it('stop when they are told to, and tell who waits', () =>
    withThreads(fewStages, async (threads) => {
      const waiting = threads.wait(1);
      threads.stop();
      expect(await waiting).toEqual({ problem: 'stopped', code: 0, upload: 0 });
    }));
});
