// The command line before commander sees it: other spellings of flags, and flags from a file.
import { readFileSync } from 'node:fs';
import { NeedletailError } from '../util/errors.ts';
import { FLAG_ALIASES } from './flags.ts';

/** `--max_model_len=8` becomes `--max-model-len=8`, aliases their flag; what follows `--` stays as it is. */
export function normalizeFlags(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  const normalize = (arg: string, i: number) => (end >= 0 && i >= end ? arg : normalizeFlag(arg));
  return args.map(normalize);
}

function normalizeFlag(arg: string): string {
  const match = /^(--[a-z][\w-]*)(=[\s\S]*)?$/i.exec(arg);
  if (!match) return arg;
  const [, name, value = ''] = match as unknown as [string, string, string?];
  const flag = name.replaceAll('_', '-');
  return (FLAG_ALIASES[flag] ?? flag) + value;
}

/**
 * Replaces `--config FILE` by the flags that the file states, put right behind the command so that the command line
 * wins. The file is a JSON object of flag names without dashes in front: `{"max-model-len": 512}`.
 */
export function expandConfigFile(args: readonly string[]): string[] {
  const at = args.findIndex((arg) => arg === '--config' || arg.startsWith('--config='));
  if (at < 0) return [...args];
  const inline = args[at].includes('=');
  const path = inline ? args[at].slice('--config='.length) : args[at + 1];
  const rest = args.filter((_, i) => i !== at && (inline || i !== at + 1));
  if (path === undefined) throw badConfig('names no file');
  const numCommandWords = rest[0] === 'bench' ? 2 : 1;
  return [...rest.slice(0, numCommandWords), ...readConfigFlags(path), ...rest.slice(numCommandWords)];
}

function readConfigFlags(path: string): string[] {
  let settings: unknown;
  try {
    settings = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    throw badConfig(`${path} cannot be read as JSON: ${(cause as Error).message}`, cause);
  }
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings))
    throw badConfig(`${path} must hold one object, such as {"max-model-len": 512}`);
  return Object.entries(settings).flatMap(([name, value]) => toFlags(name, value));
}

function toFlags(name: string, value: unknown): string[] {
  const flag = normalizeFlag(`--${name}`);
  if (value === true) return [flag];
  if (value === false) return [flag.replace(/^--/, '--no-')];
  if (typeof value === 'string' || typeof value === 'number') return [`${flag}=${value}`];
  if (Array.isArray(value)) return value.flatMap((element: unknown) => toFlags(name, element));
  throw badConfig(`"${name}" must be a text, a number, true, false or a list of texts`);
}

function badConfig(why: string, cause?: unknown): NeedletailError {
  return new NeedletailError('invalid_request', `--config: ${why}`, { param: 'config', cause });
}
