// Finds stop strings in streamed text and holds back only what could still become one.
import { NeedletailError } from '../util/errors.ts';

export const MAX_STOP_STRINGS = 64;
/** In UTF-16 code units. */
export const MAX_STOP_STRING_LENGTH = 1024;

export interface StopResult {
  /** Text that may be sent on: it is no part of any stop string. */
  readonly text: string;
  /** The stop string that ended the output, with the push that completed it. */
  readonly stopString: string | null;
}

/** Progress of one stop string: Knuth, Morris and Pratt's automaton, so that text is read once. */
interface Pattern {
  readonly stopString: string;
  /** Length of the longest border (proper prefix that is a suffix) of the first i + 1 characters. */
  readonly borders: Int32Array;
  numMatched: number;
}

/**
 * The stop string that ends first wins, among those that end together the longest; so the result does not depend on
 * how the text was split into pushes. Each character costs a constant amount of work per stop string.
 */
export class StopStringMatcher {
  readonly #patterns: readonly Pattern[];
  readonly #includeStopString: boolean;
  #held = '';
  #isStopped = false;

  /** @throws NeedletailError `invalid_request` for empty, broken, too many or too long stop strings. */
  constructor(stopStrings: readonly string[], options: { readonly includeStopString: boolean }) {
    checkStopStrings(stopStrings);
    this.#patterns = stopStrings.map((stopString) => ({
      stopString,
      borders: bordersOf(stopString),
      numMatched: 0,
    }));
    this.#includeStopString = options.includeStopString;
  }

  /** After a stop string was found, further text is dropped. */
  push(text: string): StopResult {
    if (this.#isStopped) return { text: '', stopString: null };
    if (this.#patterns.length === 0) return { text, stopString: null };
    const held = this.#held + text;
    for (let i = 0; i < text.length; i++) {
      const stopString = this.#advance(text.charCodeAt(i));
      if (stopString !== null) return this.#stop(held, this.#held.length + i + 1, stopString);
    }
    const numHeld = this.#patterns.reduce((most, { numMatched }) => Math.max(most, numMatched), 0);
    this.#held = held.slice(held.length - numHeld);
    return { text: held.slice(0, held.length - numHeld), stopString: null };
  }

  /** What was held back when the output ended without a stop string. */
  flush(): string {
    const text = this.#held;
    this.#held = '';
    return text;
  }

  #advance(codeUnit: number): string | null {
    let found: string | null = null;
    for (const pattern of this.#patterns) {
      const isComplete = advance(pattern, codeUnit);
      if (isComplete && pattern.stopString.length > (found?.length ?? 0)) found = pattern.stopString;
    }
    return found;
  }

  #stop(held: string, end: number, stopString: string): StopResult {
    this.#isStopped = true;
    this.#held = '';
    return { text: held.slice(0, this.#includeStopString ? end : end - stopString.length), stopString };
  }
}

function checkStopStrings(stopStrings: readonly string[]): void {
  if (stopStrings.length > MAX_STOP_STRINGS) {
    throw invalidStop(
      `there are ${stopStrings.length} stop strings, but at most ${MAX_STOP_STRINGS} are allowed`,
    );
  }
  for (const stopString of stopStrings) {
    if (stopString.length === 0) throw invalidStop('a stop string must not be empty');
    if (stopString.length > MAX_STOP_STRING_LENGTH) {
      throw invalidStop(
        `a stop string has ${stopString.length} characters, but at most ${MAX_STOP_STRING_LENGTH}`,
      );
    }
    if (/\p{Surrogate}/u.test(stopString)) throw invalidStop('a stop string holds half a surrogate pair');
  }
}

function invalidStop(message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param: 'stop' });
}

function bordersOf(text: string): Int32Array {
  const borders = new Int32Array(text.length);
  for (let i = 1, length = 0; i < text.length; i++) {
    while (length > 0 && text[i] !== text[length]) length = borders[length - 1]!;
    if (text[i] === text[length]) length++;
    borders[i] = length;
  }
  return borders;
}

/** True if `codeUnit` completes the pattern. */
function advance(pattern: Pattern, codeUnit: number): boolean {
  const { stopString, borders } = pattern;
  let length = pattern.numMatched;
  while (length > 0 && stopString.charCodeAt(length) !== codeUnit) length = borders[length - 1]!;
  if (stopString.charCodeAt(length) === codeUnit) length++;
  pattern.numMatched = length;
  return length === stopString.length;
}
