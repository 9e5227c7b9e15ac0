// Keeps special tokens that stand in a user's text from taking effect.
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject } from '../util/json-file.ts';

/**
 * Breaks a special token apart: a noncharacter, which Unicode reserves for use inside a program. It is put in before a
 * chat template is rendered and taken out after the template's own special tokens were found.
 */
const MARK = '\ufdd0';
const MARKS = /\ufdd0/g;

const MAX_DEPTH = 64;

/**
 * A chat template writes special tokens around texts that others wrote. A text that spells `<|eos|>` must reach the
 * model as these seven characters: `protect` marks such places in every string of the template's input, so that the
 * rendered text holds only the special tokens that the template wrote. Strings that spell no part of a special token
 * come back unchanged, and an input that needs no marks is encoded exactly as Hugging Face does it.
 */
export class SpecialTokenGuard {
  readonly #starts: RegExp | null;
  readonly #occurrences: RegExp | null;
  readonly #prefixes: ReadonlySet<string>;
  readonly #suffixes: ReadonlySet<string>;
  readonly #maxLength: number;

  constructor(specialTokens: readonly string[]) {
    const tokens = specialTokens.filter((token) => token !== '').sort((a, b) => b.length - a.length);
    const anyToken = tokens.map(escapeRegExp).join('|');
    this.#starts = tokens.length > 0 ? new RegExp(`(?=${anyToken})([^])`, 'gu') : null;
    this.#occurrences = tokens.length > 0 ? new RegExp(anyToken, 'gu') : null;
    this.#prefixes = new Set(tokens.flatMap((token) => properPrefixes(token)));
    this.#suffixes = new Set(tokens.flatMap((token) => properSuffixes(token)));
    this.#maxLength = tokens[0]?.length ?? 0;
  }

  /**
   * `value` with marks in its strings, at any depth; the same object if none is needed.
   * @throws NeedletailError `invalid_request` if it is nested deeper than any template can read.
   */
  protect<T>(value: T): T {
    return this.#isRisky(value, 0) ? (this.#markStrings(value) as T) : value;
  }

  /** `text` with every special token in it, and every part of one at its ends, broken apart. */
  mark(text: string): string {
    return this.#markEnd(this.#markStart(this.breakTokens(text.replace(MARKS, '\ufffd'))));
  }

  /** `text` with every whole special token broken apart. */
  breakTokens(text: string): string {
    return this.#starts === null ? text : text.replace(this.#starts, `$1${MARK}`);
  }

  unmark(text: string): string {
    return text.replace(MARKS, '');
  }

  /** Special tokens that take effect in a marked text. */
  count(markedText: string): number {
    return this.#occurrences === null ? 0 : (markedText.match(this.#occurrences)?.length ?? 0);
  }

  #isRisky(value: unknown, depth: number): boolean {
    if (typeof value === 'string') return this.mark(value) !== value;
    if (typeof value !== 'object' || value === null) return false;
    if (depth > MAX_DEPTH) throw tooDeep();
    return Object.entries(value).some(
      ([key, element]) => this.breakTokens(key) !== key || this.#isRisky(element, depth + 1),
    );
  }

  #markStrings(value: unknown): unknown {
    if (typeof value === 'string') return this.mark(value);
    if (Array.isArray(value)) return value.map((element) => this.#markStrings(element));
    if (!isJsonObject(value)) return value;
    // Keys are quoted wherever a template writes them, so whole tokens are all that can take effect.
    const entries = Object.entries(value).map(([key, element]) => [
      this.breakTokens(key),
      this.#markStrings(element),
    ]);
    return Object.fromEntries(entries);
  }

  // A template may trim a text and put it next to another one, so the ends are looked for inside the white space.
  #markStart(text: string): string {
    const trimmed = text.trimStart();
    const start = text.length - trimmed.length;
    for (let length = 1; length < this.#maxLength && length <= trimmed.length; length++) {
      if (this.#suffixes.has(trimmed.slice(0, length))) return text.slice(0, start) + MARK + trimmed;
    }
    return text;
  }

  #markEnd(text: string): string {
    const trimmed = text.trimEnd();
    for (let length = 1; length < this.#maxLength && length <= trimmed.length; length++) {
      if (this.#prefixes.has(trimmed.slice(-length))) return trimmed + MARK + text.slice(trimmed.length);
    }
    return text;
  }
}

function tooDeep(): NeedletailError {
  return new NeedletailError(
    'invalid_request',
    `messages and tools may be nested ${MAX_DEPTH} levels deep at most`,
    {
      param: 'messages',
    },
  );
}

function properPrefixes(token: string): string[] {
  return Array.from({ length: token.length - 1 }, (_, i) => token.slice(0, i + 1));
}

function properSuffixes(token: string): string[] {
  return Array.from({ length: token.length - 1 }, (_, i) => token.slice(i + 1));
}

function escapeRegExp(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&');
}
