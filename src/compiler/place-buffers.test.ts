import fc from 'fast-check';
import { expect, test } from 'vitest';
import { alignUp, placeBuffers, type Lifetime } from './place-buffers.ts';

const lifetimes = fc.array(
  fc
    .record({ bytes: fc.integer({ min: 1, max: 5000 }), start: fc.nat(30), length: fc.nat(8) })
    .map(({ bytes, start, length }): Lifetime => ({ bytes, firstUse: start, lastUse: start + length })),
  { maxLength: 40 },
);

/** The most bytes alive at any launch: no arena can be smaller. */
function peakBytes(buffers: readonly Lifetime[]): number {
  const atLaunch = (launch: number) =>
    buffers
      .filter((buffer) => buffer.firstUse <= launch && launch <= buffer.lastUse)
      .reduce((sum, buffer) => sum + alignUp(buffer.bytes), 0);
  return Math.max(0, ...buffers.map((buffer) => atLaunch(buffer.firstUse)));
}

test('buffers alive at the same time share no byte, all are aligned and inside the arena', () => {
  fc.assert(
    fc.property(lifetimes, (buffers) => {
      const { offsets, arenaBytes } = placeBuffers(buffers);
      for (const [i, a] of buffers.entries()) {
        expect(offsets[i] % 64).toBe(0);
        expect(offsets[i] + a.bytes).toBeLessThanOrEqual(arenaBytes);
        for (const [j, b] of buffers.entries()) {
          if (i >= j || a.firstUse > b.lastUse || b.firstUse > a.lastUse) continue;
          const apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
          expect(apart, `buffers ${i} and ${j}`).toBe(true);
        }
      }
    }),
  );
});

test('the arena is near the least possible, and exact for a chain of equal buffers', () => {
  fc.assert(
    fc.property(lifetimes, (buffers) => {
      expect(placeBuffers(buffers).arenaBytes).toBeLessThanOrEqual(2 * peakBytes(buffers));
    }),
  );
  const chain = Array.from({ length: 20 }, (_, i): Lifetime => ({ bytes: 100, firstUse: i, lastUse: i + 1 }));
  expect(placeBuffers(chain).arenaBytes).toBe(2 * 128);
});

test('nothing to place takes no memory', () => {
  expect(placeBuffers([])).toEqual({ offsets: [], arenaBytes: 0 });
});
