import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { MAX_STOP_STRING_LENGTH, MAX_STOP_STRINGS, StopStringMatcher } from './stop-strings.ts';

/** What the matcher must find in a whole text: the stop string that ends first; the longest of those that end there. */
function findStop(text: string, stopStrings: readonly string[]): { stopString: string; end: number } | null {
  for (let end = 1; end <= text.length; end++) {
    const found = stopStrings.filter((stopString) => text.slice(0, end).endsWith(stopString));
    const longest = found.sort((a, b) => b.length - a.length)[0];
    if (longest !== undefined) return { stopString: longest, end };
  }
  return null;
}

function run(chunks: readonly string[], stopStrings: readonly string[], includeStopString: boolean) {
  const matcher = new StopStringMatcher(stopStrings, { includeStopString });
  let text = '';
  let stopString: string | null = null;
  for (const chunk of chunks) {
    const result = matcher.push(chunk);
    text += result.text;
    stopString ??= result.stopString;
  }
  return { text: text + matcher.flush(), stopString };
}

// Few letters, so that stop strings overlap themselves and each other.
const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 12 });
const stopStrings = fc.array(
  fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 5 }),
  {
    maxLength: 4,
  },
);

describe('a stop string', () => {
  it('is found in any split of a text as in the whole', () => {
    fc.assert(
      fc.property(fc.array(text), stopStrings, fc.boolean(), (chunks, stops, include) => {
        const whole = chunks.join('');
        const stop = findStop(whole, stops);
        const end = stop === null ? whole.length : include ? stop.end : stop.end - stop.stopString.length;
        expect(run(chunks, stops, include)).toEqual({
          text: whole.slice(0, end),
          stopString: stop?.stopString ?? null,
        });
      }),
      { numRuns: 1000 },
    );
  });

  it('never leaks: what is sent on is no part of one, and what is held back could become one', () => {
    fc.assert(
      fc.property(fc.array(text), stopStrings, (chunks, stops) => {
        const matcher = new StopStringMatcher(stops, { includeStopString: false });
        let seen = '';
        let sent = '';
        for (const chunk of chunks) {
          const result = matcher.push(chunk);
          if (result.stopString !== null) return;
          seen += chunk;
          sent += result.text;
          const held = seen.slice(sent.length);
          expect(seen.startsWith(sent)).toBe(true);
          const beginsAt = (start: number) =>
            stops.some((stop) => stop.length > seen.length - start && stop.startsWith(seen.slice(start)));
          if (held !== '') expect(beginsAt(sent.length)).toBe(true);
          for (let start = 0; start < sent.length; start++) expect(beginsAt(start)).toBe(false);
        }
      }),
      { numRuns: 1000 },
    );
  });

  it('ends the text for good', () => {
    const matcher = new StopStringMatcher(['.'], { includeStopString: true });
    expect(matcher.push('one. two')).toEqual({ text: 'one.', stopString: '.' });
    expect(matcher.push(' three. ')).toEqual({ text: '', stopString: null });
    expect(matcher.flush()).toBe('');
  });

  it('never splits a character when text is held back', () => {
    const matcher = new StopStringMatcher(['😀!'], { includeStopString: false });
    expect(matcher.push('a😁').text).toBe('a😁');
    expect(matcher.push('b😀').text).toBe('b');
    expect(matcher.push('?').text).toBe('😀?');
  });

  it('lets everything through where there is none', () => {
    expect(run(['a', 'b'], [], false)).toEqual({ text: 'ab', stopString: null });
  });
});

describe('stop strings are refused that', () => {
  it.each([
    ['are too many', Array.from({ length: MAX_STOP_STRINGS + 1 }, () => 'a'), /there are \d+ stop strings/],
    ['are a million', Array.from({ length: 1_000_000 }, () => 'a'), /there are 1000000 stop strings/],
    ['are too long', ['a'.repeat(MAX_STOP_STRING_LENGTH + 1)], /has \d+ characters, but at most/],
    ['are empty', ['a', ''], /must not be empty/],
    ['are half a character', ['\ud83d'], /half a surrogate pair/],
  ])('%s', (_, stops, message) => {
    expect(() => new StopStringMatcher(stops, { includeStopString: false })).toThrow(message);
  });
});
