// The quality that a plan must prove before `needletail build` lets it stand: measured against its own checkpoint.
import { access, constants } from 'node:fs/promises';
import type { Plan } from '../compiler/plan.ts';
import { writeQualityCard, type QualityCard } from '../compiler/quality-card.ts';
import { DEFAULT_ENGINE_CONFIG, type EngineConfig } from '../engine/config.ts';
import { evaluateModel } from '../eval/evaluate-model.ts';
import { NO_QUANTIZATION } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import { formatCount } from '../util/format-bytes.ts';
import { progressBar } from './progress.ts';

export interface QualityFlags {
  readonly loadFormat: EngineConfig['loadFormat'];
  readonly qualityText?: string;
  readonly qualityWindow?: number;
  readonly qualityMaxWindows?: number;
  readonly maxPerplexityDelta?: number;
}

/** A window's length unless one is asked for, where the model's context is longer. */
export const DEFAULT_WINDOW_LEN = 2048;

/** Throws `invalid_request` for what cannot be measured, and settings of what is not: before a build has cost any time. */
export async function checkQualityFlags(flags: QualityFlags): Promise<void> {
  const { qualityText, maxPerplexityDelta, qualityWindow, qualityMaxWindows } = flags;
  if (qualityText === undefined) {
    const others = {
      'max-perplexity-delta': maxPerplexityDelta,
      'quality-window': qualityWindow,
      'quality-max-windows': qualityMaxWindows,
    };
    for (const [flag, value] of Object.entries(others))
      if (value !== undefined) throw refused(flag, 'name the text to measure with --quality-text');
    return;
  }
  if (flags.loadFormat === 'dummy')
    throw refused('quality-text', 'random weights have no quality to measure');
  await access(qualityText, constants.R_OK).catch(() => {
    throw refused('quality-text', `${qualityText} cannot be read`);
  });
}

/**
 * What looks at the finished plan directory: measures it, leaves the card in it, and throws where it is worse than
 * allowed. Does nothing if no text was named. Throws at once for a window that the plan cannot read.
 */
export function approval(
  config: EngineConfig,
  { model }: Plan,
  flags: QualityFlags,
  signal: AbortSignal,
): (directory: string) => Promise<void> {
  const { qualityText, maxPerplexityDelta } = flags;
  const { maxModelLen } = model;
  const windowLen = flags.qualityWindow ?? Math.min(maxModelLen, DEFAULT_WINDOW_LEN);
  if (windowLen > maxModelLen)
    throw refused('quality-window', `${windowLen} is more than the plan's context of ${maxModelLen} tokens`);
  return async (directory) => {
    if (qualityText === undefined) return;
    const { device, numThreads } = config;
    const card = await evaluateModel(
      {
        model: { ...DEFAULT_ENGINE_CONFIG, device, numThreads, model: directory },
        baseline: { ...config, ...NO_QUANTIZATION },
        directory,
        textFile: qualityText,
        windowLen,
        stride: windowLen,
        maxNumWindows: flags.qualityMaxWindows ?? null,
      },
      { signal, onWindow: progressBar('evaluating', (count) => `${formatCount(count)} windows`) },
    );
    await writeQualityCard(directory, card);
    console.log(describe(card));
    if (maxPerplexityDelta !== undefined && card.baseline!.perplexityDelta > maxPerplexityDelta)
      throw refused('max-perplexity-delta', `${describe(card)}; nothing was written`);
  };
}

function describe({ perplexity, baseline, text }: QualityCard): string {
  const { perplexity: before, perplexityDelta, recipe } = baseline!;
  const percent = (100 * perplexityDelta).toFixed(3);
  return `perplexity ${perplexity.toFixed(4)} over ${text.name}, ${percent} % above ${before.toFixed(4)} in ${recipe}`;
}

function refused(flag: string, message: string): NeedletailError {
  return new NeedletailError('invalid_request', `--${flag}: ${message}`, { param: flag });
}
