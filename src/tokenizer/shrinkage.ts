// By how much a tokenizer may shorten a text before it looks up tokens: bounds a token count before anything is encoded.
import { isJsonObject, type JsonObject } from '../util/json-file.ts';

/** Normalizers that write at least as many characters as they read, but for composition. */
const KEEPING_NORMALIZERS: ReadonlySet<unknown> = new Set([
  'ByteLevel',
  'Prepend',
  'NFC',
  'NFD',
  'NFKC',
  'NFKD',
]);
const KEEPING_SPLITTERS: ReadonlySet<unknown> = new Set([
  'ByteLevel',
  'Metaspace',
  'Digits',
  'Punctuation',
  'Split',
]);

/** The longest canonical decomposition, which NFC and NFKC make one character again. */
const MAX_COMPOSED = 4;

/**
 * How many characters of a text one character of a token's spelling can stand for: 1 (byte-level spelling is never
 * shorter than the text), more where characters are composed, Infinity where any number may vanish because a normalizer
 * or splitter drops them or unknown ones become one token.
 * @param json tokenizer.json
 */
export function maxShrinkage(json: JsonObject): number {
  const normalizers = stepsOf(json['normalizer'], 'normalizers');
  const splitters = stepsOf(json['pre_tokenizer'], 'pretokenizers');
  const isKept = normalizers.every(keepsLength) && splitters.every(keepsText);
  if (!isKept || !knowsEveryByte(json, [...normalizers, ...splitters])) return Infinity;
  return normalizers.some(({ type }) => type === 'NFC' || type === 'NFKC') ? MAX_COMPOSED : 1;
}

/** Whether a special token swallows the white space beside it, however much that is. */
export function stripsSpaces({ added_tokens: tokens }: JsonObject): boolean {
  return (
    Array.isArray(tokens) &&
    tokens.filter(isJsonObject).some(({ lstrip, rstrip }) => lstrip === true || rstrip === true)
  );
}

function stepsOf(step: unknown, list: string): JsonObject[] {
  if (!isJsonObject(step)) return [];
  const steps = step[list];
  return Array.isArray(steps) ? steps.flatMap((inner) => stepsOf(inner, list)) : [step];
}

function keepsLength({ type, pattern, content }: JsonObject): boolean {
  if (type !== 'Replace') return KEEPING_NORMALIZERS.has(type);
  const replaced = isJsonObject(pattern) ? pattern['String'] : undefined;
  return typeof replaced === 'string' && typeof content === 'string' && content.length >= replaced.length;
}

function keepsText({ type, behavior }: JsonObject): boolean {
  return KEEPING_SPLITTERS.has(type) && behavior !== 'Removed';
}

function knowsEveryByte({ model }: JsonObject, steps: readonly JsonObject[]): boolean {
  const { type, byte_fallback: byteFallback } = isJsonObject(model) ? model : {};
  return type === 'BPE' && (byteFallback === true || steps.some((step) => step['type'] === 'ByteLevel'));
}
