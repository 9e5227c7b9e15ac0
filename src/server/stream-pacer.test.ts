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

test('streams wait the longer the more there are, up to the limit, and wake together', async () => {
  for (const [numStreams, waitMs] of [
    [10, 6],
    [1000, 20],
  ]) {
    const { pacer, streams } = openStreams(numStreams, 20);
    const woken = vi.fn();
    const waits = streams.slice(0, 2).map((stream) => stream.next()!.then(woken));
    await vi.advanceTimersByTimeAsync(waitMs - 1);
    pacer.onStep();
    await Promise.resolve();
    expect(woken).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    await Promise.all(waits);
    expect(woken).toHaveBeenCalledTimes(2);
  }
});

test('the last outputs of a stream do not wait', async () => {
  const { pacer, streams } = openStreams(100, 20);
  let isComplete = false;
  const [woken, others] = [vi.fn(), vi.fn()];
  void pacer
    .open(() => isComplete)
    .next()!
    .then(woken);
  void streams[0].next()!.then(others);
  isComplete = true;
  pacer.onStep();
  await Promise.resolve();
  expect(woken).toHaveBeenCalledOnce();
  expect(others).not.toHaveBeenCalled();
});

test('a stream that has closed counts no more', () => {
  const { streams } = openStreams(2, 20);
  expect(streams[0].next()).not.toBeNull();
  streams[0].close();
  expect(streams[1].next()).toBeNull();
});
