// The Jinja interpreter with a budget: a template that loops or grows without end fails instead of stalling the server.
import { Interpreter, type JinjaEnvironment, type JinjaNode, type JinjaValue } from './jinja.ts';

/**
 * Evaluated nodes, loop iterations and blocks of values: some 0.5 s at most. A published template needs about 60 per
 * message.
 */
export const MAX_STEPS = 1_000_000;
/** Characters of a string, elements of a list. */
export const MAX_VALUE_LENGTH = 16 * 2 ** 20;
/** A value counts one step for so many characters or elements, since filters and tests read all of it. */
const LENGTH_PER_STEP = 1024;

export class BudgetError extends Error {}

/**
 * Counts in `evaluate`, through which every node goes. Loops without a body evaluate nothing, so the values that are
 * looped over are charged by their elements.
 */
export class BoundedInterpreter extends Interpreter {
  #numSteps = 0;
  readonly #loopedOver = new Set<JinjaNode | undefined>();

  override evaluate(node: JinjaNode | undefined, environment: JinjaEnvironment): JinjaValue {
    if (node?.type === 'For') this.#loopedOver.add(iterableOf(node));
    this.#charge(1);
    const value = super.evaluate(node, environment);
    this.#chargeValue(value, this.#loopedOver.has(node));
    return value;
  }

  #chargeValue({ value }: JinjaValue, isLoopedOver: boolean): void {
    const length = lengthOf(value);
    if (length > MAX_VALUE_LENGTH)
      throw new BudgetError(`a value has more than ${MAX_VALUE_LENGTH} elements`);
    this.#charge(isLoopedOver ? length : Math.floor(length / LENGTH_PER_STEP));
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

function lengthOf(value: unknown): number {
  if (typeof value === 'string' || Array.isArray(value)) return value.length;
  return value instanceof Map ? value.size : 0;
}
