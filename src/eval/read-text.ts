// The text that a model is judged on: plain text that its tokenizer cuts, or token ids as they are.
import { readFile } from 'node:fs/promises';
import { Tokenizer } from '../tokenizer/tokenizer.ts';
import { NeedletailError } from '../util/errors.ts';

export interface EvaluationText {
  readonly tokenIds: Int32Array;
  /** What the tokenizer puts before a text; null if nothing, or for token ids as they are. */
  readonly bosTokenId: number | null;
  readonly bytes: Uint8Array;
}

/**
 * `.json`: an array of token ids. Anything else: UTF-8 text, tokenized as a whole with the tokenizer in `directory`.
 * Throws `invalid_request` for a file that cannot be read or is neither.
 */
export async function readEvaluationText(file: string, directory: string): Promise<EvaluationText> {
  const bytes = await readFile(file).catch((error: NodeJS.ErrnoException) => {
    const reason = error.code ?? error.message;
    throw refused(`${file} cannot be read (${reason}); name a UTF-8 text or a .json array of token ids`);
  });
  if (file.endsWith('.json')) return { tokenIds: parseIds(file, bytes), bosTokenId: null, bytes };
  const tokenizer = await Tokenizer.load(directory, {
    maxTextLength: Infinity,
    maxEncodeMs: Infinity,
  });
  const text = decodeUtf8(file, bytes);
  const tokenIds = await tokenizer.encodeLong(text, { addSpecialTokens: false });
  return { tokenIds, bosTokenId: leadingToken(tokenizer), bytes };
}

function decodeUtf8(file: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw refused(`${file} is no UTF-8 text`);
  }
}

function parseIds(file: string, bytes: Buffer): Int32Array {
  let ids: unknown;
  try {
    ids = JSON.parse(bytes.toString());
  } catch (error) {
    throw refused(`${file} is no JSON (${error instanceof Error ? error.message : String(error)})`);
  }
  if (Array.isArray(ids) && ids.every(isTokenId)) return Int32Array.from(ids);
  throw refused(`${file} is no array of token ids; give plain text under another ending than .json`);
}

function isTokenId(id: unknown): id is number {
  return Number.isInteger(id) && (id as number) >= 0 && (id as number) < 2 ** 31;
}

/** The start token, if the tokenizer adds it by itself. */
function leadingToken(tokenizer: Tokenizer): number | null {
  const [first] = tokenizer.encode('a', { addSpecialTokens: true });
  return first === tokenizer.bosTokenId ? first : null;
}

function refused(message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param: 'text' });
}
