// `needletail build`: compile a model and pack its weights into a plan directory, which `serve` loads without either.
import { Option, type Command } from 'commander';
import { addCalibrationFlags } from './calibration-flags.ts';
import { addEngineFlags } from './flags.ts';
import { share, wholeNumber } from './parsers.ts';
import type { BuildFlags } from './run-build.ts';

export function registerBuild(program: Command): void {
  const command = program
    .command('build')
    .description('write a plan directory: the compiled plan with its packed weights, ready to serve');
  addCalibrationFlags(addEngineFlags(command))
    .requiredOption('--output <folder>', 'the plan directory')
    .option(
      '--quality-text <file>',
      'evaluate the plan over this text and keep the result as its quality card',
    )
    .addOption(
      new Option('--quality-window <tokens>', 'length of the windows that it is read in').argParser(
        wholeNumber(2, 2 ** 24),
      ),
    )
    .addOption(
      new Option('--quality-max-windows <n>', 'read only the first windows').argParser(
        wholeNumber(1, 2 ** 24),
      ),
    )
    .addOption(
      new Option(
        '--max-perplexity-delta <share>',
        "fail if the plan's perplexity is more above the checkpoint's, such as 1%",
      ).argParser(share),
    )
    .action(async (model: string, flags: BuildFlags) => {
      const { runBuild } = await import('./run-build.ts');
      await runBuild(model, flags);
    });
}
