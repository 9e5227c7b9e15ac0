// Model definitions of the user's own: modules that are imported, and what they export.
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import type { ModelDefinition } from '../models/model-definition.ts';
import { NeedletailError } from '../util/errors.ts';

/**
 * The definitions that the modules export, under any names. Their code runs in this process.
 * @param modules paths from the working directory, or `file:` URLs
 * @throws NeedletailError `invalid_request` naming the module that cannot be imported or exports none.
 */
export async function importModelDefinitions(modules: readonly string[]): Promise<ModelDefinition[]> {
  const found = await Promise.all(modules.map(importDefinitions));
  return found.flat();
}

async function importDefinitions(module: string): Promise<ModelDefinition[]> {
  const definitions = Object.values(await importModule(module)).filter(isModelDefinition);
  if (definitions.length > 0) return definitions;
  throw refusal(`${module} exports no model definition; export what defineModel({…}) returns`);
}

async function importModule(module: string): Promise<object> {
  const url = module.startsWith('file:') ? module : pathToFileURL(path.resolve(module)).href;
  try {
    return (await import(url)) as object;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const hint =
      code === 'ERR_UNKNOWN_FILE_EXTENSION' ? '; compile it to JavaScript for this version of Node' : '';
    throw refusal(`${module} cannot be imported: ${message}${hint}`, error);
  }
}

function isModelDefinition(value: unknown): value is ModelDefinition {
  if (typeof value !== 'object' || value === null) return false;
  const { modelType, architectures, facts, buildGraph } = value as Partial<ModelDefinition>;
  return (
    typeof modelType === 'string' &&
    Array.isArray(architectures) &&
    typeof facts === 'function' &&
    typeof buildGraph === 'function'
  );
}

function refusal(complaint: string, cause?: unknown): NeedletailError {
  return new NeedletailError('invalid_request', `--model-definition: ${complaint}`, {
    param: 'modelDefinitions',
    cause,
  });
}
