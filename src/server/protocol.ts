// Every request field that the server accepts. A field that is not here is refused by name, never ignored.
import { z } from 'zod';
import * as field from '../llm/fields.ts';
import { chatTemplateKwargs, messages, prompts } from './protocol-values.ts';

const MAX_DETOKENIZED = 2 ** 18;

/** Accepted only without a value: clients send null for what they do not use. */
const unsupported = z.null('is not supported by this server').optional();

/** Accepted only with the one value that asks for what the server does anyway. */
const only = <const T extends string | number | boolean>(value: T) =>
  z.literal(value, `only ${JSON.stringify(value)} is supported`).nullish();

/** Fields that change nothing about the answer: the caller's own labels, or requests for what is done anyway. */
const inertFields = {
  user: z.string().max(512).nullish(),
  metadata: z
    .record(z.string().max(64), z.string().max(512))
    .refine((labels) => Object.keys(labels).length <= 16, 'has at most 16 entries')
    .nullish(),
  store: only(false),
  service_tier: z.enum(['auto', 'default']).nullish(),
  use_beam_search: only(false),
  response_format: z.strictObject({ type: z.literal('text', 'only "text" is supported') }).nullish(),
  // Hugging Face's fast tokenizers, and so ours, give the same text with and without.
  spaces_between_special_tokens: z.boolean().nullish(),
};

const samplingFields = {
  temperature: field.temperature.nullish(),
  top_p: field.topP.nullish(),
  top_k: field.topK.nullish(),
  min_p: field.minP.nullish(),
  repetition_penalty: field.repetitionPenalty.nullish(),
  presence_penalty: field.presencePenalty.nullish(),
  frequency_penalty: field.frequencyPenalty.nullish(),
  logit_bias: field.logitBias.nullish(),
  seed: field.seed.nullish(),
  n: field.n.nullish(),
  max_tokens: field.maxTokens.nullish(),
  max_completion_tokens: field.maxTokens.nullish(), // the newer name; some clients send both to both endpoints
  min_tokens: field.minTokens.nullish(),
  stop: field.stop.nullish(),
  stop_token_ids: field.stopTokenIds.nullish(),
  ignore_eos: z.boolean().nullish(),
  include_stop_str_in_output: z.boolean().nullish(),
  skip_special_tokens: z.boolean().nullish(),
  add_special_tokens: z.boolean().nullish(),
  prompt_logprobs: field.numLogprobs.nullish(),
  echo: z.boolean().nullish(),
  priority: field.priority.nullish(),
  timeout_ms: field.timeoutMs.nullish(),
  cache_salt: field.cacheSalt.nullish(),
};

const responseFields = {
  model: z.string().max(512).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z
    .strictObject({ include_usage: z.boolean().nullish(), continuous_usage_stats: z.boolean().nullish() })
    .nullish(),
  return_token_ids: z.boolean().nullish(),
  return_tokens_as_token_ids: z.boolean().nullish(),
};

const templateFields = {
  add_generation_prompt: z.boolean().nullish(),
  continue_final_message: z.boolean().nullish(),
  chat_template_kwargs: chatTemplateKwargs.nullish(),
};

export const completionRequest = z
  .strictObject({
    ...inertFields,
    ...samplingFields,
    ...responseFields,
    prompt: prompts,
    logprobs: field.numLogprobs.nullish(),
    best_of: only(1),
    suffix: unsupported,
  })
  .superRefine(checkCommonFields);

export const chatRequest = z
  .strictObject({
    ...inertFields,
    ...samplingFields,
    ...responseFields,
    ...templateFields,
    messages,
    add_special_tokens: only(false),
    logprobs: z.boolean().nullish(),
    top_logprobs: field.numLogprobs.nullish(),
    modalities: z.tuple([z.literal('text')], 'only ["text"] is supported').nullish(),
    tools: unsupported,
    tool_choice: only('none'),
  })
  .superRefine(checkCommonFields)
  .superRefine((request, context) => {
    if (request.logprobs !== true && isGiven(request.top_logprobs)) {
      refuse(context, 'top_logprobs', 'only goes with logprobs: true');
    }
  });

export const tokenizeRequest = z
  .strictObject({
    ...templateFields,
    model: responseFields.model,
    prompt: z.string().nullish(),
    messages: messages.nullish(),
    add_special_tokens: z.boolean().nullish(),
    return_token_strs: z.boolean().nullish(),
  })
  .superRefine((request, context) => {
    if (isGiven(request.prompt) === isGiven(request.messages)) {
      refuse(context, 'prompt', 'give either prompt or messages');
    }
  });

export const detokenizeRequest = z.strictObject({
  model: responseFields.model,
  tokens: field.tokenIds.refine(
    ({ length }) => length <= MAX_DETOKENIZED,
    `has at most ${MAX_DETOKENIZED} elements`,
  ),
});

export type CompletionRequest = z.output<typeof completionRequest>;
export type ChatRequest = z.output<typeof chatRequest>;
export type TokenizeRequest = z.output<typeof tokenizeRequest>;

/** What completions and chat have in common. */
export type CommonRequest = Omit<
  CompletionRequest,
  'prompt' | 'logprobs' | 'best_of' | 'suffix' | 'add_special_tokens'
>;

interface CommonFields {
  readonly stream?: boolean | null | undefined;
  readonly stream_options?: object | null | undefined;
  readonly prompt_logprobs?: number | null | undefined;
  readonly max_tokens?: number | null | undefined;
  readonly max_completion_tokens?: number | null | undefined;
}

/** What one field alone cannot tell. */
function checkCommonFields(request: CommonFields, context: z.RefinementCtx): void {
  const { stream, stream_options, prompt_logprobs, max_tokens, max_completion_tokens } = request;
  if (stream !== true && isGiven(stream_options)) {
    refuse(context, 'stream_options', 'only goes with stream: true');
  }
  if (stream === true && isGiven(prompt_logprobs)) {
    refuse(context, 'prompt_logprobs', 'does not go with stream: true');
  }
  if (isGiven(max_tokens) && isGiven(max_completion_tokens) && max_tokens !== max_completion_tokens) {
    refuse(context, 'max_tokens', 'is the older name of max_completion_tokens, which has another value');
  }
}

function isGiven(value: unknown): boolean {
  return value !== null && value !== undefined;
}

function refuse(context: z.RefinementCtx, name: string, message: string): void {
  context.addIssue({ code: 'custom', path: [name], message });
}
