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
 * Replaces `--config FILE` by the flags that the file states, but for those that the command line states itself. The
 * file is a JSON object of flag names without dashes in front: `{"max-model-len": 512}`. `args` are normalized.
 */
export function expandConfigFile(args: readonly string[]): string[] {
  const end = args.indexOf('--');
  const [own, literal] = end < 0 ? [args, []] : [args.slice(0, end), args.slice(end)];
  const places = own.flatMap((arg, i) => (arg === '--config' || arg.startsWith('--config=') ? [i] : []));
  if (places.length === 0) return [...args];
  if (places.length > 1) throw badConfig('is given more than once');
  const [at] = places;
  const inline = own[at].includes('=');
  const path = inline ? own[at].slice('--config='.length) : own[at + 1];
  const rest = own.filter((_, i) => i !== at && (inline || i !== at + 1));
  if (path === undefined) throw badConfig('names no file');
  const stated = new Set(rest.map(flagName));
  const added = readConfigFlags(path).filter((flag) => !stated.has(flagName(flag)));
  return [...rest, ...added, ...literal];
}

/** `max-model-len` of `--max-model-len=8`; a switch and its `--no-` form have one name. Null for what is no flag. */
function flagName(arg: string): string | null {
  return /^--(?:no-)?([a-z][\w-]*)(?:=|$)/i.exec(arg)?.[1] ?? null;
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
  if (flag === '--config') throw badConfig('a file of flags cannot name another');
  if (value === true) return [flag];
  if (value === false) return [flag.replace(/^--/, '--no-')];
  if (typeof value === 'string' || typeof value === 'number') return [`${flag}=${value}`];
  if (Array.isArray(value)) return value.flatMap((element: unknown) => toFlags(name, element));
  throw badConfig(`"${name}" must be a text, a number, true, false or a list of texts`);
}

function badConfig(why: string, cause?: unknown): NeedletailError {
  return new NeedletailError('invalid_request', `--config: ${why}`, { param: 'config', cause });
}
