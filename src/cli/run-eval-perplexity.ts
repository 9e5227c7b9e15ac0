// What `needletail eval perplexity` does: have a model read a text, and print how well it predicts it.
import { formatStamp, formatTable, stampRun, writeRecord } from '../bench/report.ts';
import { readPlanDirectory } from '../compiler/plan-directory.ts';
import { writeQualityCard, type QualityCard } from '../compiler/quality-card.ts';
import type { EngineConfig } from '../engine/config.ts';
import { fitToPlan } from '../engine/plan-limits.ts';
import { findSubject } from '../engine/subject.ts';
import { evaluateModel } from '../eval/evaluate-model.ts';
import { NO_QUANTIZATION } from '../tensor/precision.ts';
import { NeedletailError } from '../util/errors.ts';
import { formatCount } from '../util/format-bytes.ts';
import { engineConfig, type EngineFlags } from './flags.ts';
import { interruption } from './interruption.ts';
import { DEFAULT_WINDOW_LEN } from './plan-quality.ts';
import { progressBar } from './progress.ts';

export interface EvalPerplexityFlags extends EngineFlags {
  readonly text: string;
  readonly window?: number;
  readonly stride?: number;
  readonly maxWindows?: number;
  readonly baseline: 'auto' | 'bfloat16' | 'float16' | 'float32' | 'none';
  readonly baselineModel?: string;
  readonly saveCard?: boolean;
  readonly outputJson?: string;
}

export async function runEvalPerplexity(name: string, flags: EvalPerplexityFlags): Promise<void> {
  const config = engineConfig(name, flags);
  if (config.loadFormat === 'dummy')
    throw refused('load-format', 'random weights have no quality to measure');
  const { directory, maxModelLen, isPlan } = await describeModel(config);
  if (flags.saveCard && !isPlan) throw refused('save-card', 'only a plan directory keeps a quality card');
  const windowLen = flags.window ?? Math.min(maxModelLen, DEFAULT_WINDOW_LEN);
  if (windowLen > maxModelLen)
    throw refused('window', `${windowLen} is more than the context of ${maxModelLen} tokens`);
  const card = await evaluateModel(
    {
      model: config,
      baseline: baselineOf(config, flags, isPlan),
      directory,
      textFile: flags.text,
      windowLen,
      stride: flags.stride ?? windowLen,
      maxNumWindows: flags.maxWindows ?? null,
    },
    {
      onProgress: progressBar('loading'),
      onWindow: progressBar('reading', (count) => `${formatCount(count)} windows`),
      signal: interruption('interrupted; nothing was written'),
    },
  );
  report(card, flags);
  if (flags.saveCard) await writeQualityCard(directory, card);
}

/** Where the tokenizer lies, and how long a window can be: as the model allows, or as `config` does. */
async function describeModel(
  config: EngineConfig,
): Promise<{ directory: string; maxModelLen: number; isPlan: boolean }> {
  const subject = await findSubject(config);
  if (subject.kind === 'plan') {
    const { plan, weights } = await readPlanDirectory(subject.directory);
    weights.close();
    return { directory: subject.directory, maxModelLen: fitToPlan(config, plan).maxModelLen, isPlan: true };
  }
  if (subject.checkpoint === null) throw subject.whyNone!;
  const { definition, config: hfConfig } = subject.model;
  const maxModelLen = config.maxModelLen ?? definition.facts(hfConfig).maxPositions;
  return { directory: subject.checkpoint.directory, maxModelLen, isPlan: false };
}

/** By itself there is a baseline where smaller numbers than the model's own are asked for. */
function baselineOf(
  config: EngineConfig,
  { baseline, baselineModel }: EvalPerplexityFlags,
  isPlan: boolean,
): EngineConfig | null {
  if (baseline === 'none') {
    if (baselineModel !== undefined) throw refused('baseline', 'none leaves --baseline-model without use');
    return null;
  }
  const isSmaller = config.quantization !== null || config.kvCacheDType !== 'auto';
  if (baseline === 'auto' && baselineModel === undefined && !isSmaller) return null;
  if (isPlan && baselineModel === undefined)
    throw refused('baseline-model', 'a plan has one precision; name the checkpoint with --baseline-model');
  return { ...config, ...NO_QUANTIZATION, model: baselineModel ?? config.model, dtype: baseline };
}

function report(card: QualityCard, { outputJson }: EvalPerplexityFlags): void {
  const stamp = stampRun();
  const { recipe, perplexity, numTokens, windowLen, text, baseline } = card;
  const percent = (share: number) => `${(100 * share).toFixed(3)} %`;
  const rows = [['recipe', 'perplexity', 'delta', 'KL divergence', 'top-1 agreement']];
  if (baseline) rows.push([baseline.recipe, baseline.perplexity.toFixed(4), '-', '-', '-']);
  const compared = baseline
    ? [
        percent(baseline.perplexityDelta),
        baseline.meanKlDivergence.toExponential(3),
        percent(baseline.top1Agreement),
      ]
    : ['-', '-', '-'];
  rows.push([recipe, perplexity.toFixed(4), ...compared]);
  console.log(formatStamp(stamp));
  console.log(`text     ${text.name}, ${formatCount(numTokens)} tokens in windows of ${windowLen}\n`);
  console.log(formatTable(rows));
  if (outputJson !== undefined) writeRecord(outputJson, { ...stamp, ...card });
}

function refused(flag: string, message: string): NeedletailError {
  return new NeedletailError('invalid_request', `--${flag}: ${message}`, { param: flag });
}
