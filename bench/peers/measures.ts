// What is measured of both engines, written once against the little that they have in common: one forward pass.
import { Random } from '../../src/bench/random.ts';

/** Tokens of one sequence in a pass, at positions from `position` on. */
export interface PassItem {
  readonly sequence: number;
  readonly position: number;
  readonly tokenIds: readonly number[];
  /** Compute the logits of the last token. */
  readonly wantsLogits: boolean;
}

/** An engine with empty caches for `numSequences` sequences. */
export interface Stepper {
  /** One forward pass over at most 512 tokens; nothing is sampled that the engine could leave out. */
  pass(items: readonly PassItem[]): Promise<void>;
  /** Forgets a sequence's tokens from `length` on. */
  rewind(sequence: number, length: number): void;
  close(): Promise<void>;
}

export interface StepperShape {
  readonly numSequences: number;
  /** Tokens that each sequence may grow to. */
  readonly contextLen: number;
}

/** A loaded model that opens steppers, one at a time. */
export interface EngineUnderTest {
  /** Of device and instruction set, for the record. */
  readonly description: string;
  open(shape: StepperShape): Promise<Stepper>;
  close(): Promise<void>;
}

export interface Measure {
  readonly name: string;
  readonly about: string;
  readonly shape: StepperShape;
  /** Tokens of the timed part. */
  readonly tokens: number;
  /** Fills the caches and warms up; not timed. */
  prepare(stepper: Stepper, tokenIds: TokenSource): Promise<void>;
  /** The timed part; may run again and again. */
  run(stepper: Stepper, tokenIds: TokenSource): Promise<void>;
}

/** Fixed pseudo-random ids, none of them special. */
export type TokenSource = (count: number) => number[];

export function tokenSource(vocabSize: number): TokenSource {
  const random = new Random(12345);
  return (count) => Array.from({ length: count }, () => random.integer(300, vocabSize - 1));
}

const PROMPT_LEN = 512;

function prefill(length: number): Measure {
  return {
    name: `pp${length}`,
    about: `one pass of ${length} prompt tokens, logits of the last`,
    shape: { numSequences: 1, contextLen: 1024 },
    tokens: length,
    async prepare(stepper, tokenIds) {
      await stepper.pass([{ sequence: 0, position: 0, tokenIds: tokenIds(64), wantsLogits: true }]);
    },
    async run(stepper, tokenIds) {
      stepper.rewind(0, 0);
      await stepper.pass([{ sequence: 0, position: 0, tokenIds: tokenIds(length), wantsLogits: true }]);
    },
  };
}

function decodeSingle(numSteps: number): Measure {
  return {
    name: `tg${numSteps}`,
    about: `${numSteps} passes of one token at depth ${PROMPT_LEN}, logits each time`,
    shape: { numSequences: 1, contextLen: 1024 },
    tokens: numSteps,
    async prepare(stepper, tokenIds) {
      await stepper.pass([{ sequence: 0, position: 0, tokenIds: tokenIds(PROMPT_LEN), wantsLogits: false }]);
      await decode(stepper, tokenIds, [0], PROMPT_LEN, 8);
    },
    async run(stepper, tokenIds) {
      stepper.rewind(0, PROMPT_LEN);
      await decode(stepper, tokenIds, [0], PROMPT_LEN, numSteps);
    },
  };
}

const BATCH_DEPTH = 32;

function decodeBatch(numSequences: number, numSteps: number): Measure {
  const sequences = Array.from({ length: numSequences }, (_, i) => i);
  return {
    name: `batch${numSequences}_tg${numSteps}`,
    about: `${numSteps} passes of one token of each of ${numSequences} sequences from depth ${BATCH_DEPTH}, logits each time`,
    shape: { numSequences, contextLen: 256 },
    tokens: numSequences * numSteps,
    async prepare(stepper, tokenIds) {
      for (let at = 0; at < numSequences; at += 8) {
        const prompt = (sequence: number) => ({ sequence, position: 0, tokenIds: tokenIds(BATCH_DEPTH) });
        await stepper.pass(sequences.slice(at, at + 8).map((s) => ({ ...prompt(s), wantsLogits: false })));
      }
      await decode(stepper, tokenIds, sequences, BATCH_DEPTH, 8);
    },
    async run(stepper, tokenIds) {
      for (const sequence of sequences) stepper.rewind(sequence, BATCH_DEPTH);
      await decode(stepper, tokenIds, sequences, BATCH_DEPTH, numSteps);
    },
  };
}

async function decode(
  stepper: Stepper,
  tokenIds: TokenSource,
  sequences: readonly number[],
  depth: number,
  numSteps: number,
): Promise<void> {
  for (let i = 0; i < numSteps; i++) {
    const position = depth + i;
    const item = (sequence: number) => ({ sequence, position, tokenIds: tokenIds(1), wantsLogits: true });
    await stepper.pass(sequences.map(item));
  }
}

export const MEASURES: readonly Measure[] = [
  prefill(512),
  decodeSingle(128),
  decodeBatch(8, 64),
  decodeBatch(32, 64),
];
