import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { StreamPacer } from './stream-pacer.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function pacerOf(numStreams: number, maxIntervalMs: number): StreamPacer {
  const pacer = new StreamPacer(maxIntervalMs);
  for (let i = 0; i < numStreams; i++) pacer.open();
  return pacer;
}

test('a single stream never waits, nor does any without a limit', () => {
  expect(pacerOf(1, 20).next()).toBeNull();
  expect(pacerOf(100, 0).next()).toBeNull();
});

test('streams wait the longer the more there are, up to the limit, and wake together', async () => {
  for (const [numStreams, waitMs] of [
    [10, 6],
    [1000, 20],
  ]) {
    const pacer = pacerOf(numStreams, 20);
    const woken = vi.fn();
    const waits = [pacer.next(), pacer.next()].map((wait) => wait!.then(woken));
    await vi.advanceTimersByTimeAsync(waitMs - 1);
    expect(woken).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    await Promise.all(waits);
    expect(woken).toHaveBeenCalledTimes(2);
  }
});

test('a stream that has closed counts no more', () => {
  const pacer = new StreamPacer(20);
  const close = [pacer.open(), pacer.open()];
  expect(pacer.next()).not.toBeNull();
  close[0]();
  vi.runAllTimers();
  expect(pacer.next()).toBeNull();
});
