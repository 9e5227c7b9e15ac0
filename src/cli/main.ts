#!/usr/bin/env node
// The command line's start: arguments in, failures out.
import { isNeedletailError } from '../util/errors.ts';
import { expandConfigFile, normalizeFlags } from './argv.ts';
import { createProgram } from './program.ts';

/** An expected failure is one line that says what to do; anything else is a defect and shows its stack. */
function reportFailure(error: unknown): void {
  console.error(isNeedletailError(error) || isFileError(error) ? `error: ${error.message}` : error);
  process.exitCode = 1;
}

/** The system's own words, `ENOSPC: no space left on device, write '/tmp/x'`, say what to do. */
function isFileError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error && 'path' in error;
}

if (process.platform === 'win32') {
  console.error('error: needletail runs on Linux and macOS; on Windows use it inside WSL 2');
  process.exitCode = 1;
} else {
  try {
    const args = expandConfigFile(normalizeFlags(process.argv.slice(2)));
    await createProgram().parseAsync(args, { from: 'user' });
  } catch (error) {
    reportFailure(error);
  }
}
