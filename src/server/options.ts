// The settings of a server, with their defaults in one place.
import type { LLM } from '../llm/llm.ts';

export interface ServerOptions {
  readonly llm: LLM;
  /** The model's names in the API; the first is the one that metrics carry. */
  readonly servedModelNames: readonly string[];
  /** Where only this machine can reach it, unless told. */
  readonly host?: string;
  /** 0: any free port. */
  readonly port?: number;
  /** Any of them opens every route but `/health`; none: no key is asked for. */
  readonly apiKeys?: readonly string[];
  /** Origins of web pages that may use the API (CORS); `*` is any. None by default. */
  readonly allowedOrigins?: readonly string[];
  readonly maxBodyBytes?: number;
  /** What running requests get to end after `close` was called. */
  readonly drainTimeoutMs?: number;
  readonly logLevel?: LogLevel;
  /** End the engine with the server (default true); one that could not start leaves it alone. */
  readonly ownsLLM?: boolean;
}

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

export const DEFAULT_SERVER_OPTIONS = {
  host: '127.0.0.1',
  port: 8000,
  apiKeys: [],
  allowedOrigins: [],
  maxBodyBytes: 8 * 2 ** 20,
  drainTimeoutMs: 30_000,
  logLevel: 'info',
  ownsLLM: true,
} as const satisfies Partial<ServerOptions>;
