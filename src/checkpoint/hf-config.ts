// config.json of a checkpoint, as parsed: the models in models/ know what its fields mean.
import path from 'node:path';
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject, readJsonFile } from '../util/json-file.ts';

const MAX_CONFIG_BYTES = 16 * 2 ** 20;

/** @throws NeedletailError `bad_checkpoint` if there is none or it is damaged. */
export async function readConfig(directory: string): Promise<JsonObject> {
  const config = await readCheckpointJson(directory, 'config.json');
  if (config !== null) return withModelOptSettings(directory, config);
  throw new NeedletailError(
    'bad_checkpoint',
    `${directory}: there is no config.json; name a folder that holds a Hugging Face checkpoint`,
  );
}

/** ModelOpt says how it quantized in a file of its own; newer versions of it in config.json as well. */
async function withModelOptSettings(directory: string, config: JsonObject): Promise<JsonObject> {
  if (config['quantization_config'] !== undefined) return config;
  const file = await readCheckpointJson(directory, 'hf_quant_config.json');
  const settings = file?.['quantization'];
  if (!isJsonObject(settings)) return config;
  return { ...config, quantization_config: { quant_method: 'modelopt', ...settings } };
}

/** Any small JSON file of a checkpoint; null if there is none. */
export function readCheckpointJson(
  directory: string,
  name: string,
  maxBytes = MAX_CONFIG_BYTES,
): Promise<JsonObject | null> {
  return readJsonFile(path.join(directory, name), { code: 'bad_checkpoint', maxBytes });
}
