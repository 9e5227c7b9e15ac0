// quality.json of a plan directory: what the plan's precision costs in quality, as measured with the same build.
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { NeedletailError } from '../util/errors.ts';
import { readJsonFile } from '../util/json-file.ts';

const QUALITY_FILE = 'quality.json';
const MAX_QUALITY_BYTES = 2 ** 20;

const schema = z.strictObject({
  /** ISO 8601. */
  date: z.string(),
  /** needletail's version. */
  writtenBy: z.string(),
  text: z.strictObject({ name: z.string(), sha256: z.string() }),
  /** Tokens of a window, and from one window's start to the next. */
  windowLen: z.number(),
  stride: z.number(),
  numTokens: z.number(),
  recipe: z.string(),
  perplexity: z.number(),
  /** The same model in another precision over the same text; null if none was measured. */
  baseline: z
    .strictObject({
      recipe: z.string(),
      perplexity: z.number(),
      /** 0.01: the plan's perplexity is one percent above the baseline's. */
      perplexityDelta: z.number(),
      /** In nats per token. */
      meanKlDivergence: z.number(),
      /** Share of tokens for which both think the same most likely. */
      top1Agreement: z.number(),
    })
    .nullable(),
});

export type QualityCard = z.infer<typeof schema>;

export async function writeQualityCard(planDirectory: string, card: QualityCard): Promise<void> {
  await writeFile(path.join(planDirectory, QUALITY_FILE), `${JSON.stringify(card, null, 2)}\n`);
}

/** Null where there is none. Throws `bad_plan` for a file that is no quality card. */
export async function readQualityCard(planDirectory: string): Promise<QualityCard | null> {
  const file = path.join(planDirectory, QUALITY_FILE);
  const stored = await readJsonFile(file, { code: 'bad_plan', maxBytes: MAX_QUALITY_BYTES });
  if (stored === null) return null;
  const result = schema.safeParse(stored);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new NeedletailError(
    'bad_plan',
    `${file} is damaged at ${issue.path.join('.')}: ${issue.message}; remove it, or evaluate the plan again`,
  );
}
