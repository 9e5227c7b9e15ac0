// What a benchmark runs, as flags: random lengths, or those of a request trace.
import { Option, type Command } from 'commander';
import { readFileSync } from 'node:fs';
import {
  parseTrace,
  randomLengths,
  traceLengths,
  withRandomPrompts,
  type BenchRequest,
  type RequestLengths,
} from '../bench/workload.ts';
import { NeedletailError } from '../util/errors.ts';
import { decimalNumber, wholeNumber } from './parsers.ts';

export interface WorkloadFlags {
  readonly numPrompts: number;
  readonly inputLen?: number;
  readonly outputLen?: number;
  readonly rangeRatio?: number;
  readonly datasetPath?: string;
  readonly maxInputLen?: number;
  readonly maxOutputLen?: number;
}

const DEFAULT_LEN = 128;
const DEFAULT_TRACE_LEN = 512;

export function addWorkloadFlags(command: Command): Command {
  const count = (flag: string, text: string, value?: number) =>
    new Option(flag, text).argParser(wholeNumber(1, 2 ** 24)).default(value);
  return command
    .addOption(count('--num-prompts <n>', 'requests', 100))
    .addOption(count('--input-len <tokens>', `prompt length (default: ${DEFAULT_LEN}, or the trace's)`))
    .addOption(count('--output-len <tokens>', `output length (default: ${DEFAULT_LEN}, or the trace's)`))
    .addOption(
      new Option('--range-ratio <r>', 'lengths vary by ± this share (default: 0)').argParser(
        decimalNumber(0, 0.999),
      ),
    )
    .option('--dataset-path <csv>', 'take lengths from a request trace (ContextTokens, GeneratedTokens)')
    .addOption(count('--max-input-len <tokens>', `clip prompts of the trace (default: ${DEFAULT_TRACE_LEN})`))
    .addOption(
      count('--max-output-len <tokens>', `clip outputs of the trace (default: ${DEFAULT_TRACE_LEN})`),
    );
}

function workloadLengths(flags: WorkloadFlags, seed: number): RequestLengths[] {
  const { numPrompts, datasetPath, inputLen, outputLen, rangeRatio, maxInputLen, maxOutputLen } = flags;
  if (datasetPath === undefined) {
    refuseGiven({ 'max-input-len': maxInputLen, 'max-output-len': maxOutputLen }, 'without --dataset-path');
    return randomLengths({
      ...{ numPrompts, seed, rangeRatio: rangeRatio ?? 0 },
      ...{ inputLen: inputLen ?? DEFAULT_LEN, outputLen: outputLen ?? DEFAULT_LEN },
    });
  }
  refuseGiven({ 'output-len': outputLen, 'range-ratio': rangeRatio }, 'with --dataset-path');
  return traceLengths(parseTrace(readTrace(datasetPath)), {
    ...{ numPrompts, seed, inputLen: inputLen ?? null },
    maxInputLen: maxInputLen ?? DEFAULT_TRACE_LEN,
    maxOutputLen: maxOutputLen ?? DEFAULT_TRACE_LEN,
  });
}

function refuseGiven(flags: Readonly<Record<string, number | undefined>>, where: string): void {
  for (const [flag, value] of Object.entries(flags)) {
    if (value === undefined) continue;
    throw new NeedletailError('invalid_request', `--${flag} is of no use ${where}`, { param: flag });
  }
}

function readTrace(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    const message = `--dataset-path: ${(cause as Error).message}`;
    throw new NeedletailError('invalid_request', message, { param: 'dataset-path', cause });
  }
}

export interface WorkloadLimits {
  readonly vocabSize: number;
  /** null: not known. */
  readonly maxModelLen: number | null;
}

/** The requests that the flags ask for. Throws if one of them would not fit into the context. */
export function workloadOf(flags: WorkloadFlags, limits: WorkloadLimits, seed: number): BenchRequest[] {
  const lengths = workloadLengths(flags, seed);
  const { maxModelLen } = limits;
  const tooLong = lengths.find(
    (row) => maxModelLen !== null && row.inputTokens + row.outputTokens > maxModelLen,
  );
  if (tooLong)
    throw new NeedletailError(
      'context_length_exceeded',
      `a prompt of ${tooLong.inputTokens} and an output of ${tooLong.outputTokens} tokens exceed the context of ` +
        `${maxModelLen}; lower --input-len, --output-len or --range-ratio (with a trace: --max-input-len, --max-output-len)`,
    );
  return withRandomPrompts(lengths, limits.vocabSize, seed);
}
