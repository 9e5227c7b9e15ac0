// From what the user calls a model to a folder: a path stays one, a hub id is downloaded.
import { stat } from 'node:fs/promises';
import path from 'node:path';
import { NeedletailError } from '../util/errors.ts';
import { type DownloadOptions, downloadModel } from './hub-download.ts';
import { parseHubId, readHubSettings } from './hub-settings.ts';

export interface ResolveOptions extends DownloadOptions {
  /** Where `HF_HOME`, `HF_TOKEN`, … are looked up; `process.env` by default. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * The folder of the checkpoint `model`: a folder's path, or a hub id `org/name[@revision]`, which is downloaded into
 * the cache unless it is there.
 * @throws NeedletailError `model_not_found`, `download_failed`, `bad_checkpoint` or `aborted`, saying what to do.
 */
export async function resolveModel(model: string, options: ResolveOptions = {}): Promise<string> {
  const stats = await stat(model).catch(() => null);
  if (stats?.isDirectory()) return path.resolve(model);
  if (stats) throw notFound(`${model} is a file; name the folder that holds it`);
  const hubModel = parseHubId(model);
  if (hubModel) return downloadModel(readHubSettings(options.env ?? process.env), hubModel, options);
  throw notFound(
    `"${model}" is neither a folder here nor a hub id (org/name or org/name@revision); ` +
      'for a preset such as llama-3.1-8b add --load-format dummy',
  );
}

function notFound(message: string): NeedletailError {
  return new NeedletailError('model_not_found', message, { param: 'model' });
}
