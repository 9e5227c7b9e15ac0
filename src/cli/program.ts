// All commands. Each loads what it needs when it runs, so that `--help` is quick.
import { Command } from 'commander';
import { VERSION } from '../util/version.ts';
import { registerBench } from './bench.ts';
import { registerBuild } from './build.ts';
import { registerChat } from './chat.ts';
import { registerDoctor } from './doctor.ts';
import { registerEval } from './eval.ts';
import { REPEATABLE_FLAGS } from './flags.ts';
import { registerGenerate } from './generate.ts';
import { registerInspect } from './inspect.ts';
import { registerServe } from './serve.ts';

export function createProgram(): Command {
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
  registerEval(program);
  registerBench(program);
  registerDoctor(program);
  refuseRepeats(program);
  return program;
}

/** Of a flag given twice commander would take the last and say nothing; `--x` and `--no-x` are one. */
function refuseRepeats(command: Command): void {
  const given = new Set<string>();
  for (const option of command.options) {
    const name = option.attributeName();
    if (option.variadic || REPEATABLE_FLAGS.has(option.name())) continue;
    command.on(`option:${option.name()}`, () => {
      if (given.has(name)) command.error(`error: option '${option.flags}' is given more than once`);
      given.add(name);
    });
  }
  command.commands.forEach(refuseRepeats);
}
