// `needletail build`: compile a model and pack its weights into a plan directory, which `serve` loads without either.
import type { Command } from 'commander';
import { addEngineFlags } from './flags.ts';
import type { BuildFlags } from './run-build.ts';

export function registerBuild(program: Command): void {
  const command = program
    .command('build')
    .description('write a plan directory: the compiled plan with its packed weights, ready to serve');
  addEngineFlags(command)
    .requiredOption('--output <folder>', 'the plan directory')
    .action(async (model: string, flags: BuildFlags) => {
      const { runBuild } = await import('./run-build.ts');
      await runBuild(model, flags);
    });
}
