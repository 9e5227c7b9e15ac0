// The engine's door: a request is refused here, with what to change, or it can be run to its end.
import { NeedletailError } from '../util/errors.ts';
import type { EngineInfo, EngineRequest } from './protocol.ts';
import type { SamplingParams } from './sampling-params.ts';

const MAX_SEED = 2n ** 64n - 1n;
const MAX_CACHE_SALT_LENGTH = 1024;

export function duplicateRequest(requestId: string): NeedletailError {
  return new NeedletailError('invalid_request', `a request with id ${requestId} is in flight already`);
}

/** Throws `invalid_request` or `context_length_exceeded`. */
export function checkRequest(
  request: EngineRequest,
  info: Pick<EngineInfo, 'maxModelLen' | 'vocabSize'>,
): void {
  const { promptTokenIds, sampling, timeoutMs } = request;
  checkPrompt(promptTokenIds, sampling, info);
  checkSampling(sampling, info.vocabSize);
  check(Number.isSafeInteger(request.priority), 'priority', 'must be an integer');
  check(timeoutMs === null || timeoutMs > 0, 'timeout_ms', 'must be above 0');
  check(
    request.cacheSalt.length <= MAX_CACHE_SALT_LENGTH,
    'cache_salt',
    `has over ${MAX_CACHE_SALT_LENGTH} characters`,
  );
}

function checkPrompt(
  tokenIds: Int32Array,
  { maxTokens }: SamplingParams,
  { maxModelLen, vocabSize }: Pick<EngineInfo, 'maxModelLen' | 'vocabSize'>,
): void {
  check(tokenIds.length > 0, 'prompt', 'must have at least one token');
  if (tokenIds.length + Math.min(maxTokens, 1) > maxModelLen)
    throw new NeedletailError(
      'context_length_exceeded',
      `the prompt has ${tokenIds.length} tokens, which leaves no room for output in the context of ${maxModelLen} tokens; shorten it`,
      { param: 'prompt' },
    );
  checkTokenIds(tokenIds, 'prompt', vocabSize);
}

function checkSampling(sampling: SamplingParams, vocabSize: number): void {
  checkRange(sampling.temperature, 'temperature', 0, 100);
  checkInteger(sampling.topK, 'top_k', 0);
  check(sampling.topP > 0 && sampling.topP <= 1, 'top_p', 'must be above 0 and at most 1');
  checkRange(sampling.minP, 'min_p', 0, 1);
  checkRange(sampling.repetitionPenalty, 'repetition_penalty', 0.01, 100);
  checkRange(sampling.presencePenalty, 'presence_penalty', -2, 2);
  checkRange(sampling.frequencyPenalty, 'frequency_penalty', -2, 2);
  check(sampling.seed >= 0n && sampling.seed <= MAX_SEED, 'seed', 'must be an unsigned 64-bit integer');
  checkInteger(sampling.n, 'n', 1);
  checkInteger(sampling.maxTokens, 'max_tokens', 0);
  checkInteger(sampling.minTokens, 'min_tokens', 0);
  check(sampling.minTokens <= sampling.maxTokens, 'min_tokens', 'must not exceed max_tokens');
  checkTokenIds(sampling.stopTokenIds, 'stop_token_ids', vocabSize);
  for (const { tokenId, bias } of sampling.logitBias) {
    checkTokenIds([tokenId], 'logit_bias', vocabSize);
    check(bias < Infinity, 'logit_bias', 'must be numbers');
  }
  checkNumLogprobs(sampling.logprobs, 'logprobs', vocabSize);
  checkNumLogprobs(sampling.promptLogprobs, 'prompt_logprobs', vocabSize);
}

function check(holds: boolean, param: string, complaint: string): void {
  if (!holds) throw new NeedletailError('invalid_request', `${param} ${complaint}`, { param });
}

function checkRange(value: number, param: string, min: number, max: number): void {
  check(value >= min && value <= max, param, `must lie in [${min}, ${max}]`);
}

function checkInteger(value: number, param: string, min: number): void {
  check(Number.isSafeInteger(value) && value >= min, param, `must be an integer of at least ${min}`);
}

function checkNumLogprobs(value: number | null, param: string, vocabSize: number): void {
  if (value === null) return;
  checkInteger(value, param, 0);
  check(value <= vocabSize, param, `must be at most the vocabulary's size, ${vocabSize}`);
}

function checkTokenIds(tokenIds: ArrayLike<number>, param: string, vocabSize: number): void {
  for (let i = 0; i < tokenIds.length; i++) {
    const id = tokenIds[i];
    if (!Number.isInteger(id) || id < 0 || id >= vocabSize)
      check(false, param, `holds token id ${id}; ids of this model go from 0 to ${vocabSize - 1}`);
  }
}
