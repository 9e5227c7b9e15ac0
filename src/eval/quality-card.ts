// What an evaluation found, as it is printed, written as JSON and kept beside a plan.
import { createHash } from 'node:crypto';
import path from 'node:path';
import type { QualityCard } from '../compiler/quality-card.ts';
import { VERSION } from '../util/version.ts';
import type { PerplexityResult } from './perplexity.ts';

export interface EvaluationFacts {
  readonly textFile: string;
  readonly textBytes: Uint8Array;
  readonly windowLen: number;
  readonly stride: number;
  /** As plans name them. */
  readonly recipe: string;
  readonly baselineRecipe: string | null;
}

export function qualityCard(result: PerplexityResult, facts: EvaluationFacts, date: Date): QualityCard {
  const { textFile, textBytes, windowLen, stride, recipe, baselineRecipe } = facts;
  const { numTokens, perplexity, baseline } = result;
  return {
    date: date.toISOString(),
    writtenBy: VERSION,
    text: { name: path.basename(textFile), sha256: createHash('sha256').update(textBytes).digest('hex') },
    windowLen,
    stride,
    numTokens,
    recipe,
    perplexity,
    baseline: baseline && { recipe: baselineRecipe!, ...baseline },
  };
}
