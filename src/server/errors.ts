// Errors as HTTP knows them, in OpenAI's form.
import type { FastifyError } from 'fastify';
import { type ErrorCode, isNeedletailError, NeedletailError } from '../util/errors.ts';

export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

export interface HttpError {
  readonly status: number;
  readonly body: ErrorBody;
}

const STATUS: Readonly<Partial<Record<ErrorCode, number>>> = {
  invalid_request: 400,
  context_length_exceeded: 400,
  model_not_found: 404,
  deadline_exceeded: 408,
  unprocessable: 422,
  out_of_memory: 422, // of one request: it could never fit into the KV cache
  queue_full: 429,
  aborted: 499,
  engine_died: 503,
  device_failed: 503,
  shutting_down: 503,
};

/** Any failure as a status and a body. Only expected errors show their message. */
export function toHttpError(error: unknown): HttpError {
  if (isNeedletailError(error)) {
    return httpError(STATUS[error.code] ?? 500, error.message, error.code, wireName(error.param));
  }
  const { statusCode = 500, code, message } = error as Partial<FastifyError>;
  if (statusCode >= 500) return httpError(500, 'the server failed to answer this request', 'internal_error');
  return httpError(statusCode, fastifyMessage(code, message ?? ''), fastifyCode(statusCode));
}

export function httpError(
  status: number,
  message: string,
  code: string,
  param: string | null = null,
): HttpError {
  return { status, body: { error: { message, type: errorType(status), param, code } } };
}

export function unauthorized(): HttpError {
  const message = 'a valid API key is needed, as "Authorization: Bearer KEY"';
  return httpError(401, message, 'invalid_api_key');
}

export function shuttingDown(): NeedletailError {
  return new NeedletailError('shutting_down', 'the server is shutting down; ask another one');
}

function errorType(status: number): string {
  if (status === 401) return 'authentication_error';
  if (status === 404) return 'not_found_error';
  if (status === 408) return 'timeout_error';
  if (status === 429) return 'rate_limit_error';
  return status >= 500 ? 'server_error' : 'invalid_request_error';
}

/** The library says `minTokens` where the protocol says `min_tokens`. */
function wireName(param: string | null): string | null {
  return param?.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) ?? null;
}

function fastifyMessage(code: string | undefined, message: string): string {
  switch (code) {
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return 'the body must be JSON, sent with content-type: application/json';
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return 'the body is larger than this server accepts (--max-body-bytes)';
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return 'the body is empty; it must be a JSON object';
    case 'FST_ERR_CTP_INVALID_JSON_BODY':
      return 'the body is not valid JSON';
    default:
      return message;
  }
}

function fastifyCode(status: number): string {
  if (status === 413) return 'body_too_large';
  return status === 415 ? 'unsupported_media_type' : 'invalid_request';
}
