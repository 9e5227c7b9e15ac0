// From a schema's complaint to an error that names the field and says what to do.
import type { z } from 'zod';
import { NeedletailError } from '../util/errors.ts';

/** `value` as the schema gives it back. Throws `invalid_request` that names the first field at fault. */
export function parseOrThrow<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw explainIssue(result.error.issues[0]);
}

function explainIssue(issue: z.core.$ZodIssue): NeedletailError {
  if (issue.code === 'unrecognized_keys') {
    const param = fieldPath([...issue.path, issue.keys[0]]);
    return new NeedletailError('invalid_request', `${param} is not a field that is supported here`, {
      param,
    });
  }
  const param = fieldPath(issue.path);
  const subject = param === '' ? 'the request' : param;
  const message = issue.code === 'invalid_key' ? issue.issues[0].message : issue.message;
  return new NeedletailError('invalid_request', `${subject}: ${message}`, param === '' ? {} : { param });
}

/** `messages[0].content`, as OpenAI's servers spell it. */
function fieldPath(path: readonly PropertyKey[]): string {
  return path
    .map((key, position) => {
      if (typeof key === 'number') return `[${key}]`;
      const name = String(key).slice(0, 100);
      return position === 0 ? name : `.${name}`;
    })
    .join('');
}
