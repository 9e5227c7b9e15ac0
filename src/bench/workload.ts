// What a benchmark asks for: prompts and output lengths, drawn from a seed or from a request trace.
import { NeedletailError } from '../util/errors.ts';
import { Random } from './random.ts';

export interface BenchRequest {
  readonly promptTokenIds: Int32Array;
  /** Exact: benchmarks ignore end tokens. */
  readonly outputTokens: number;
}

/** Lengths of one request, in tokens. */
export interface RequestLengths {
  readonly inputTokens: number;
  readonly outputTokens: number;
}

export interface RandomLengthOptions {
  readonly numPrompts: number;
  readonly inputLen: number;
  readonly outputLen: number;
  /** In [0, 1): lengths are uniform in [len · (1 − r), len · (1 + r)]. */
  readonly rangeRatio: number;
  readonly seed: number;
}

export function randomLengths(options: RandomLengthOptions): RequestLengths[] {
  const { numPrompts, rangeRatio } = options;
  const random = new Random(options.seed);
  const draw = (length: number) =>
    Math.max(1, random.integer(Math.ceil(length * (1 - rangeRatio)), Math.floor(length * (1 + rangeRatio))));
  return Array.from({ length: numPrompts }, () => ({
    inputTokens: draw(options.inputLen),
    outputTokens: draw(options.outputLen),
  }));
}

/** What runs at once, and how it is admitted. */
export interface BatchShape {
  readonly maxNumSeqs: number;
  readonly maxNumBatchedTokens: number;
}

/**
 * Lengths of the first `maxNumSeqs` requests of many equal ones, by which the batch is from its filling on as it will be ever
 * after: sequences of all ages, one of which ends every outputTokens / maxNumSeqs steps. What a sequence would have written
 * by then is part of its prompt, and who is admitted early, while the others' prompts are computed, has so much more to write.
 */
export function lengthsUnderWay(
  { inputTokens, outputTokens }: RequestLengths,
  { maxNumSeqs, maxNumBatchedTokens }: BatchShape,
): RequestLengths[] {
  // Prompts of input + age and the decodes of who is in already fill so many steps, whatever the ages are for.
  const numFillSteps = (maxNumSeqs * (inputTokens + outputTokens / 2)) / maxNumBatchedTokens;
  return Array.from({ length: maxNumSeqs }, (_, i) => {
    const place = (i + 1) / maxNumSeqs;
    const left = Math.min(outputTokens, Math.round(place * outputTokens + (1 - place) * numFillSteps));
    return { inputTokens: inputTokens + outputTokens - left, outputTokens: left };
  });
}

/**
 * Rows of a request trace: CSV whose header names `ContextTokens` and `GeneratedTokens`, as the Azure LLM inference
 * traces do (`TIMESTAMP,ContextTokens,GeneratedTokens`). Throws `invalid_request` naming the first bad line.
 */
export function parseTrace(csv: string): RequestLengths[] {
  const [header = '', ...lines] = csv.trim().split(/\r?\n/);
  const names = header.split(',').map((name) => name.trim().toLowerCase());
  const input = names.indexOf('contexttokens');
  const output = names.indexOf('generatedtokens');
  if (input < 0 || output < 0)
    throw badTrace(
      `its first line must name ContextTokens and GeneratedTokens, not "${header.slice(0, 80)}"`,
    );
  return lines.map((line, i) => {
    const fields = line.split(',');
    const row = { inputTokens: Number(fields[input]), outputTokens: Number(fields[output]) };
    if (!isLength(row.inputTokens) || !isLength(row.outputTokens))
      throw badTrace(`line ${i + 2} has no token counts: "${line.slice(0, 80)}"`);
    return row;
  });
}

function isLength(value: number): boolean {
  return Number.isInteger(value) && value >= 0;
}

function badTrace(why: string): NeedletailError {
  return new NeedletailError('invalid_request', `this file is no request trace: ${why}`, {
    param: 'dataset-path',
  });
}

export interface TraceLengthOptions {
  readonly numPrompts: number;
  readonly seed: number;
  /** Every prompt of this length, whatever the trace says; null: the trace's. */
  readonly inputLen: number | null;
  readonly maxInputLen: number;
  readonly maxOutputLen: number;
}

/** `numPrompts` distinct rows of a trace in random order, their lengths clipped to [1, max]. */
export function traceLengths(rows: readonly RequestLengths[], options: TraceLengthOptions): RequestLengths[] {
  if (rows.length < options.numPrompts)
    throw new NeedletailError(
      'invalid_request',
      `the trace has ${rows.length} rows; ask for at most as many prompts, not ${options.numPrompts}`,
      { param: 'num-prompts' },
    );
  const clip = (length: number, max: number) => Math.min(Math.max(length, 1), max);
  return new Random(options.seed).sample(rows, options.numPrompts).map((row) => ({
    inputTokens: options.inputLen ?? clip(row.inputTokens, options.maxInputLen),
    outputTokens: clip(row.outputTokens, options.maxOutputLen),
  }));
}

/** Ids below this are bytes and special tokens in many vocabularies; benchmarks stay clear of them. */
const FIRST_PLAIN_ID = 300;

/** Requests of the given lengths with random token ids in [300, vocabSize): no two share a prefix worth caching. */
export function withRandomPrompts(
  lengths: readonly RequestLengths[],
  vocabSize: number,
  seed: number,
): BenchRequest[] {
  const random = new Random(seed ^ 0x5eed);
  const first = Math.min(FIRST_PLAIN_ID, vocabSize - 1);
  return lengths.map(({ inputTokens, outputTokens }) => ({
    promptTokenIds: Int32Array.from({ length: inputTokens }, () => random.integer(first, vocabSize - 1)),
    outputTokens,
  }));
}
