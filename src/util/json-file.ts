// JSON files from outside: size and shape checked, every failure an error that names the file.
import { readFile, stat } from 'node:fs/promises';
import { type ErrorCode, NeedletailError } from './errors.ts';

export type JsonObject = { readonly [key: string]: unknown };

export interface JsonFileOptions {
  /** Code of the error where the file is unreadable, too large or not a JSON object. */
  readonly code: ErrorCode;
  readonly maxBytes: number;
}

/**
 * The object in the JSON file `path`, or null if there is no such file.
 * @throws NeedletailError with `options.code` naming the file.
 */
export async function readJsonFile(path: string, options: JsonFileOptions): Promise<JsonObject | null> {
  const text = await readTextFile(path, options);
  if (text === null) return null;
  const value = parseJson(path, text, options.code);
  if (isJsonObject(value)) return value;
  throw new NeedletailError(options.code, `${path}: holds no JSON object; fetch the file again`);
}

/** The UTF-8 text of the file `path`, or null if there is no such file. */
export async function readTextFile(
  path: string,
  { code, maxBytes }: JsonFileOptions,
): Promise<string | null> {
  try {
    const { size } = await stat(path);
    if (size > maxBytes) {
      throw new NeedletailError(
        code,
        `${path}: ${size} bytes are more than the ${maxBytes} allowed for this file`,
      );
    }
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isMissing(error)) return null;
    if (error instanceof NeedletailError) throw error;
    throw new NeedletailError(code, `${path}: cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseJson(path: string, text: string, code: ErrorCode): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    const message = `${path}: not valid JSON (${messageOf(error)}); the file may be cut off: fetch it again`;
    throw new NeedletailError(code, message, { cause: error });
  }
}

function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code;
  return code === 'ENOENT' || code === 'ENOTDIR';
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
