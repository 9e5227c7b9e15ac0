// What a config.json without its weights says of their codes: what random ones in their place must be.
import type { QuantizedFacts } from '../../tensor/tensor-source.ts';
import { isJsonObject, type JsonObject } from '../../util/json-file.ts';
import { fp8Codes, modelOptCodes } from './fp8.ts';
import type { RowCodes } from './row-codes.ts';

/** By `quant_method`: those that have one format for all products. */
const CODES: ReadonlyMap<string, (settings: JsonObject) => RowCodes> = new Map([
  ['fp8', fp8Codes],
  ['modelopt', modelOptCodes],
]);

export interface ConfigFormats {
  /** Without what `formats` says: to a model it is one of its usual configs. */
  readonly config: JsonObject;
  /** Of the products' weights and inputs; null where they are floats, or of a method that the model refuses by its config. */
  readonly formats: QuantizedFacts | null;
}

export function configFormats(config: JsonObject): ConfigFormats {
  const { quantization_config: settings, ...plain } = config;
  const codesOf = isJsonObject(settings) ? CODES.get(String(settings['quant_method'])) : undefined;
  if (!codesOf) return { config, formats: null };
  const { scaleOf, activations } = codesOf(settings as JsonObject);
  const groupSize = typeof scaleOf === 'string' ? null : scaleOf[1];
  const weights = { dtype: 'float8_e4m3fn', groupSize, hasZeros: false } as const;
  return { config: plain, formats: { weights, activations } };
}
