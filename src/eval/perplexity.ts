// Perplexity of a model over windows of text, and how far it is from a baseline of the same model in another precision.
import type { Plan } from '../compiler/plan.ts';
import type { Executable } from '../device/device.ts';
import type { StepBatch } from '../device/step.ts';
import { NeedletailError } from '../util/errors.ts';
import { beliefOf, klDivergence, surprise, type Belief } from './distribution.ts';
import { checkVocabulary, type TokenWindow } from './token-windows.ts';
import { largestChunk, windowSteps } from './window-steps.ts';

export interface PerplexityResult {
  readonly numWindows: number;
  /** Tokens that counted. */
  readonly numTokens: number;
  /** exp of the mean of −log p over these tokens. */
  readonly perplexity: number;
  /** Null without a baseline. */
  readonly baseline: BaselineComparison | null;
}

export interface BaselineComparison {
  readonly perplexity: number;
  /** How much the model's perplexity is above it: 0.01 is one percent. */
  readonly perplexityDelta: number;
  /** Mean over tokens of the divergence from the baseline's distribution, in nats. */
  readonly meanKlDivergence: number;
  /** Share of tokens for which both think the same most likely. */
  readonly top1Agreement: number;
}

export interface EvaluateOptions {
  /** Called with windows done and in all. */
  readonly onProgress?: (done: number, total: number) => void;
  readonly signal?: AbortSignal;
}

/**
 * Both models read the same windows, chunk by chunk in turn, so that no more than a chunk's logits are held of each.
 * Throws `invalid_request` for tokens outside of a vocabulary or windows longer than a model's context, `bad_checkpoint`
 * for models that compute NaN or give the text no probability at all.
 */
export async function evaluatePerplexity(
  model: Executable,
  baseline: Executable | null,
  windows: readonly TokenWindow[],
  { onProgress, signal }: EvaluateOptions = {},
): Promise<PerplexityResult> {
  const models = baseline === null ? [model] : [model, baseline];
  for (const { plan } of models) checkWindows(plan, windows);
  const chunkLen = Math.min(...models.map(({ plan }) => largestChunk(plan)));
  const totals = new Totals(model.plan.model.vocabSize);
  for (const [i, window] of windows.entries()) {
    signal?.throwIfAborted();
    const steps = models.map(({ plan }) => windowSteps(window.tokenIds, plan, chunkLen));
    for (let chunk = 0; chunk < steps[0].length; chunk++) {
      const logits = await logitsOf(model, steps[0][chunk]);
      const baselineLogits = baseline && (await logitsOf(baseline, steps[1][chunk]));
      totals.add(window, chunk * chunkLen, logits, baselineLogits);
    }
    onProgress?.(i + 1, windows.length);
  }
  const result = totals.result(windows.length);
  checkFinite(result.perplexity, model.plan);
  if (result.baseline) checkFinite(result.baseline.perplexity, baseline!.plan);
  return result;
}

/** NaN is above no bound: it must not pass for a quality. */
function checkFinite(perplexity: number, { header }: Plan): void {
  if (Number.isFinite(perplexity)) return;
  throw new NeedletailError(
    'bad_checkpoint',
    `the perplexity in ${header.recipe} is ${perplexity}: the checkpoint is damaged, or its numbers are too large for this type`,
  );
}

async function logitsOf(model: Executable, step: StepBatch): Promise<Float32Array> {
  return (await model.run(step)).logits!;
}

function checkWindows({ model }: Plan, windows: readonly TokenWindow[]): void {
  const longest = Math.max(...windows.map(({ tokenIds }) => tokenIds.length));
  if (longest > model.maxModelLen) {
    throw refused(
      'window',
      `windows have ${longest} tokens, but the model's context has ${model.maxModelLen}`,
    );
  }
  checkVocabulary(windows, model.vocabSize);
}

function refused(param: string, message: string): NeedletailError {
  return new NeedletailError('invalid_request', message, { param });
}

/** Sums over the tokens that count. */
class Totals {
  readonly #vocabSize: number;
  #numTokens = 0;
  #surprise = 0;
  #baseline: { surprise: number; divergence: number; numAgreed: number } | null = null;

  constructor(vocabSize: number) {
    this.#vocabSize = vocabSize;
  }

  /** Logits of the window's tokens from `start` on, `[rows, vocabSize]`; each row predicts the token after its own. */
  add(
    { tokenIds, firstScored }: TokenWindow,
    start: number,
    logits: Float32Array,
    baselineLogits: Float32Array | null,
  ): void {
    const numRows = logits.length / this.#vocabSize;
    const last = Math.min(start + numRows, tokenIds.length - 1);
    for (let position = Math.max(start, firstScored - 1); position < last; position++) {
      const row = position - start;
      const target = tokenIds[position + 1];
      const belief = this.#belief(logits, row);
      this.#numTokens++;
      this.#surprise += surprise(belief, target);
      if (baselineLogits) this.#compare(belief, this.#belief(baselineLogits, row), target);
    }
  }

  result(numWindows: number): PerplexityResult {
    const [numTokens, perplexity] = [this.#numTokens, Math.exp(this.#surprise / this.#numTokens)];
    return { numWindows, numTokens, perplexity, baseline: this.#comparison(perplexity) };
  }

  #comparison(perplexity: number): BaselineComparison | null {
    if (this.#baseline === null) return null;
    const { surprise: total, divergence, numAgreed } = this.#baseline;
    const baseline = Math.exp(total / this.#numTokens);
    return {
      perplexity: baseline,
      perplexityDelta: perplexity / baseline - 1,
      meanKlDivergence: divergence / this.#numTokens,
      top1Agreement: numAgreed / this.#numTokens,
    };
  }

  #belief(logits: Float32Array, row: number): Belief {
    return beliefOf(logits.subarray(row * this.#vocabSize, (row + 1) * this.#vocabSize));
  }

  #compare(belief: Belief, baseline: Belief, target: number): void {
    this.#baseline ??= { surprise: 0, divergence: 0, numAgreed: 0 };
    this.#baseline.surprise += surprise(baseline, target);
    this.#baseline.divergence += klDivergence(baseline, belief);
    this.#baseline.numAgreed += belief.top === baseline.top ? 1 : 0;
  }
}
