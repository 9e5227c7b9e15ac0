// Every failure that needletail expects, as one error class with a stable code. Messages say what to do.

export type ErrorCode =
  | 'invalid_request' // a value from outside is wrong: the caller must change it
  | 'unprocessable' // well formed, but not with this model or server: no chat template, no tokenizer
  | 'context_length_exceeded' // prompt (and wanted output) longer than the context
  | 'model_not_found'
  | 'unsupported_model' // architecture or config field that is not implemented
  | 'bad_checkpoint' // files damaged, tensors missing or of another shape
  | 'bad_plan' // plan directory of another version, target or checkpoint
  | 'out_of_memory'
  | 'queue_full'
  | 'deadline_exceeded'
  | 'aborted'
  | 'engine_died' // the engine's process ended; requests in flight are lost, new ones will be served
  | 'shutting_down'
  | 'device_failed'
  | 'unsupported_platform'
  | 'download_failed';

export class NeedletailError extends Error {
  override readonly name = 'NeedletailError';
  readonly code: ErrorCode;
  /** The request field or flag at fault, where there is one. */
  readonly param: string | null;

  constructor(code: ErrorCode, message: string, options: { param?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.param = options.param ?? null;
  }
}

export function isNeedletailError(error: unknown): error is NeedletailError {
  return error instanceof NeedletailError;
}
