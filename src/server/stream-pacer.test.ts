import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { StreamPacer } from './stream-pacer.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function openStreams(numStreams: number, maxIntervalMs: number) {
  const pacer = new StreamPacer(maxIntervalMs);
  return { pacer, streams: Array.from({ length: numStreams }, () => pacer.open(() => false)) };
}

test('a single stream never waits, nor does any without a limit', () => {
  expect(openStreams(1, 20).streams[0].next()).toBeNull();
  expect(openStreams(100, 0).streams[0].next()).toBeNull();
});

test.each([
  [10, 6],
  [1000, 20],
])(
  '%i streams take turns: each is written to once in %i ms, after a step',
  async (numStreams, intervalMs) => {
    const { pacer, streams } = openStreams(numStreams, 20);
    const woken = vi.fn();
    const wokenPerStep: number[] = [];
    for (const stream of streams) void stream.next()!.then(woken);
    for (let ms = 1; ms <= intervalMs; ms++) {
      await vi.advanceTimersByTimeAsync(1);
      const before = woken.mock.calls.length;
      pacer.onStep();
      await Promise.resolve();
      wokenPerStep.push(woken.mock.calls.length - before);
    }
    expect(woken).toHaveBeenCalledTimes(numStreams);
    expect(Math.max(...wokenPerStep)).toBeLessThanOrEqual(Math.ceil(numStreams / intervalMs) + 2);
  },
);

test('an engine that is silent holds nothing back', async () => {
  const { streams } = openStreams(100, 20);
  const woken = vi.fn();
  void streams[0].next()!.then(woken);
  await vi.advanceTimersByTimeAsync(20);
  expect(woken).toHaveBeenCalledOnce();
});

test('the last outputs of a stream are not held back', async () => {
  const { pacer } = openStreams(100, 20);
  const woken = vi.fn();
  let isComplete = false;
  void pacer
    .open(() => isComplete)
    .next()!
    .then(woken);
  isComplete = true;
  pacer.onStep();
  await Promise.resolve();
  expect(woken).toHaveBeenCalledOnce();
});

test('a stream that has closed counts no more', () => {
  const { streams } = openStreams(2, 20);
  expect(streams[0].next()).not.toBeNull();
  streams[0].close();
  expect(streams[1].next()).toBeNull();
});
