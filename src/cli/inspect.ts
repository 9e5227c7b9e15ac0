// `needletail inspect`: what a model compiles to and what it will take, before anything is loaded.
import { InvalidArgumentError, type Command } from 'commander';
import { addEngineFlags } from './flags.ts';
import { byteSize } from './parsers.ts';
import type { InspectFlags, Section } from './run-inspect.ts';

const SECTIONS: readonly Section[] = ['graph', 'plan', 'kernels', 'memory'];

export function registerInspect(program: Command): void {
  const command = program
    .command('inspect')
    .description('show the graph, plan, kernels and memory of a model; a config.json or a preset is enough');
  addEngineFlags(command)
    .option('--memory <size>', "the device's memory, such as 80GB (default: what this machine has)", byteSize)
    .option('--show <sections>', `any of ${SECTIONS.join(',')}`, sectionList, ['memory'])
    .option(
      '--pass <name>',
      'with --show graph: after this pass of the compiler (default: as the model defines it)',
    )
    .option('--json', 'as JSON')
    .action(async (model: string, flags: InspectFlags) => {
      const { runInspect } = await import('./run-inspect.ts');
      await runInspect(model, flags);
    });
}

function sectionList(text: string): readonly Section[] {
  const names = text.split(',').map((name) => name.trim());
  const unknown = names.find((name) => !SECTIONS.some((section) => section === name));
  if (unknown !== undefined)
    throw new InvalidArgumentError(`"${unknown}" is none of ${SECTIONS.join(', ')}.`);
  return names as Section[];
}
