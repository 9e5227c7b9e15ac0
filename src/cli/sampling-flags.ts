// Sampling parameters as flags, for the commands that generate text.
import { Option, type Command } from 'commander';
import type { GenerateParams } from '../llm/generate-params.ts';
import { decimalNumber, wholeNumber } from './parsers.ts';

/** Those not given are absent: the model's generation_config.json decides. */
export interface SamplingFlags {
  readonly maxTokens?: number;
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly stop?: string[];
}

export function addSamplingFlags(command: Command): Command {
  return command
    .addOption(new Option('--max-tokens <n>', 'output tokens at most').argParser(wholeNumber(0)))
    .addOption(new Option('--temperature <t>', '0: the most likely token').argParser(decimalNumber(0, 100)))
    .addOption(
      new Option('--top-p <p>', 'share of probability to draw from').argParser(decimalNumber(0, 1, 'above')),
    )
    .addOption(new Option('--top-k <k>', 'tokens to draw from; 0: all').argParser(wholeNumber(-1)))
    .addOption(
      new Option('--min-p <p>', 'least share of the best probability').argParser(decimalNumber(0, 1)),
    )
    .addOption(new Option('--repetition-penalty <r>', '1: none').argParser(decimalNumber(0.01, 100)))
    .option('--stop <text...>', 'texts that end the output');
}

export function generateParams(flags: SamplingFlags): GenerateParams {
  return {
    maxTokens: flags.maxTokens,
    temperature: flags.temperature,
    topP: flags.topP,
    topK: flags.topK,
    minP: flags.minP,
    repetitionPenalty: flags.repetitionPenalty,
    stop: flags.stop,
  };
}
