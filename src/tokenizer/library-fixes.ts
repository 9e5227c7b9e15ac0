// Rewrites parts of tokenizer.json that @huggingface/tokenizers 0.2.0 reads otherwise than Hugging Face's own library.
import { isJsonObject, type JsonObject } from '../util/json-file.ts';

/** `json` with the pre-tokenizers that are misread replaced by others that say the same. */
export function withLibraryFixes(json: JsonObject): JsonObject {
  return { ...json, pre_tokenizer: fixPreTokenizer(json['pre_tokenizer']) };
}

function fixPreTokenizer(preTokenizer: unknown): unknown {
  if (!isJsonObject(preTokenizer)) return preTokenizer;
  switch (preTokenizer['type']) {
    case 'Sequence':
      return { ...preTokenizer, pretokenizers: fixAll(preTokenizer['pretokenizers']) };
    case 'Digits':
      return fixDigits(preTokenizer);
    case 'Metaspace':
      return fixMetaspace(preTokenizer);
    default:
      return preTokenizer;
  }
}

function fixAll(preTokenizers: unknown): unknown {
  return Array.isArray(preTokenizers) ? preTokenizers.map(fixPreTokenizer) : preTokenizers;
}

/** Digits of any script count, and ½ and ²; the library knows 0 to 9 only. */
function fixDigits(digits: JsonObject): JsonObject {
  return isolate(digits['individual_digits'] === true ? '\\p{N}' : '\\p{N}+');
}

/** Splits before every space, unless told not to; the library never does. */
function fixMetaspace(metaspace: JsonObject): JsonObject {
  const { replacement = '▁', split = true } = metaspace;
  if (split === false || typeof replacement !== 'string') return metaspace;
  const space = replacement.replace(/[\\\]^-]/, '\\$&');
  return { type: 'Sequence', pretokenizers: [metaspace, isolate(`[${space}][^${space}]*`)] };
}

/** Each match is a piece of its own, and so is the text between two. */
function isolate(regex: string): JsonObject {
  return { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false };
}
