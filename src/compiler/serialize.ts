// Plans as JSON text and back. The header is judged before anything else is read.
import { NeedletailError } from '../util/errors.ts';
import { checkPlan } from './check-plan.ts';
import { planHeaderSchema, planSchema } from './plan-schema.ts';
import { PLAN_FORMAT_VERSION, type Plan, type PlanHeader, type Target } from './plan.ts';

/** What a stored plan must have been made for; what is left out is not compared. */
export interface PlanExpectation {
  readonly target?: Target;
  /** As `recipeName` gives it. */
  readonly recipe?: string;
  readonly checkpointHash?: string | null;
}

/** JSON with one line per weight, buffer and launch, so that two plans can be compared with a line diff. */
export function serializePlan(plan: Plan): string {
  const { header, ...rest } = plan;
  const entries = Object.entries({ header, ...rest });
  const lines = entries.map(([key, value]) => `${JSON.stringify(key)}: ${serializeValue(value)}`);
  return `{\n${lines.join(',\n')}\n}\n`;
}

function serializeValue(value: unknown): string {
  if (!Array.isArray(value)) return JSON.stringify(value);
  return `[\n${value.map((item) => ` ${JSON.stringify(item)}`).join(',\n')}\n]`;
}

/** Throws `bad_plan` naming both values and how to rebuild, if the plan is damaged or was made for something else. */
export function parsePlan(text: string, expected: PlanExpectation = {}): Plan {
  const stored = parseJson(text);
  checkHeader(stored, expected);
  const result = planSchema.safeParse(stored);
  if (!result.success) {
    const [issue] = result.error.issues;
    const place = issue.path.length === 0 ? '' : ` at ${issue.path.join('.')}`;
    throw badPlan(`the plan is damaged${place}: ${issue.message}`, expected);
  }
  const problem = checkPlan(result.data);
  if (problem !== null) throw badPlan(`the plan is damaged: ${problem}`, expected);
  return result.data;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw badPlan(`the plan is not JSON (${reason})`, {});
  }
}

function checkHeader(stored: unknown, expected: PlanExpectation): void {
  const version = (stored as { header?: Partial<PlanHeader> } | null)?.header?.formatVersion;
  if (version !== PLAN_FORMAT_VERSION) {
    const found = version === undefined ? 'no format version' : `format version ${String(version)}`;
    throw badPlan(`the plan has ${found}; this needletail reads version ${PLAN_FORMAT_VERSION}`, expected);
  }
  const result = planHeaderSchema.safeParse((stored as { header: unknown }).header);
  if (!result.success)
    throw badPlan(`the plan's header is damaged: ${result.error.issues[0].message}`, expected);
  const header = result.data;
  compare('target', nameOf(header.target), expected.target && nameOf(expected.target), expected);
  compare('recipe', header.recipe, expected.recipe, expected);
  compare('checkpoint hash', header.checkpointHash, expected.checkpointHash, expected);
}

function nameOf({ kind, arch }: Target): string {
  return `${kind} ${arch}`;
}

function compare(
  what: string,
  found: string | null,
  wanted: string | null | undefined,
  expected: PlanExpectation,
): void {
  if (wanted === undefined || wanted === found) return;
  const [a, b] = [found, wanted].map((value) => value ?? 'none');
  throw badPlan(`the plan was built for ${what} ${a}, but ${b} is asked for`, expected);
}

function badPlan(problem: string, { recipe }: PlanExpectation): NeedletailError {
  const dtype = recipe === undefined ? '' : ` --dtype ${recipe.split(',')[0]}`;
  return new NeedletailError(
    'bad_plan',
    `${problem}. Rebuild it: needletail build MODEL${dtype} --output DIR`,
  );
}
