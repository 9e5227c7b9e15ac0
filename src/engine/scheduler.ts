// Decides what each step computes: running sequences first, then chunks of waiting prompts. Numbers only.
import type { BatchingPolicy } from './config.ts';
import type { BlockManager, CachedPrefix } from './block-manager.ts';
import { NeedletailError } from '../util/errors.ts';
import { checkTokenBudget } from './check-config.ts';
import { compareSequences, type ScheduledSequence, type Sequence } from './sequence.ts';

export interface SchedulerConfig {
  readonly batchingPolicy: BatchingPolicy;
  /** Whether a more urgent arrival may take a running sequence's place. */
  readonly preemptByPriority: boolean;
  readonly maxNumSeqs: number;
  /** Token budget of a step; at least `maxNumSeqs`, so that decodes never starve a prefill. */
  readonly maxNumBatchedTokens: number;
  /** Prompt tokens of a step whose logits may be wanted, beside one row per running choice. */
  readonly maxNumPromptRows: number;
  readonly maxNumQueuedReqs: number;
}

export interface Schedule {
  readonly sequences: readonly ScheduledSequence[];
  readonly numTokens: number;
  /** (group, source, destination) triples: copy on write. */
  readonly blockCopies: Int32Array;
}

/** What is left of a step while it is put together. */
interface Budget {
  tokens: number;
  promptRows: number;
  numPreempted: number;
  readonly planned: Map<Sequence, PlannedPart>;
}

/** Its place among the rows is known when the step is complete. */
interface PlannedPart extends ScheduledSequence {
  firstRow: number;
}

const NO_CHOICES: readonly number[] = [];

/**
 * Sequences run in the order of priority, then arrival; when blocks run out the last in that order is preempted: its
 * blocks are freed, and it waits, at the head of its peers, to be computed again from its tokens. The first in the
 * order is never preempted and fits alone, so that every sequence comes to its end.
 *
 * A step may be put together while earlier ones are under way: sequences go on from tokens that only the device knows yet.
 * Blocks that are freed meanwhile may be given away at once, for steps run one after the other.
 */
export class Scheduler {
  numPreemptions = 0;
  readonly #config: SchedulerConfig;
  readonly #blocks: BlockManager;
  /** Both in the order of `compareSequences`. */
  readonly #waiting: Sequence[] = [];
  readonly #running: Sequence[] = [];
  readonly #isStatic: boolean;
  /** Whether a running sequence is sure of the blocks to its end. */
  readonly #reservesToEnd: boolean;

  constructor(config: SchedulerConfig, blocks: BlockManager) {
    checkTokenBudget(config);
    if (config.maxNumPromptRows < 1)
      throw new Error('a step without a prompt row would never score a prompt');
    this.#config = config;
    this.#blocks = blocks;
    this.#isStatic = config.batchingPolicy.startsWith('static');
    this.#reservesToEnd = config.batchingPolicy !== 'max-utilization';
  }

  get numWaiting(): number {
    return this.#waiting.length;
  }

  get numRunning(): number {
    return this.#running.length;
  }

  get hasWork(): boolean {
    return this.#waiting.length + this.#running.length > 0;
  }

