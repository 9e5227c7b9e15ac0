// generation_config.json: the end tokens and the sampling that the model's authors recommend.
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject } from '../util/json-file.ts';
import { readCheckpointJson } from './hf-config.ts';

/** null: the file says nothing. */
export interface GenerationConfig {
  /** Any of them ends the output; empty if neither this file nor config.json names one: then ask the tokenizer. */
  readonly eosTokenIds: readonly number[];
  readonly bosTokenId: number | null;
  readonly padTokenId: number | null;
  /** false: the authors recommend the most likely token. */
  readonly doSample: boolean | null;
  readonly temperature: number | null;
  readonly topP: number | null;
  readonly topK: number | null;
  readonly minP: number | null;
  readonly repetitionPenalty: number | null;
  readonly maxNewTokens: number | null;
}

/**
 * @param config config.json, whose end tokens count where generation_config.json has none
 * @throws NeedletailError `bad_checkpoint` naming the field that is no number or out of bounds.
 */
export async function readGenerationConfig(directory: string, config: JsonObject): Promise<GenerationConfig> {
  const json = (await readCheckpointJson(directory, 'generation_config.json')) ?? {};
  const textConfig = isJsonObject(config['text_config']) ? config['text_config'] : {};
  const sources = [json, config, textConfig];
  return {
    eosTokenIds: firstTokenIds(sources, 'eos_token_id'),
    bosTokenId: firstTokenIds(sources, 'bos_token_id')[0] ?? null,
    padTokenId: firstTokenIds(sources, 'pad_token_id')[0] ?? null,
    doSample: typeof json['do_sample'] === 'boolean' ? json['do_sample'] : null,
    temperature: numberField(json, 'temperature', (value) => value >= 0),
    topP: numberField(json, 'top_p', (value) => value > 0 && value <= 1),
    topK: numberField(json, 'top_k', (value) => Number.isInteger(value)),
    minP: numberField(json, 'min_p', (value) => value >= 0 && value <= 1),
    repetitionPenalty: numberField(json, 'repetition_penalty', (value) => value > 0),
    maxNewTokens: numberField(json, 'max_new_tokens', (value) => Number.isInteger(value) && value > 0),
  };
}

/** The ids of the first source that has any; one id or a list. */
function firstTokenIds(sources: readonly JsonObject[], name: string): number[] {
  for (const source of sources) {
    const value = source[name] ?? [];
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    if (!ids.every(isTokenId)) throw badField(name, value);
    if (ids.length > 0) return [...new Set(ids)];
  }
  return [];
}

function isTokenId(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 31;
}

function numberField(json: JsonObject, name: string, isValid: (value: number) => boolean): number | null {
  const value = json[name] ?? null;
  if (value === null || (typeof value === 'number' && isValid(value))) return value;
  throw badField(name, value);
}

function badField(name: string, value: unknown): NeedletailError {
  const message = `generation_config.json (or config.json): "${name}" cannot be ${JSON.stringify(value)}; correct it`;
  return new NeedletailError('bad_checkpoint', message, { param: name });
}
