import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseEvents } from './sse.ts';

const BODY = 'data: {"a":"é"}\n\n: comment\n\nevent: x\ndata:one\ndata: two\r\n\r\ndata: [DONE]\n\n';

test('events survive any cut of their bytes and carry the time of their last chunk', () => {
  const bytes = new TextEncoder().encode(BODY);
  fc.assert(
    fc.property(fc.array(fc.nat(bytes.length)), (cuts) => {
      const borders = [0, ...cuts.sort((a, b) => a - b), bytes.length];
      const arrivals = borders
        .slice(1)
        .map((end, i) => ({ atMs: i, bytes: bytes.subarray(borders[i], end) }));
      const events = parseEvents(arrivals);
      expect(events.map((event) => event.data)).toEqual(['{"a":"é"}', 'one\ntwo', '[DONE]']);
      const endOf = (text: string) =>
        new TextEncoder().encode(BODY.slice(0, BODY.indexOf(text) + text.length)).length;
      expect(events[0].atMs).toBe(borders.slice(1).findIndex((end) => end >= endOf('"}\n\n')));
    }),
  );
});

test('an event that never ended is none', () => {
  expect(parseEvents([{ atMs: 0, bytes: new TextEncoder().encode('data: half') }])).toEqual([]);
});
