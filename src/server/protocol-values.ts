// Schemas of the larger values in requests: prompts, chat messages, template arguments.
import { z } from 'zod';
import { boundedList, isTokenIds } from '../llm/fields.ts';

const MAX_PROMPTS = 1024;
const MAX_MESSAGES = 4096;
const MAX_CONTENT_PARTS = 1024;
const MAX_TEMPLATE_ARGS_LENGTH = 16_384;
const MAX_TEMPLATE_ARGS_DEPTH = 8;

/** A text or its token ids. */
export type PromptInput = string | number[];

/** A text, a list of texts, token ids, or a list of lists of token ids: always as a list of prompts. */
export const prompts = z.unknown().transform((value, context): PromptInput[] => {
  const list = toPromptList(value);
  if (typeof list !== 'string') return list;
  context.addIssue(list);
  return z.NEVER;
});

function toPromptList(value: unknown): PromptInput[] | string {
  if (typeof value === 'string') return [value];
  if (!Array.isArray(value) || value.length === 0) {
    return 'must be a string, a list of strings, a list of token ids, or a list of lists of token ids';
  }
  if (isTokenIds(value)) return [value];
  if (value.length > MAX_PROMPTS)
    return `has ${value.length} prompts, but at most ${MAX_PROMPTS} are allowed`;
  const isAlike = value.every((prompt) => typeof prompt === 'string') || value.every(isTokenIds);
  return isAlike ? value : 'must hold strings only, token ids only, or lists of token ids only';
}

const textPart = z.strictObject({
  type: z.literal('text', 'only parts of type text are supported'),
  text: z.string(),
});

/** A string or text parts, which are joined by line ends as other servers do for templates that know only strings. */
const content = z.preprocess(
  (value) => (typeof value === 'string' ? [{ type: 'text', text: value }] : value),
  boundedList(textPart, MAX_CONTENT_PARTS).transform((parts) => parts.map((part) => part.text).join('\n')),
);

/** `developer` is OpenAI's newer name of `system`, which is what chat templates know. */
const role = z
  .enum(['system', 'developer', 'user', 'assistant'], 'must be system, developer, user or assistant')
  .transform((name) => (name === 'developer' ? 'system' : name));

export const messages = boundedList(
  z.strictObject({ role, content, name: z.string().max(256).optional() }),
  MAX_MESSAGES,
  1,
);

/** Arguments for the chat template: JSON of bounded size and depth. */
export const chatTemplateKwargs = z.custom<Record<string, unknown>>(
  (value) =>
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    depthOf(value, MAX_TEMPLATE_ARGS_DEPTH) <= MAX_TEMPLATE_ARGS_DEPTH &&
    JSON.stringify(value).length <= MAX_TEMPLATE_ARGS_LENGTH,
  `must be an object of at most ${MAX_TEMPLATE_ARGS_LENGTH} characters and ${MAX_TEMPLATE_ARGS_DEPTH} levels`,
);

/** Levels of nesting, counted no further than `limit` + 1. */
function depthOf(value: unknown, limit: number): number {
  if (typeof value !== 'object' || value === null) return 0;
  if (limit === 0) return 1;
  return (
    1 + Object.values(value).reduce<number>((most, child) => Math.max(most, depthOf(child, limit - 1)), 0)
  );
}
