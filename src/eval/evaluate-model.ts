// From settings to a quality card: loads the model, and its baseline beside it, and has both read the text.
import type { QualityCard } from '../compiler/quality-card.ts';
import type { EngineConfig } from '../engine/config.ts';
import { loadExecutable, type LoadedModel, type LoadHooks } from '../engine/load-engine.ts';
import { evaluatePerplexity } from './perplexity.ts';
import { qualityCard } from './quality-card.ts';
import { readEvaluationText } from './read-text.ts';
import { tokenWindows } from './token-windows.ts';

export interface EvaluationRequest {
  readonly model: EngineConfig;
  /** The same model in another precision; null: none. */
  readonly baseline: EngineConfig | null;
  /** Folder of the tokenizer. */
  readonly directory: string;
  readonly textFile: string;
  readonly windowLen: number;
  readonly stride: number;
  /** Only the text's first windows; null: all. */
  readonly maxNumWindows: number | null;
}

export interface EvaluationHooks extends Pick<LoadHooks, 'onProgress' | 'signal'> {
  /** Called with windows done and in all. */
  readonly onWindow?: (done: number, total: number) => void;
}

/** Throws a `NeedletailError` for a model that does not load, or a text or windows that do not suit it. */
export async function evaluateModel(
  request: EvaluationRequest,
  hooks: EvaluationHooks = {},
): Promise<QualityCard> {
  const { directory, textFile, windowLen, stride } = request;
  const text = await readEvaluationText(textFile, directory);
  const { tokenIds, bosTokenId } = text;
  const windows = tokenWindows(tokenIds, { windowLen, stride, bosTokenId });
  const model = await load(request.model, windowLen, hooks);
  const baseline = request.baseline && (await load(request.baseline, windowLen, hooks).catch(closing(model)));
  try {
    const result = await evaluatePerplexity(
      model.executable,
      baseline?.executable ?? null,
      windows.slice(0, request.maxNumWindows ?? windows.length),
      {
        ...(hooks.onWindow && { onProgress: hooks.onWindow }),
        ...(hooks.signal && { signal: hooks.signal }),
      },
    );
    const recipes = {
      recipe: model.plan.header.recipe,
      baselineRecipe: baseline?.plan.header.recipe ?? null,
    };
    return qualityCard(
      result,
      { textFile, textBytes: text.bytes, windowLen, stride, ...recipes },
      new Date(),
    );
  } finally {
    await baseline?.close();
    await model.close();
  }
}

/** One sequence as long as a window: its cache takes no more than that. */
function load(config: EngineConfig, windowLen: number, hooks: EvaluationHooks): Promise<LoadedModel> {
  return loadExecutable({ ...config, maxNumSeqs: 1, maxModelLen: windowLen }, hooks);
}

function closing(model: LoadedModel) {
  return async (error: unknown): Promise<never> => {
    await model.close();
    throw error;
  };
}
