#!/usr/bin/env node
// The command line. Each command loads what it needs when it runs, so that `--help` is quick.
import { Command } from 'commander';
import { isNeedletailError } from '../util/errors.ts';
import { VERSION } from '../util/version.ts';
import { expandConfigFile, normalizeFlags } from './argv.ts';
import { registerBench } from './bench.ts';
import { registerBuild } from './build.ts';
import { registerChat } from './chat.ts';
import { registerGenerate } from './generate.ts';
import { registerInspect } from './inspect.ts';
import { registerServe } from './serve.ts';

function createProgram(): Command {
  const program = new Command('needletail')
    .description('Large-language-model inference from TypeScript: define, compile, serve and measure models.')
    .version(VERSION)
    .option('--config <file>', 'take flags of the command from a JSON file')
    .showHelpAfterError('(see --help)');
  registerServe(program);
  registerChat(program);
  registerGenerate(program);
  registerInspect(program);
  registerBuild(program);
  registerBench(program);
  return program;
}

/** An expected failure is one line that says what to do; anything else is a defect and shows its stack. */
function reportFailure(error: unknown): void {
  console.error(isNeedletailError(error) ? `error: ${error.message}` : error);
  process.exitCode = 1;
}

if (process.platform === 'win32') {
  console.error('error: needletail runs on Linux and macOS; on Windows use it inside WSL 2');
  process.exitCode = 1;
} else {
  try {
    const args = normalizeFlags(expandConfigFile(process.argv.slice(2)));
    await createProgram().parseAsync(args, { from: 'user' });
  } catch (error) {
    reportFailure(error);
  }
}
