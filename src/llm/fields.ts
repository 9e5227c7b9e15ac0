// Schemas of single request fields with their bounds: shared by the library's parameters and the server's protocol.
import { z } from 'zod';
import { MAX_STOP_STRING_LENGTH } from '../tokenizer/stop-strings.ts';

const MAX_INT32 = 2 ** 31 - 1;

export const MAX_CHOICES = 128;
const MAX_LOGPROBS = 20;
const MAX_STOP_STRINGS = 16;
const MAX_STOP_TOKEN_IDS = 1024;
const MAX_LOGIT_BIASES = 1024;
const MAX_TIMEOUT_MS = 24 * 60 * 60 * 1000;

/** A list whose length is checked before any element is looked at, so that a huge one costs nothing. */
export function boundedList<T extends z.ZodType>(element: T, max: number, min = 0) {
  return z
    .custom<z.input<T>[]>((value) => Array.isArray(value) && value.length >= min && value.length <= max, {
      error: `must be a list of ${min} to ${max} elements`,
    })
    .pipe(z.array(element));
}

/** Token ids in a fast check of their own: prompts hold 100,000s of them. The vocabulary's bound is checked later. */
export const tokenIds = z.custom<number[]>(isTokenIds, {
  error: 'must be a list of token ids (integers from 0)',
});

export function isTokenIds(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((id) => Number.isInteger(id) && id >= 0 && id <= MAX_INT32);
}

const stopString = z
  .string()
  .min(1, 'a stop string must not be empty')
  .max(MAX_STOP_STRING_LENGTH, `a stop string has at most ${MAX_STOP_STRING_LENGTH} characters`);

export const temperature = z.number().min(0).max(100);
export const topP = z.number().gt(0).max(1);
/** −1 and 0 both mean off. */
export const topK = z.int().min(-1).max(MAX_INT32);
export const minP = z.number().min(0).max(1);
export const repetitionPenalty = z.number().min(0.01).max(100);
export const presencePenalty = z.number().min(-2).max(2);
export const frequencyPenalty = z.number().min(-2).max(2);
export const seed = z.int();
export const n = z.int().min(1).max(MAX_CHOICES);
export const maxTokens = z.int().min(0).max(MAX_INT32);
export const minTokens = z.int().min(0).max(MAX_INT32);
export const stop = z.preprocess(
  (value) => (typeof value === 'string' ? [value] : value),
  boundedList(stopString, MAX_STOP_STRINGS),
);
export const stopTokenIds = boundedList(z.int().min(0).max(MAX_INT32), MAX_STOP_TOKEN_IDS);
export const numLogprobs = z.int().min(0).max(MAX_LOGPROBS);
export const priority = z.int().min(-MAX_INT32).max(MAX_INT32);
export const timeoutMs = z.int().min(1).max(MAX_TIMEOUT_MS);
export const cacheSalt = z.string().min(1).max(256);

/** Token id → bias. */
export const logitBias = z
  .custom<Record<string, number>>(
    (value) => typeof value === 'object' && value !== null && Object.keys(value).length <= MAX_LOGIT_BIASES,
    { error: `must be an object of at most ${MAX_LOGIT_BIASES} entries` },
  )
  .pipe(z.record(z.string().regex(/^\d{1,10}$/, 'must be a token id'), z.number().min(-100).max(100)));
