// Token ids → text, one token at a time: never half a character, and the same text as decoding all ids at once.
import type { Piece, TokenTable } from './token-table.ts';

export interface DetokenizerOptions {
  /** Leave out special tokens such as `<|eos|>`. */
  readonly skipSpecialTokens: boolean;
  /**
   * The ids begin a text (default false: they continue a prompt). SentencePiece vocabularies write a space before the
   * first word of a text; it is cut off there, but kept where the text goes on.
   */
  readonly isStart?: boolean;
}

const LOSSY_UTF8 = new TextDecoder('utf-8', { ignoreBOM: true });
const NO_BYTES = new Uint8Array(0);

/**
 * The text that `push` and `flush` return, put together, does not depend on how the ids are grouped: bytes wait until
 * their character is whole, and a sequence that can become none turns into U+FFFD as the WHATWG decoder has it.
 */
export class IncrementalDetokenizer {
  readonly #table: TokenTable;
  readonly #skipSpecialTokens: boolean;
  /** The beginning of a character whose other bytes have not come yet: at most 3 bytes. */
  #pending: Uint8Array = NO_BYTES;
  /** Characters that may still be cut off the start of the text. */
  #numToStrip: number;

  constructor(table: TokenTable, options: DetokenizerOptions) {
    this.#table = table;
    this.#skipSpecialTokens = options.skipSpecialTokens;
    this.#numToStrip = options.isStart === true ? table.leadingStrip.count : 0;
  }

  /** The text that this token completes; empty while a character is unfinished. */
  push(tokenId: number): string {
    if (this.#skipSpecialTokens && this.#table.isSpecial(tokenId)) return '';
    const piece = this.#table.piece(tokenId);
    const text = typeof piece === 'string' && this.#pending.length === 0 ? piece : this.#join(piece);
    return this.#numToStrip === 0 ? text : this.#strip(text);
  }

  /** The end of the text: an unfinished character becomes U+FFFD. */
  flush(): string {
    const text = LOSSY_UTF8.decode(this.#pending);
    this.#pending = NO_BYTES;
    return text;
  }

  #join(piece: Piece): string {
    if (piece.length === 0) return '';
    if (typeof piece === 'string') return this.flush() + piece;
    const bytes = concat(this.#pending, piece);
    const end = completeLength(bytes);
    this.#pending = bytes.slice(end);
    return LOSSY_UTF8.decode(bytes.subarray(0, end));
  }

  #strip(text: string): string {
    const { character } = this.#table.leadingStrip;
    let start = 0;
    while (this.#numToStrip > 0 && start < text.length) {
      if (text[start] !== character) {
        this.#numToStrip = 0;
      } else {
        this.#numToStrip--;
        start++;
      }
    }
    return text.slice(start);
  }
}

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  if (a.length === 0) return b;
  const bytes = new Uint8Array(a.length + b.length);
  bytes.set(a);
  bytes.set(b, a.length);
  return bytes;
}

/** Bytes before a character that is cut off at the end. A cut before a lead byte never changes what decoding gives. */
function completeLength(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) break;
    if (byte >= 0xc0) return sequenceLength(byte) > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}

function sequenceLength(leadByte: number): number {
  if (leadByte < 0xe0) return 2;
  return leadByte < 0xf0 ? 3 : 4;
}
