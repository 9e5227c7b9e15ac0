// When a sequence ends: a stop token, its maximal length, the end of the context.
import type { FinishReason } from './protocol.ts';
import type { Sequence } from './sequence.ts';

/** Looks at the last token. The sampler bans stop tokens before `minTokens`, so that one found here counts. */
export function checkStop(sequence: Sequence): FinishReason | null {
  const { tokens, request } = sequence;
  if (sequence.numOutputTokens > 0 && request.stopTokenIds.has(tokens.at(tokens.length - 1))) return 'stop';
  return tokens.length >= sequence.maxNumTokens ? 'length' : null;
}
