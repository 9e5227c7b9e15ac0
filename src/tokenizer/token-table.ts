// Token id → the text or bytes it stands for, as the decoder section of tokenizer.json defines it.
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject } from '../util/json-file.ts';

/** A string if the token is whole characters by itself; bytes if it may be a part of one. */
export type Piece = string | Uint8Array;

export interface TokenTableOptions {
  /** The `decoder` section of tokenizer.json. */
  readonly decoder: unknown;
  /** One more than the highest id. */
  readonly size: number;
  readonly tokenOf: (id: number) => string | undefined;
  /** Ids of added tokens: their content is text, not byte-level code. */
  readonly addedIds: ReadonlySet<number>;
  readonly specialIds: ReadonlySet<number>;
}

/** What a decoder section says, in the order in which it is applied to a token. */
interface DecodeRules {
  readonly rewrites: ((token: string) => string)[];
  isByteLevel: boolean;
  hasByteFallback: boolean;
  isFused: boolean;
  leadingStrip: LeadingStrip;
}

/** Up to `count` characters equal to `character` are cut off the beginning of a text. */
export interface LeadingStrip {
  readonly character: string;
  readonly count: number;
}

/** Pieces are made when first asked for: a table of 100,000s of tokens costs nothing at start. */
export class TokenTable {
  readonly leadingStrip: LeadingStrip;
  readonly #options: TokenTableOptions;
  readonly #rules: DecodeRules;
  readonly #pieces: Piece[] = [];

  /** @throws NeedletailError `unsupported_model` for a decoder whose text cannot be streamed. */
  constructor(options: TokenTableOptions) {
    this.#options = options;
    this.#rules = compileDecoder(options.decoder);
    this.leadingStrip = this.#rules.leadingStrip;
  }

  /** Ids that no token has (vocabularies are often padded) are empty text. */
  piece(id: number): Piece {
    if (!(id >= 0 && id < this.#options.size)) return '';
    return (this.#pieces[id] ??= this.#makePiece(id));
  }

  isSpecial(id: number): boolean {
    return this.#options.specialIds.has(id);
  }

  #makePiece(id: number): Piece {
    const token = this.#options.tokenOf(id);
    if (token === undefined) return '';
    if (this.#rules.isByteLevel) return this.#options.addedIds.has(id) ? token : fromByteLevel(token);
    const byte = this.#rules.hasByteFallback ? fallbackByte(token) : null;
    if (byte !== null) return byte < 0x80 ? String.fromCharCode(byte) : Uint8Array.of(byte);
    return this.#rules.rewrites.reduce((text, rewrite) => rewrite(text), token);
  }
}

function compileDecoder(decoder: unknown): DecodeRules {
  const rules: DecodeRules = {
    rewrites: [],
    isByteLevel: false,
    hasByteFallback: false,
    isFused: false,
    leadingStrip: { character: ' ', count: 0 },
  };
  for (const step of decoderSteps(decoder)) addStep(rules, step);
  return rules;
}

function decoderSteps(decoder: unknown): JsonObject[] {
  if (!isJsonObject(decoder)) throw unsupported('none');
  if (decoder['type'] !== 'Sequence') return [decoder];
  const steps = decoder['decoders'];
  if (!Array.isArray(steps) || !steps.every(isJsonObject)) throw unsupported('a sequence without steps');
  return steps;
}

function addStep(rules: DecodeRules, step: JsonObject): void {
  switch (step['type']) {
    case 'ByteLevel':
      rules.isByteLevel = true;
      return;
    case 'ByteFallback':
      rules.hasByteFallback = true;
      return;
    case 'Fuse':
      rules.isFused = true;
      return;
    case 'Replace':
      rules.rewrites.push(replaceStep(step));
      return;
    case 'Metaspace':
      rules.rewrites.push((token) => token.replaceAll(stringField(step, 'replacement', '▁'), ' '));
      rules.leadingStrip = { character: ' ', count: step['prepend_scheme'] === 'never' ? 0 : 1 };
      return;
    case 'Strip':
      rules.leadingStrip = stripStep(step, rules.isFused);
      return;
    default:
      throw unsupported(String(step['type']));
  }
}

function replaceStep(step: JsonObject): (token: string) => string {
  const { pattern } = step;
  const content = stringField(step, 'content', '');
  if (isJsonObject(pattern) && typeof pattern['String'] === 'string') {
    const text = pattern['String'];
    return (token) => token.replaceAll(text, () => content);
  }
  if (isJsonObject(pattern) && typeof pattern['Regex'] === 'string') {
    const regex = new RegExp(pattern['Regex'], 'gu');
    return (token) => token.replace(regex, () => content);
  }
  throw unsupported('Replace without a pattern');
}

function stripStep(step: JsonObject, isFused: boolean): LeadingStrip {
  const { start = 0, stop = 0 } = step;
  if (!isFused || stop !== 0 || typeof start !== 'number')
    throw unsupported('Strip of anything but the start');
  return { character: stringField(step, 'content', ' '), count: start };
}

function stringField(object: JsonObject, name: string, fallback: string): string {
  const value = object[name];
  return typeof value === 'string' ? value : fallback;
}

function unsupported(what: string): NeedletailError {
  return new NeedletailError(
    'unsupported_model',
    `tokenizer.json: the decoder ${what} is not supported; supported are ByteLevel, Metaspace and sequences of ` +
      'Replace, ByteFallback, Fuse and Strip',
  );
}

const FALLBACK_BYTE = /^<0x([0-9A-Fa-f]{2})>$/;

/** `<0x0A>` → 10. */
function fallbackByte(token: string): number | null {
  const match = FALLBACK_BYTE.exec(token);
  return match ? parseInt(match[1], 16) : null;
}

const UTF8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Byte-level tokens spell each byte as one printable character. */
function fromByteLevel(token: string): Piece {
  const bytes: number[] = [];
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) return token;
    bytes.push(byte);
  }
  try {
    return UTF8.decode(Uint8Array.from(bytes));
  } catch {
    return Uint8Array.from(bytes);
  }
}

const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = byteLevelAlphabet();

/** GPT-2's alphabet: printable Latin-1 stands for itself, every other byte for a character from U+0100 on, in order. */
function byteLevelAlphabet(): Map<string, number> {
  const isPrintable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const alphabet = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    alphabet.set(String.fromCharCode(isPrintable(byte) ? byte : next++), byte);
  }
  return alphabet;
}
