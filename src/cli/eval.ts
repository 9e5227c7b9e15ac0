// `needletail eval …`: how good a model's answers are in a precision.
import { Option, type Command } from 'commander';
import { addEngineFlags } from './flags.ts';
import { wholeNumber } from './parsers.ts';
import type { EvalPerplexityFlags } from './run-eval-perplexity.ts';
import type { EvalWeightsFlags } from './run-eval-weights.ts';

export function registerEval(program: Command): void {
  const evaluation = program.command('eval').description('measure the quality of a model in a precision');
  const count = (flag: string, text: string) => new Option(flag, text).argParser(wholeNumber(1, 2 ** 24));
  addEngineFlags(
    evaluation
      .command('perplexity')
      .description('perplexity over a text, and the distance from a baseline in another precision'),
  )
    .requiredOption('--text <file>', 'UTF-8 text, or a .json array of token ids')
    .addOption(count('--window <tokens>', "a window's length (default: the context length, at most 2048)"))
    .addOption(count('--stride <tokens>', "from one window's start to the next (default: the window)"))
    .addOption(count('--max-windows <n>', 'read only the first windows'))
    .addOption(
      new Option('--baseline <type>', 'also measure the same model in this type (auto: its own)')
        .choices(['auto', 'bfloat16', 'float16', 'float32', 'none'])
        .default('auto'),
    )
    .option('--baseline-model <model>', 'where the baseline is another checkpoint, as for a plan directory')
    .option('--save-card', 'keep the result in the plan directory as its quality card')
    .option('--output-json <file>', 'write the record of the run')
    .action(async (model: string, flags: EvalPerplexityFlags) => {
      const { runEvalPerplexity } = await import('./run-eval-perplexity.ts');
      await runEvalPerplexity(model, flags);
    });
  addEngineFlags(
    evaluation.command('weights').description("a recipe's error in each weight, and over the values of one"),
  )
    .option('--weight <name>', 'the weight that --plot draws: its name, or a part of it')
    .option('--plot <file>', 'draw the error of every format over its values, as SVG')
    .option('--output-json <file>', 'write the record of the run')
    .action(async (model: string, flags: EvalWeightsFlags) => {
      const { runEvalWeights } = await import('./run-eval-weights.ts');
      await runEvalWeights(model, flags);
    });
}
