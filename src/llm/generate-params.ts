// What a caller may ask of a generation: the library's spelling of the parameters, checked at the door.
import { z } from 'zod';
import * as field from './fields.ts';
import { parseOrThrow } from './parse.ts';

type Maybe<T> = T | null | undefined;

/** Everything is optional; null and undefined mean the default: the model's own generation config, then off. */
export interface GenerateParams {
  /** 0 (or below 1e-5) takes the most likely token; up to 100. */
  readonly temperature?: Maybe<number>;
  /** In (0, 1]. */
  readonly topP?: Maybe<number>;
  /** 0 or −1: off. */
  readonly topK?: Maybe<number>;
  readonly minP?: Maybe<number>;
  readonly repetitionPenalty?: Maybe<number>;
  readonly presencePenalty?: Maybe<number>;
  readonly frequencyPenalty?: Maybe<number>;
  /** Token id → what is added to its logit, in [−100, 100]. */
  readonly logitBias?: Maybe<Readonly<Record<string, number>>>;
  /** Fixes the random numbers of this request; choice i uses seed + i. */
  readonly seed?: Maybe<number>;
  /** Independent choices. */
  readonly n?: Maybe<number>;
  /** Output tokens at most; 0 computes the prompt only. Default: what the context leaves. */
  readonly maxTokens?: Maybe<number>;
  /** Before so many tokens nothing but the context's end stops the output. */
  readonly minTokens?: Maybe<number>;
  /** Strings that end the output; they are cut off unless `includeStopStrInOutput`. */
  readonly stop?: Maybe<string | readonly string[]>;
  /** Token ids that end the output, beside the model's own end tokens. */
  readonly stopTokenIds?: Maybe<readonly number[]>;
  /** Go on after the model's end tokens. */
  readonly ignoreEos?: Maybe<boolean>;
  readonly includeStopStrInOutput?: Maybe<boolean>;
  /** Leave special tokens out of the text (default true). */
  readonly skipSpecialTokens?: Maybe<boolean>;
  /** Add the tokenizer's special tokens to a text prompt (default true; false for a rendered chat). */
  readonly addSpecialTokens?: Maybe<boolean>;
  /** k: log-probabilities of each output token and of the k most likely ones, at most 20. */
  readonly logprobs?: Maybe<number>;
  /** The same for the prompt's tokens. */
  readonly promptLogprobs?: Maybe<number>;
  /** Begin the output with the prompt. */
  readonly echo?: Maybe<boolean>;
  /** Lower runs first; needs the engine's `priority` policy. */
  readonly priority?: Maybe<number>;
  /** Give the request up after so many milliseconds. */
  readonly timeoutMs?: Maybe<number>;
  /** Share cached prefixes only with requests of an equal salt. */
  readonly cacheSalt?: Maybe<string>;
}

const generateParamsSchema: z.ZodType<GenerateParams> = z.strictObject({
  temperature: field.temperature.nullish(),
  topP: field.topP.nullish(),
  topK: field.topK.nullish(),
  minP: field.minP.nullish(),
  repetitionPenalty: field.repetitionPenalty.nullish(),
  presencePenalty: field.presencePenalty.nullish(),
  frequencyPenalty: field.frequencyPenalty.nullish(),
  logitBias: field.logitBias.nullish(),
  seed: field.seed.nullish(),
  n: field.n.nullish(),
  maxTokens: field.maxTokens.nullish(),
  minTokens: field.minTokens.nullish(),
  stop: field.stop.nullish(),
  stopTokenIds: field.stopTokenIds.nullish(),
  ignoreEos: z.boolean().nullish(),
  includeStopStrInOutput: z.boolean().nullish(),
  skipSpecialTokens: z.boolean().nullish(),
  addSpecialTokens: z.boolean().nullish(),
  logprobs: field.numLogprobs.nullish(),
  promptLogprobs: field.numLogprobs.nullish(),
  echo: z.boolean().nullish(),
  priority: field.priority.nullish(),
  timeoutMs: field.timeoutMs.nullish(),
  cacheSalt: field.cacheSalt.nullish(),
});

/** Throws `invalid_request` naming the first field that is unknown or out of bounds. */
export function parseGenerateParams(params: unknown): GenerateParams {
  return parseOrThrow(generateParamsSchema, params);
}
