// The Jinja interpreter with a budget: a template that loops or grows without end fails instead of stalling the server.
import { Interpreter, type JinjaEnvironment, type JinjaNode, type JinjaValue } from './jinja.ts';

/** About half a second of work. A published template needs some 60 steps per message: thousands of messages fit. */
const MAX_STEPS = 250_000;
export const MAX_TEXT_LENGTH = 16 * 2 ** 20;
const MAX_LIST_LENGTH = 2 ** 20;
/** The library makes a scope and a `loop` object for each iteration. */
const STEPS_PER_ITERATION = 10;
/** Whoever uses a value may read all of it, so it counts by its size: characters and elements that make a step. */
const CHARACTERS_PER_STEP = 1024;
const ELEMENTS_PER_STEP = 64;

export class BudgetError extends Error {}

/**
 * Counts in `evaluate`, through which every node goes. Loops without a body evaluate nothing, so the values that are
 * looped over are charged for each element.
 */
export class BoundedInterpreter extends Interpreter {
  #numSteps = 0;
  readonly #loopedOver = new Set<JinjaNode | undefined>();

  override evaluate(node: JinjaNode | undefined, environment: JinjaEnvironment): JinjaValue {
    if (node?.type === 'For') this.#loopedOver.add(iterableOf(node));
    this.#charge(1);
    const result = super.evaluate(node, environment);
    const { value } = result;
    if (typeof value === 'string') this.#chargeText(value);
    else if (Array.isArray(value)) this.#chargeList(value.length, node);
    else if (value instanceof Map) this.#chargeList(value.size, node);
    return result;
  }

  /** Jinja writes an undefined value as empty text; the library refuses to filter one. */
  override applyFilter(operand: JinjaValue, filter: JinjaNode, environment: JinjaEnvironment): JinjaValue {
    const isText = operand.value === undefined && TEXT_FILTERS.has(filterName(filter));
    return super.applyFilter(isText ? this.#emptyText(environment) : operand, filter, environment);
  }

  #emptyText(environment: JinjaEnvironment): JinjaValue {
    const literal = { type: 'StringLiteral', value: '' };
    return super.evaluate(literal, environment);
  }

  #chargeText(text: string): void {
    if (text.length > MAX_TEXT_LENGTH)
      throw new BudgetError(`a text has more than ${MAX_TEXT_LENGTH} characters`);
    this.#charge(Math.floor(text.length / CHARACTERS_PER_STEP));
  }

  #chargeList(length: number, node: JinjaNode | undefined): void {
    if (length > MAX_LIST_LENGTH) throw new BudgetError(`a list has more than ${MAX_LIST_LENGTH} elements`);
    if (this.#loopedOver.has(node)) this.#charge(length * STEPS_PER_ITERATION);
    this.#charge(node?.type === 'FilterExpression' ? length : Math.floor(length / ELEMENTS_PER_STEP));
  }

  #charge(numSteps: number): void {
    this.#numSteps += numSteps;
    if (this.#numSteps > MAX_STEPS) throw new BudgetError(`it takes more than ${MAX_STEPS} steps`);
  }
}

/** `{% for x in xs if test %}` holds `xs` one level deeper. */
function iterableOf(loop: JinjaNode): JinjaNode | undefined {
  const { iterable } = loop as unknown as { iterable: JinjaNode & { lhs?: JinjaNode } };
  return iterable.type === 'SelectExpression' ? iterable.lhs : iterable;
}

const TEXT_FILTERS: ReadonlySet<string> = new Set([
  'trim',
  'upper',
  'lower',
  'title',
  'capitalize',
  'string',
  'indent',
  'replace',
  'length',
]);

/** `trim`, or `trim(…)`. */
function filterName(filter: JinjaNode): string {
  const { value, callee } = filter as JinjaNode & { value?: string; callee?: { value?: string } };
  return value ?? callee?.value ?? '';
}
