// Cuts a text's tokens into the windows that a model reads, and says which tokens of each count.
import { NeedletailError } from '../util/errors.ts';

export interface WindowOptions {
  /** Tokens of a window, the leading one included. */
  readonly windowLen: number;
  /** From one window's start to the next: `windowLen` for windows that do not overlap. */
  readonly stride: number;
  /** Stands at the start of every window, before the text's tokens; null for models without one. */
  readonly bosTokenId: number | null;
}

export interface TokenWindow {
  readonly tokenIds: Int32Array;
  /** The first token that counts: all before it are context that an earlier window counted. At least 1. */
  readonly firstScored: number;
}

/**
 * Every token of the text counts once, but for the first where nothing stands before it. What a window shares with the
 * one before is context only. Throws `invalid_request` for a text of fewer than two tokens, windows in which nothing can be
 * predicted, and windows with unread text between them.
 */
export function tokenWindows(
  tokenIds: Int32Array,
  { windowLen, stride, bosTokenId }: WindowOptions,
): readonly TokenWindow[] {
  if (windowLen < 2) throw refused('window', `a window has two tokens at least, not ${windowLen}`);
  if (stride < 1 || stride > windowLen)
    throw refused(
      'stride',
      `windows of ${windowLen} tokens can start 1 to ${windowLen} apart, not ${stride}`,
    );
  const prefix = bosTokenId === null ? [] : [bosTokenId];
  const room = windowLen - prefix.length;
  const step = Math.min(stride, room);
  const windows: TokenWindow[] = [];
  for (let start = 0, numCounted = 0; numCounted < tokenIds.length; start += step) {
    const end = Math.min(start + room, tokenIds.length);
    const ids = Int32Array.from([...prefix, ...tokenIds.subarray(start, end)]);
    const firstScored = Math.max(1, prefix.length + numCounted - start);
    if (firstScored < ids.length) windows.push({ tokenIds: ids, firstScored });
    numCounted = end;
  }
  if (windows.length > 0) return windows;
  throw refused('text', 'the text has fewer than two tokens: there is nothing to predict');
}

/** Throws `invalid_request` naming a token that the model does not have. */
export function checkVocabulary(windows: readonly TokenWindow[], vocabSize: number): void {
  for (const { tokenIds } of windows) {
    const foreign = tokenIds.find((id) => id < 0 || id >= vocabSize);
    if (foreign !== undefined)
      throw refused('text', `token ${foreign} is outside of the vocabulary of ${vocabSize}`);
  }
}

function refused(param: string, message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param });
}
