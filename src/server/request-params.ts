// From the protocol's spelling of a request to the library's.
import type { GenerateParams } from '../llm/generate-params.ts';
import { NeedletailError } from '../util/errors.ts';
import type { ChatRequest, CommonRequest, CompletionRequest } from './protocol.ts';

/** OpenAI's default of the completions endpoint. */
const DEFAULT_COMPLETION_TOKENS = 16;

export function completionParams(request: CompletionRequest): GenerateParams {
  return {
    ...commonParams(request),
    maxTokens: maxTokensOf(request) ?? DEFAULT_COMPLETION_TOKENS,
    logprobs: request.logprobs,
    echo: request.echo,
    addSpecialTokens: request.add_special_tokens,
  };
}

/** A chat's `echo` is another thing (the last message, not the prompt), so it stays with the response. */
export function chatParams(request: ChatRequest): GenerateParams {
  return {
    ...commonParams(request),
    maxTokens: maxTokensOf(request),
    logprobs: request.logprobs === true ? (request.top_logprobs ?? 0) : null,
  };
}

function maxTokensOf(request: CommonRequest): number | null | undefined {
  return request.max_completion_tokens ?? request.max_tokens;
}

function commonParams(request: CommonRequest): GenerateParams {
  return {
    temperature: request.temperature,
    topP: request.top_p,
    topK: request.top_k,
    minP: request.min_p,
    repetitionPenalty: request.repetition_penalty,
    presencePenalty: request.presence_penalty,
    frequencyPenalty: request.frequency_penalty,
    logitBias: request.logit_bias,
    seed: request.seed,
    n: request.n,
    minTokens: request.min_tokens,
    stop: request.stop,
    stopTokenIds: request.stop_token_ids,
    ignoreEos: request.ignore_eos,
    includeStopStrInOutput: request.include_stop_str_in_output,
    skipSpecialTokens: request.skip_special_tokens,
    promptLogprobs: request.prompt_logprobs,
    priority: request.priority,
    timeoutMs: request.timeout_ms,
    cacheSalt: request.cache_salt,
  };
}

/** @throws NeedletailError `model_not_found` unless the server goes by that name. */
export function checkModel(asked: string | null | undefined, servedNames: readonly string[]): string {
  const model = asked ?? servedNames[0];
  if (servedNames.includes(model)) return model;
  throw new NeedletailError(
    'model_not_found',
    `the model ${JSON.stringify(model)} does not exist; this server has ${servedNames.join(', ')}`,
    { param: 'model' },
  );
}
