// Ctrl-C as a signal that long work looks at between two of its pieces.
import { NeedletailError } from '../util/errors.ts';

/** Aborts with `message` at the first Ctrl-C. */
export function interruption(message: string): AbortSignal {
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort(new NeedletailError('aborted', message)));
  return stop.signal;
}