  /** Throws `queue_full`, or `invalid_request` if the request's choices could never run together. */
  add(sequence: Sequence): void {
    this.#checkFits(sequence);
    if (this.#waiting.length >= this.#config.maxNumQueuedReqs)
      throw new NeedletailError(
        'queue_full',
        `${this.#waiting.length} requests are waiting already; try again later`,
      );
    insert(this.#waiting, sequence);
  }

  /** Puts together the next step and reserves its blocks. Zero tokens: there is nothing to run. */
  schedule(): Schedule {
    const budget: Budget = {
      tokens: this.#config.maxNumBatchedTokens,
      promptRows: this.#config.maxNumPromptRows,
      numPreempted: 0,
      planned: new Map(),
    };
    this.#endStaticBatch();
    this.#makeRoomForUrgent();
    this.#planRunning(budget);
    this.#reserveBlocks(budget);
    this.#admit(budget);
    return this.#complete([...budget.planned.values()]);
  }

  /**
   * A step has ended: the part's tokens have their KV now. False if the part is void, for its sequence has ended or was
   * preempted since.
   */
  advance(part: ScheduledSequence): boolean {
    const { sequence, end } = part;
    if (sequence.underWay[0] !== part) return false;
    sequence.underWay.shift();
    sequence.numComputed = end;
    this.#blocks.commit(sequence.blocks, sequence.tokens, end);
    return true;
  }

  /** Another choice goes on from the same computed prompt, sharing its blocks. */
  fork(parent: Sequence, choice: number): Sequence {
    const child = parent.fork(choice, this.#blocks.fork(parent.blocks));
    insert(this.#running, child);
    return child;
  }

  /** A sequence came to its end. In a static batch its row stays until the batch ends. */
  finish(sequence: Sequence): void {
    if (this.#config.batchingPolicy !== 'static') return this.remove(sequence);
    sequence.state = 'finished';
    sequence.underWay.length = 0;
  }

  /** Takes a sequence out at once and frees its blocks. */
  remove(sequence: Sequence): void {
    const list = sequence.state === 'waiting' ? this.#waiting : this.#running;
    const index = list.indexOf(sequence);
    if (index >= 0) list.splice(index, 1);
    this.#blocks.free(sequence.blocks);
    sequence.state = 'finished';
    sequence.underWay.length = 0;
  }

  /** Throws unless every KV block is accounted for. */
  checkIntegrity(): void {
    this.#blocks.checkIntegrity([...this.#running, ...this.#waiting].map((sequence) => sequence.blocks));
  }

  #checkFits(sequence: Sequence): void {
    const needed = this.#countNeeded(sequence);
    const { capacity, blockSize } = this.#blocks;
    if (sequence.choices.length > this.#config.maxNumSeqs)
      throw new NeedletailError(
        'invalid_request',
        `n is ${sequence.choices.length}, but at most ${this.#config.maxNumSeqs} sequences run at once`,
        { param: 'n' },
      );
    if (needed > capacity)
      throw new NeedletailError(
        'invalid_request',
        `the request needs ${needed} KV blocks of ${blockSize} tokens, the cache has ${capacity}; ` +
          'lower n or max_tokens, or shorten the prompt',
        { param: sequence.choices.length > 1 ? 'n' : 'max_tokens' },
      );
  }

  /** A static batch leaves as a whole, once its last member has finished. */
  #endStaticBatch(): void {
    if (!this.#running.every((sequence) => sequence.state === 'finished')) return;
    for (const sequence of [...this.#running]) this.#blocks.free(sequence.blocks);
    this.#running.length = 0;
  }

  #makeRoomForUrgent(): void {
    if (!this.#config.preemptByPriority) return;
    for (let victim = this.#running.at(-1); victim; victim = this.#running.at(-1)) {
      const urgent = this.#waiting[0];
      if (!urgent || urgent.request.priority >= victim.request.priority) return;
      if (this.#hasSeats(urgent) && this.#hasBlocks(urgent, this.#findPrefix(urgent))) return;
      this.#preempt(victim);
    }
  }

  /** Decodes first, so that a long prefill never holds up a token; what is left goes to the oldest prefill. */
  #planRunning(budget: Budget): void {
    const prefills: Sequence[] = [];
    for (const sequence of this.#running) {
      if (!sequence.canRunAhead) continue;
      if (sequence.numTokensAhead - sequence.numComputedAhead === 1) this.#plan(sequence, budget);
      else prefills.push(sequence);
    }
    for (const sequence of prefills) this.#plan(sequence, budget);
  }

  #plan(sequence: Sequence, budget: Budget): void {
    const part = this.#nextPart(sequence, budget);
    if (part.end === part.start) return;
    budget.tokens -= part.end - part.start;
    budget.promptRows -= part.endPromptRow - part.firstPromptRow;
    budget.planned.set(sequence, part);
  }

  #nextPart(sequence: Sequence, budget: Budget): PlannedPart {
    const { numTokensAhead: numTokens, numPromptTokens, numComputedAhead: start } = sequence;
    const firstPromptRow = Math.max(start, sequence.request.firstUnscored);
    const lastScored = numPromptTokens - 1; // the last prompt token's successor is drawn, not scored
    const rowLimit = firstPromptRow + budget.promptRows;
    let end = Math.min(numTokens, start + budget.tokens);
    if (rowLimit < lastScored) end = Math.min(end, rowLimit);
    const endPromptRow = Math.max(firstPromptRow, Math.min(end, lastScored));
    const choices = end === numTokens && sequence.wantsToken ? sequence.choices : NO_CHOICES;
    const drawnByRow = end > sequence.numTokens ? lastDrawnRow(sequence) : -1;
    return { sequence, start, end, drawnByRow, firstPromptRow, endPromptRow, choices, firstRow: 0 };
  }

  #complete(sequences: readonly PlannedPart[]): Schedule {
    let numTokens = 0;
    let numRows = 0;
    for (const part of sequences) {
      part.firstRow = numRows;
      numRows += part.endPromptRow - part.firstPromptRow + part.choices.length;
      numTokens += part.end - part.start;
      // The rows that a static batch keeps lead nowhere.
      if (part.sequence.state === 'running') part.sequence.underWay.push(part);
    }
    return { sequences, numTokens, blockCopies: this.#blocks.takeCopies() };
  }

  /** In order; whoever lacks a block takes those of the last. */
  #reserveBlocks(budget: Budget): void {
    for (let i = 0; i < this.#running.length; i++) {
      const sequence = this.#running[i];
      const part = budget.planned.get(sequence);
      if (!part) continue;
      while (!this.#blocks.allocate(sequence.blocks, part.start, part.end)) {
        const victim = this.#running.at(-1)!;
        this.#preempt(victim);
        budget.planned.delete(victim);
        budget.numPreempted++;
        if (victim === sequence) return;
      }
    }
  }

  #admit(budget: Budget): void {
    if (budget.numPreempted > 0 || (this.#isStatic && this.#running.length > 0)) return;
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      // A static batch is filled at once, even if the budget makes some of it wait for their first token.
      if (budget.tokens === 0 && !this.#isStatic) return;
      if (!this.#hasSeats(next)) return;
      const prefix = this.#findPrefix(next);
      if (!this.#hasBlocks(next, prefix)) return;
      this.#waiting.shift();
      this.#start(next, prefix, budget);
    }
  }

  #start(sequence: Sequence, prefix: CachedPrefix, budget: Budget): void {
    sequence.numComputed = this.#blocks.reusePrefix(sequence.blocks, sequence.tokens, prefix);
    sequence.state = 'running';
    insert(this.#running, sequence);
    this.#plan(sequence, budget);
    const part = budget.planned.get(sequence);
    if (part && !this.#blocks.allocate(sequence.blocks, part.start, part.end))
      throw new Error('an admitted sequence found too few KV blocks');
  }

  #preempt(sequence: Sequence): void {
    this.#running.splice(this.#running.indexOf(sequence), 1);
    this.#blocks.free(sequence.blocks);
    sequence.numComputed = 0;
    sequence.underWay.length = 0;
    sequence.state = 'waiting';
    sequence.request.numPreemptions++;
    this.numPreemptions++;
    insert(this.#waiting, sequence);
  }

  /** The last token is always computed, and every token whose logits are still wanted. */
  #findPrefix(sequence: Sequence): CachedPrefix {
    const maxTokens = Math.min(sequence.numTokens - 1, sequence.request.firstUnscored);
    return this.#blocks.findPrefix(sequence.blocks, sequence.tokens, maxTokens);
  }

  #hasSeats(sequence: Sequence): boolean {
    let numTaken = 0;
    for (const { choices } of this.#running) numTaken += choices.length;
    return numTaken + sequence.choices.length <= this.#config.maxNumSeqs;
  }

  /**
   * Whether the blocks suffice for it beside what the running sequences are promised. Those have made the copies of
   * this step, so that what forks still share is what they will always share.
   */
  #hasBlocks(sequence: Sequence, prefix: CachedPrefix): boolean {
    let needed = this.#countNeeded(sequence) - prefix.numHeld;
    for (const running of this.#running) needed += this.#countNeeded(running) - running.blocks.numBlocks;
    return needed <= this.#blocks.numFree;
  }

  /**
   * Blocks that a sequence (with all its choices) is promised: to its end where nothing may be evicted; otherwise for
   * the tokens it has and one block more, so that what is admitted now is not preempted a moment later.
   */
  #countNeeded(sequence: Sequence): number {
    const { numTokensAhead: numTokens, maxNumTokens, numPromptTokens, choices } = sequence;
    const { blockSize } = this.#blocks;
    const end = this.#reservesToEnd ? maxNumTokens : Math.min(maxNumTokens, numTokens + blockSize);
    const numShared = choices.length > 1 ? Math.floor(numPromptTokens / blockSize) : 0;
    return numShared + choices.length * (this.#blocks.blocksFor(end) - numShared);
  }
}

/** The row that draws the sequence's next token in the last step under way. */
function lastDrawnRow({ underWay, choices }: Sequence): number {
  const last = underWay.at(-1)!;
  const firstDraw = last.firstRow + last.endPromptRow - last.firstPromptRow;
  return firstDraw + last.choices.indexOf(choices[0]);
}

function insert(list: Sequence[], sequence: Sequence): void {
  let index = list.length;
  while (index > 0 && compareSequences(list[index - 1], sequence) > 0) index--;
  list.splice(index, 0, sequence);
}
